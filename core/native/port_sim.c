/* port_sim.c: a completion port made of nothing, for the simulation in tests/simulation.
 *
 * Sockets, their bytes and their errors are tables in memory; what a kernel would decide by chance is decided by the seed.
 * It promises what port.h says and no more: whatever a real kernel may do to the engine, this one does sooner or later.
 *
 *  - A send is taken at once or later, whole or in part. Its memory is looked at when it begins and when it ends: it must be
 *    the same. Then the list of its slices is poisoned, since it is the engine's again and nobody may read it.
 *  - The port_operation of whatever it has is marked when it begins, looked at and poisoned when it ends.
 *  - A receive delivers what the client wrote in pieces of any size, and stays armed.
 *  - Every call that can fail and every operation that can end with an error does so with any of the drivers' catalogues, that of
 *    a cancel that nobody asked for among them. What a send says to have sent before its error has gone out.
 *  - What is ready is told of in any order, but not put off for ever: after FAIR_TURNS it comes before what is newer.
 *  - A cancel asks. What was asked may still deliver bytes, or have been through already; it ends in SIM_NEVER_LATER_NS.
 *  - Handles are numbers that are never given twice, so closing one twice, or using one that is closed, is seen at once.
 *
 * In the product's build this file is empty: only -DIOCPD_SIM, which no package sets, gives it a content.
 */
#include "port.h"

#ifdef IOCPD_SIM

#include "port_linux.h"
#include "port_sim.h"

#include <stdio.h>

enum {
    LOOK_NS = 500,    /* what a wait takes that need not wait */
    FAIR_TURNS = 4,   /* that the kernel may put off what is ready */
    SERVED_TURNS = 8, /* within so many the engine has taken it, and a few more when receive buffers are few */
};

struct sim_port {
    struct port base;
    struct sim_port *next;
    bool woken, asleep;
    uint32_t exits;
    int64_t wake_ns, exits_ns; /* when a late wake is there, and a late exit */
    int64_t until_ns;          /* it waits so long */
    int64_t returned_ns;
};

static struct sim_port *ports;

static struct sim_port *sim_port(const struct port *port) { return (struct sim_port *)(uintptr_t)port; }

/* Some of each kind that a driver tells apart. */
int32_t sim_error(void) {
    static const int32_t errors[] = {ECONNRESET, ECONNABORTED, EPIPE,  ETIMEDOUT, EHOSTUNREACH, ENETUNREACH,
                                     ENOBUFS,    ENOMEM,       EMFILE, ENFILE,    ENOSPC,       EIO,
                                     EBADMSG,    EINVAL,       EPERM,  EPROTO,    ECANCELED};
    return errors[sim_random(sizeof errors / sizeof *errors)];
}

/* One operation ends with any error. The connection breaks with it, or is whole and the next operation finds nothing wrong. */
static int32_t operation_error(struct sim_stream *stream) {
    int32_t error = sim_error();
    if (error != ECANCELED && sim_random(2)) sim_network_breaks(stream, error);
    return error;
}

void sim_ports_reset(void) { ports = NULL; }

/* ---- life of a port --------------------------------------------------------------------------------------------------------- */

static int sim_port_probe(const char **step) {
    *step = "the simulated kernel";
    return sim_fault(FAULT_START, 50) ? sim_error() : 0;
}

static int sim_port_open(struct port **out, const struct port_options *options, const char **step) {
    *step = "memory";
    struct sim_port *port = memory_new(sizeof *port);
    if (!port) return ENOMEM;
    *step = "the simulated kernel";
    if (sim_fault(FAULT_START, 20)) {
        memory_free(port);
        return sim_error();
    }
    port->base.driver = &port_sim;
    port->base.owner = platform_thread_id();
    port->base.pool = options->pool;
    port->next = ports;
    ports = port;
    *out = &port->base;
    return 0;
}

static void sim_port_close(struct port *base) {
    struct sim_port *port = sim_port(base), **at = &ports;
    ASSERT(base->pending == 0);
    while (*at != port) at = &(*at)->next;
    *at = port->next;
    memory_free(port);
}

static int sim_port_attach(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct sim_stream *stream = sim_open_stream(socket->handle, "attach");
    if (stream->socket) sim_fail("connection %u is attached twice", stream->number);
    stream->socket = socket;
    stream->port = sim_port(base);
    oracle_attached(stream);
    return sim_fault(FAULT_SUBMIT, 60) ? oracle_not_begun(stream, sim_error()) : 0;
}

static void sim_port_release(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct sim_stream *stream = sim_open_stream(socket->handle, "release");
    ASSERT(stream->socket == socket && stream->port == sim_port(base));
    oracle_released(stream);
    sim_stream_close(stream);
    stream->socket = NULL;
    stream->port = NULL;
    socket->handle = SOCKET_NONE;
}

/* ---- the memory of an operation: the kernel's from the submit to the final event, and then nobody's ------------------------------------ */

static struct port_operation *const KERNELS = (struct port_operation *)(uintptr_t)0xcccccccccccccccc;

static void operation_begin(struct port *base, struct port_operation *operation, uint8_t kind) {
    port_begin(base, operation);
    operation->next = KERNELS;
    operation->kind = operation->state = operation->flags = kind;
    operation->bytes = kind;
    operation->os_error = kind;
}

static void operation_end(struct port *base, struct port_operation *operation, uint8_t kind) {
    bool whole = operation->next == KERNELS && operation->kind == kind && operation->state == kind && operation->flags == kind &&
                 operation->bytes == kind && operation->os_error == kind;
    if (!whole) sim_fail("the memory of an operation of kind %u has changed while the kernel had it", kind);
    memset(operation, 0xee, offsetof(struct port_operation, outstanding));
    port_end(base, operation);
}

/* ---- submits and cancels ---------------------------------------------------------------------------------------------------------- */

/* 0, or why the operation is not begun. */
static int32_t refused(struct sim_stream *stream) {
    return sim_fault(FAULT_SUBMIT, 200) ? oracle_not_begun(stream, sim_error()) : 0;
}

static int sim_port_accept(struct port *base, struct port_listener *listener) {
    port_assert_owner(base);
    struct sim_listener *kernel = sim_listener_of(listener->handle);
    if (!kernel || !kernel->open) sim_fail("an accept on handle %d, which does not listen", (int)listener->handle);
    if (sim_fault(FAULT_SUBMIT, 20)) {
        oracle_accept_not_begun(kernel->number);
        return sim_error();
    }
    operation_begin(base, &listener->accept, OPERATION_ACCEPT);
    kernel->listener = listener;
    kernel->port = sim_port(base);
    kernel->cancelled = false;
    kernel->retry_ns = 0;
    return 0;
}

static void sim_port_accept_cancel(struct port *base, struct port_listener *listener) {
    port_assert_owner(base);
    struct sim_listener *kernel = sim_listener_of(listener->handle);
    if (!kernel || !kernel->open) sim_fail("the cancel of an accept on handle %d, which does not listen", (int)listener->handle);
    if (!listener->accept.outstanding) return;
    kernel->cancelled = true;
    kernel->retry_ns = sim_later();
}

static int sim_port_receive(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct sim_stream *stream = sim_open_stream(socket->handle, "receive");
    int32_t error = refused(stream);
    if (error) return error;
    operation_begin(base, &socket->receive, OPERATION_RECEIVE);
    stream->receive.cancelled = false;
    stream->receive.due_ns = sim_later();
    stream->receive.turns = 0;
    return 0;
}

static void sim_port_receive_cancel(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct sim_stream *stream = sim_open_stream(socket->handle, "receive_cancel");
    if (!socket->receive.outstanding || stream->receive.cancelled) return;
    stream->receive.cancelled = true;
    stream->receive.due_ns = sim_later();
    stream->receive.turns = 0;
}

/* A number that changes when one of the slices does, or a byte that they point to. */
static uint64_t print_of(const struct port_socket *socket) {
    uint64_t print = 14695981039346656037u ^ socket->slice_count; /* FNV-1a, in words where it can */
    for (uint32_t i = 0; i < socket->slice_count; i++) {
        const uint8_t *data = socket->slices[i].iov_base;
        size_t bytes = socket->slices[i].iov_len, at = 0;
        print = (print ^ (uint64_t)(uintptr_t)data ^ (uint64_t)bytes << 48) * 1099511628211u;
        for (uint64_t word; at + 8 <= bytes; at += 8) {
            memcpy(&word, data + at, 8);
            print = (print ^ word ^ word >> 29) * 1099511628211u;
        }
        for (; at < bytes; at++) print = (print ^ data[at]) * 1099511628211u;
    }
    return print;
}

static uint32_t slices_bytes(const struct port_socket *socket) {
    uint32_t bytes = 0;
    for (uint32_t i = 0; i < socket->slice_count; i++) bytes += (uint32_t)socket->slices[i].iov_len;
    return bytes;
}

static void send_take(struct sim_stream *stream, uint32_t bytes) {
    const struct port_socket *socket = stream->socket;
    stream->in_window += bytes;
    for (uint32_t i = 0, left = bytes; left > 0; i++) {
        uint32_t share = socket->slices[i].iov_len < left ? (uint32_t)socket->slices[i].iov_len : left;
        oracle_sent(stream, socket->slices[i].iov_base, share);
        left -= share;
    }
    stream->send.bytes = bytes;
    client_told(stream);
}

static void send_finish(struct sim_stream *stream, int32_t os_error) {
    stream->send.done = true;
    stream->send.os_error = os_error;
}

/* Goes on with the send if it can; true when it is done. */
static bool send_step(struct sim_stream *stream) {
    if (stream->send.done) return true;
    if (print_of(stream->socket) != stream->send.print)
        sim_fail("connection %u: the memory of its send has changed while the kernel had it", stream->number);
    int32_t error = sim_stream_error(stream);
    uint32_t bytes = slices_bytes(stream->socket), room = stream->window - stream->in_window;
    bool unasked = !error && sim_fault(FAULT_ERRORS, 150);
    if (bytes > room) bytes = room;
    if (bytes > 1 && sim_fault(FAULT_SHORT, 3)) bytes = 1 + (uint32_t)sim_random(bytes);
    if (unasked && bytes && sim_random(2)) send_take(stream, bytes); /* a part may have gone out before it */
    if (unasked) error = operation_error(stream);
    if (error) {
        oracle_error(stream, error);
        send_finish(stream, error);
        return true;
    }
    if (stream->send.cancelled) {
        bool loses = bytes && sim_fault(FAULT_CANCEL, 2);
        if (loses) send_take(stream, bytes);
        send_finish(stream, loses && sim_random(2) ? 0 : ECANCELED); /* a part may have gone out before it won */
        return true;
    }
    if (bytes == 0) return false; /* the client must read first */
    send_take(stream, bytes);
    send_finish(stream, 0);
    return true;
}

static int sim_port_send(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct sim_stream *stream = sim_open_stream(socket->handle, "send");
    if (stream->server_ended) sim_fail("connection %u: a send behind the end of the stream", stream->number);
    if (socket->slice_count == 0 || socket->slice_count > PORT_SLICES_MAX || slices_bytes(socket) == 0)
        sim_fail("connection %u: a send of %u slices, %u bytes", stream->number, socket->slice_count, slices_bytes(socket));
    int32_t error = refused(stream);
    if (error) return error;
    operation_begin(base, &socket->send, OPERATION_SEND);
    stream->send.done = stream->send.cancelled = false;
    stream->send.bytes = stream->send.turns = 0;
    stream->send.print = print_of(socket);
    stream->send.due_ns = sim_later();
    if (sim_random(2)) send_step(stream); /* taken at once; it is told with the next wait */
    return 0;
}

static void sim_port_send_cancel(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct sim_stream *stream = sim_open_stream(socket->handle, "send_cancel");
    if (!socket->send.outstanding || stream->send.cancelled) return;
    stream->send.cancelled = true;
    stream->send.due_ns = sim_later();
}

/* ---- events ---------------------------------------------------------------------------------------------------------------------- */

/* Each of these fills one event and says whether there is one. */

static bool receive_event(struct sim_port *port, struct sim_stream *stream, struct port_event *event) {
    struct port_operation *receive = &stream->socket->receive;
    *event = (struct port_event){.kind = PORT_RECEIVED, .socket = stream->socket};
    int32_t error = stream->unread_bytes ? stream->broken : sim_stream_error(stream);
    bool cancelled = stream->receive.cancelled && !sim_fault(FAULT_CANCEL, 3);
    if (!error && !cancelled && sim_fault(FAULT_ERRORS, 300)) error = operation_error(stream);
    if (cancelled) error = ECANCELED;
    else if (error) oracle_error(stream, error);
    if (!error && stream->unread_bytes) {
        bool starves = stream->receive.turns < FAIR_TURNS && sim_fault(FAULT_STARVE, 10);
        struct buffer *buffer = starves ? NULL : buffer_take(port->base.pool);
        if (!buffer) {
            u64_bump(&port->base.counters.starved, 1);
            return false;
        }
        uint32_t most = port->base.pool->buffer_bytes, bytes = stream->unread_bytes < most ? stream->unread_bytes : most;
        uint32_t header = stream->header_bytes < bytes ? stream->header_bytes : bytes;
        if (header && sim_fault(FAULT_SHORT, 3)) bytes = 1 + (uint32_t)sim_random(header);
        else if (stream->whole_messages) bytes -= (bytes - header) % stream->message_bytes;
        else if (bytes > 1 && sim_fault(FAULT_SHORT, 3)) bytes = 1 + (uint32_t)sim_random(bytes);
        if (header > bytes) header = bytes;
        memset(buffer->memory, 0xa5, most);
        memcpy(buffer->memory, stream->unread, bytes);
        stream->unread_bytes -= bytes;
        memmove(stream->unread, stream->unread + bytes, stream->unread_bytes);
        stream->header_bytes -= header;
        stream->taken += bytes - header;
        stream->active_ns = sim_now_ns();
        buffer->bytes = event->bytes = bytes;
        event->buffer = buffer;
        stream->receive.due_ns = sim_later();
        stream->receive.turns = 0;
        oracle_received(stream, bytes - header);
        client_told(stream);
        return true;
    }
    if (!error && !stream->client_ended && !stream->receive.cancelled) return false;
    if (!error && !stream->client_ended) error = ECANCELED;
    event->final = true;
    event->os_error = error;
    event->error = linux_port_error(error);
    operation_end(&port->base, receive, OPERATION_RECEIVE);
    return true;
}

static bool send_event(struct sim_port *port, struct sim_stream *stream, struct port_event *event) {
    struct port_socket *socket = stream->socket;
    if (!send_step(stream)) return false;
    if (print_of(socket) != stream->send.print)
        sim_fail("connection %u: the memory of its send has changed before its final event", stream->number);
    *event = (struct port_event){.kind = PORT_SENT, .final = true, .socket = socket, .bytes = stream->send.bytes};
    event->os_error = stream->send.os_error;
    event->error = linux_port_error(stream->send.os_error);
    oracle_send_ended(stream, stream->send.os_error);
    stream->sent += stream->send.bytes;
    if (stream->send.bytes) stream->active_ns = sim_now_ns();
    memset((void *)(uintptr_t)socket->slices, 0xee, socket->slice_count * sizeof *socket->slices);
    socket->slice_count = UINT32_MAX;
    operation_end(&port->base, &socket->send, OPERATION_SEND);
    return true;
}

static bool accept_event(struct sim_port *port, struct sim_listener *listener, struct port_event *event) {
    struct port_operation *accept = &listener->listener->accept;
    *event = (struct port_event){.kind = PORT_ACCEPTED, .listener = listener->listener, .accepted = SOCKET_NONE};
    listener->turns = 0;
    bool unasked = !listener->cancelled && sim_fault(FAULT_HANDLES, 400);
    if (unasked || (listener->cancelled && !(listener->waiting && sim_fault(FAULT_CANCEL, 2)))) {
        event->final = true;
        event->os_error = unasked ? sim_error() : ECANCELED;
        event->error = linux_port_error(event->os_error);
        if (unasked) oracle_accept_error(listener->number, event->os_error);
        listener->listener = NULL;
        operation_end(&port->base, accept, OPERATION_ACCEPT);
        return true;
    }
    if (!listener->waiting) return false;
    bool fails = sim_fault(FAULT_HANDLES, 30), gone = !fails && listener->backlog[0]->client_reset && sim_random(2);
    if (fails || gone) {
        event->os_error = gone ? ECONNABORTED : sim_error();
        event->error = linux_port_error(event->os_error);
        oracle_accept_error(listener->number, event->os_error);
        if (event->error == PORT_NO_RESOURCES) listener->retry_ns = sim_now_ns() + ACCEPT_RETRY_NS;
        else if (gone || sim_random(2)) sim_backlog_lose(listener); /* the call has taken the client off, and he is lost */
        return true;
    }
    struct sim_stream *stream = sim_backlog_take(listener);
    event->accepted = sim_handle_give(stream);
    event->peer = stream->peer;
    event->local = stream->local;
    sim_trace("connection %u: accepted", stream->number);
    oracle_accepted(stream);
    return true;
}

/* Whether an operation could be told of now. */

static bool receive_ready(const struct sim_stream *stream) {
    if (!stream->socket || !stream->socket->receive.outstanding || stream->receive.due_ns > sim_now_ns()) return false;
    return stream->receive.cancelled || stream->unread_bytes || stream->client_ended || sim_stream_error(stream);
}

static bool send_ready(const struct sim_stream *stream) {
    if (!stream->socket || !stream->socket->send.outstanding || stream->send.due_ns > sim_now_ns()) return false;
    return stream->send.done || stream->send.cancelled || sim_stream_error(stream) || stream->in_window < stream->window;
}

static bool accept_ready(const struct sim_listener *listener) {
    return listener->open && listener->listener && listener->retry_ns <= sim_now_ns() &&
           (listener->waiting || listener->cancelled);
}

static bool port_ready(const void *what) {
    const struct sim_port *port = what;
    if ((port->exits && port->exits_ns <= sim_now_ns()) || (port->woken && port->wake_ns <= sim_now_ns())) return true;
    for (uint32_t i = 0; i < sim_listener_count(); i++)
        if (sim_listener_at(i)->port == port && accept_ready(sim_listener_at(i))) return true;
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        const struct sim_stream *stream = sim_stream_at(i);
        if (stream->port != port) continue;
        if (send_ready(stream)) return true;
        if (!receive_ready(stream)) continue;
        if (!stream->unread_bytes || sim_stream_error(stream) || stream->receive.cancelled || buffer_available(port->base.pool))
            return true;
    }
    return false;
}

/* Something is there, or was posted and will be before the wait is over, which is then shorter. */
static bool port_stirs(const void *what) {
    const struct sim_port *port = what;
    return port_ready(port) || (port->woken && port->wake_ns < port->until_ns) ||
           (port->exits && port->exits_ns < port->until_ns);
}

bool sim_busy(void) {
    for (const struct sim_port *port = ports; port; port = port->next)
        if (port_ready(port)) return true;
    return false;
}

int64_t sim_port_returned_ns(const struct port *port) { return sim_port(port)->returned_ns; }
bool sim_port_asleep(const struct port *port) {
    return sim_port(port)->asleep && !sim_port(port)->woken && !sim_port(port)->exits;
}

/* ---- wait ----------------------------------------------------------------------------------------------------------------------------- */

/* What could be told of, each as a number: a stream's receive is even, its send odd; then the listeners. */

enum { CANDIDATES_MAX = 2 * SIM_STREAMS_MAX + SIM_LISTENERS_MAX };

/* How many turns it has been ready. */
static uint32_t *turns_of(uint32_t candidate) {
    if (candidate >= 2 * SIM_STREAMS_MAX) return &sim_listener_at(candidate - 2 * SIM_STREAMS_MAX)->turns;
    struct sim_stream *stream = sim_stream_at(candidate / 2);
    return candidate % 2 ? &stream->send.turns : &stream->receive.turns;
}

static uint32_t all_ready(const struct sim_port *port, uint32_t *out) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        if (sim_stream_at(i)->port != port) continue;
        if (receive_ready(sim_stream_at(i))) out[count++] = 2 * i;
        if (send_ready(sim_stream_at(i))) out[count++] = 2 * i + 1;
    }
    for (uint32_t i = 0; i < sim_listener_count(); i++)
        if (sim_listener_at(i)->port == port && accept_ready(sim_listener_at(i))) out[count++] = 2 * SIM_STREAMS_MAX + i;
    return count;
}

/* In any order, but for those that have been put off for long: the oldest first. */
static uint32_t candidates(const struct sim_port *port, uint32_t *out) {
    uint32_t count = all_ready(port, out), old = 0;
    for (uint32_t i = count; i > 1; i--) {
        uint32_t other = (uint32_t)sim_random(i), kept = out[i - 1];
        out[i - 1] = out[other];
        out[other] = kept;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t candidate = out[i], turns = *turns_of(candidate), at = old;
        if (turns < FAIR_TURNS) continue;
        out[i] = out[old++];
        for (; at > 0 && *turns_of(out[at - 1]) < turns; at--) out[at] = out[at - 1];
        out[at] = candidate;
    }
    return count;
}

/* The wait is over: what is ready now waits a turn more. Who waits for a buffer waits for those before him too, and a quarter of
 * the buffers is never held by who does not read. */
static void turns_check(const struct sim_port *port) {
    uint32_t ready[CANDIDATES_MAX], count = all_ready(port, ready), most = 0;
    for (uint32_t i = 0; i < sim_stream_count(); i++) most += sim_stream_at(i)->port == port;
    most = SERVED_TURNS + most / (port->base.pool->limit / 4 + 1);
    for (uint32_t i = 0; i < count; i++)
        if (++*turns_of(ready[i]) > most)
            oracle_not_served(ready[i] < 2 * SIM_STREAMS_MAX ? sim_stream_at(ready[i] / 2) : NULL, *turns_of(ready[i]));
}

static uint32_t deliver(struct sim_port *port, struct port_event *events, uint32_t capacity) {
    uint32_t ready[CANDIDATES_MAX], count = 0, ready_count = candidates(port, ready);
    sim_still(true); /* buffer_take has atomic operations */
    if (port->woken && port->wake_ns <= sim_now_ns()) {
        port->woken = false;
        events[count++] = (struct port_event){.kind = PORT_WOKEN, .final = true};
    }
    for (; port->exits && port->exits_ns <= sim_now_ns() && count < capacity; port->exits--)
        events[count++] = (struct port_event){.kind = PORT_EXIT, .final = true};
    for (uint32_t i = 0; i < ready_count && count < capacity; i++) {
        bool old = *turns_of(ready[i]) >= FAIR_TURNS;
        if (i > 0 && !old && sim_fault(FAULT_DELAY, 3)) continue; /* not in this batch */
        struct port_event *event = &events[count];
        struct sim_stream *stream = ready[i] < 2 * SIM_STREAMS_MAX ? sim_stream_at(ready[i] / 2) : NULL;
        if (!stream) count += accept_event(port, sim_listener_at(ready[i] - 2 * SIM_STREAMS_MAX), event);
        else count += ready[i] % 2 ? send_event(port, stream, event) : receive_event(port, stream, event);
    }
    sim_still(false);
    return count;
}

/* The next time at which something that is late will be there. */
static int64_t next_due(const struct sim_port *port) {
    int64_t next = INT64_MAX, now = sim_now_ns();
    if (port->woken && port->wake_ns < next) next = port->wake_ns;
    if (port->exits && port->exits_ns < next) next = port->exits_ns;
    for (uint32_t i = 0; i < sim_listener_count(); i++)
        if (sim_listener_at(i)->port == port && sim_listener_at(i)->retry_ns > now && sim_listener_at(i)->retry_ns < next)
            next = sim_listener_at(i)->retry_ns;
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        const struct sim_stream *stream = sim_stream_at(i);
        if (stream->port != port) continue;
        if (stream->socket->receive.outstanding && stream->receive.due_ns > now && stream->receive.due_ns < next)
            next = stream->receive.due_ns;
        if (stream->socket->send.outstanding && stream->send.due_ns > now && stream->send.due_ns < next)
            next = stream->send.due_ns;
    }
    return next;
}

static uint32_t sim_port_wait(struct port *base, struct port_event *events, uint32_t capacity, int64_t timeout_ns) {
    port_assert_owner(base);
    struct sim_port *port = sim_port(base);
    u64_bump(&base->counters.waits, 1);
    oracle_settled(base, timeout_ns);
    int64_t until = timeout_ns < 0 ? INT64_MAX : sim_now_ns() + timeout_ns;
    uint32_t count = deliver(port, events, capacity);
    bool spurious = sim_fault(FAULT_SPURIOUS, 20);
    if (!count && timeout_ns == 0) sim_wait(port_ready, port, sim_now_ns() + LOOK_NS); /* in which others go on */
    while (!count && !spurious && sim_now_ns() < until) {
        int64_t due = next_due(port);
        port->asleep = true;
        port->until_ns = due < until ? due : until;
        sim_wait(port_stirs, port, port->until_ns);
        port->asleep = false;
        count = deliver(port, events, capacity);
    }
    turns_check(port);
    if (sim_fault(FAULT_CLOCK, 200)) sim_clock_jump((int64_t)sim_random(300) * 1000000);
    u64_bump(&base->counters.events, count);
    port->returned_ns = sim_now_ns();
    return count;
}

static void sim_port_post(struct port *base, enum port_post what) {
    struct sim_port *port = sim_port(base);
    u64_bump(&base->counters.wakes, 1);
    int64_t at = sim_now_ns() + (sim_fault(FAULT_LATE_WAKE, 10) ? (int64_t)sim_random(SIM_NEVER_LATER_NS) : 0);
    if (what == POST_EXIT) {
        port->exits++;
        port->exits_ns = at;
        return;
    }
    if (!port->woken || at < port->wake_ns) port->wake_ns = at;
    port->woken = true;
}

const struct port_driver port_sim = {
    .name = "simulation",
    .probe = sim_port_probe,
    .open = sim_port_open,
    .close = sim_port_close,
    .attach = sim_port_attach,
    .release = sim_port_release,
    .accept = sim_port_accept,
    .accept_cancel = sim_port_accept_cancel,
    .receive = sim_port_receive,
    .receive_cancel = sim_port_receive_cancel,
    .send = sim_port_send,
    .send_cancel = sim_port_send_cancel,
    .wait = sim_port_wait,
    .post = sim_port_post,
};

#else
typedef int port_sim_is_for_the_simulation; /* a translation unit must not be empty */
#endif
