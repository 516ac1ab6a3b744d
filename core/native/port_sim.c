/* port_sim.c: a completion port made of nothing, for the simulation in tests/simulation.
 *
 * Sockets, their bytes and their errors are tables in memory; what a kernel would decide by chance is decided by the seed.
 * It promises what port.h says and no more: whatever a real kernel may do to the engine, this one does sooner or later.
 *
 *  - A send is taken at once or later, whole or in part. Its memory is looked at when it begins and when it ends: it must be
 *    the same. Then the list of its slices is poisoned, since it is the engine's again and nobody may read it.
 *  - A receive delivers what the client wrote in pieces of any size, and stays armed.
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
    LISTENERS_MAX = 64, /* ever bound in one seed */
    BACKLOG = 16,
    STREAM_HANDLE = 1000, /* and its number */
    LISTENER_HANDLE = 100,
    PORT_FIRST = 1000, /* the TCP port of listener 0 */
    LOOK_NS = 500,     /* what a wait takes that need not wait */
};

struct sim_listener {
    bool open;
    uint32_t number; /* the engine's */
    struct platform_address at;
    struct sim_port *port;
    struct port_listener *listener; /* accept is outstanding */
    bool cancelled;
    int64_t retry_ns; /* no handle: not before; 0: now */
    struct sim_stream *backlog[BACKLOG];
    uint32_t waiting;
};

struct sim_port {
    struct port base;
    struct sim_port *next;
    bool woken, asleep;
    uint32_t exits;
    int64_t wake_ns; /* when a late wake is there */
    int64_t returned_ns;
};

static struct sim_stream *streams[SIM_STREAMS_MAX];
static struct sim_listener listeners[LISTENERS_MAX];
static uint32_t stream_count, listener_count;
static struct sim_port *ports;
static uint64_t handles_given;

static struct sim_port *sim_port(const struct port *port) { return (struct sim_port *)(uintptr_t)port; }

/* ---- handles ------------------------------------------------------------------------------------------------------------ */

static struct sim_listener *listener_of(socket_t handle) {
    int at = handle - LISTENER_HANDLE;
    return at >= 0 && at < (int)listener_count ? &listeners[at] : NULL;
}

static struct sim_stream *stream_of(socket_t handle) {
    int at = handle - STREAM_HANDLE;
    if (at < 0 || at >= (int)stream_count) sim_fail("a call with handle %d, which nobody has given", handle);
    return streams[at];
}

static struct sim_stream *open_stream(socket_t handle, const char *call) {
    struct sim_stream *stream = stream_of(handle);
    if (stream->state != STREAM_OPEN) sim_fail("%s on connection %u, which is closed", call, stream->number);
    return stream;
}

static socket_t handle_of(const struct sim_stream *stream) { return STREAM_HANDLE + (socket_t)stream->number; }

void sim_kernel_reset(void) {
    stream_count = listener_count = 0;
    memset(listeners, 0, sizeof listeners);
    ports = NULL;
    handles_given = 0;
}

uint32_t sim_handles_open(void) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < listener_count; i++) count += listeners[i].open;
    for (uint32_t i = 0; i < stream_count; i++) count += streams[i]->state == STREAM_OPEN;
    return count;
}

struct sim_stream *sim_stream_at(uint32_t number) { return number < stream_count ? streams[number] : NULL; }
uint32_t sim_stream_count(void) { return stream_count; }
uint64_t sim_handles_given(void) { return handles_given; }

/* When it may go on at the earliest. */
static int64_t later(void) {
    return sim_now_ns() + (sim_fault(FAULT_DELAY, 2) ? (int64_t)sim_random(sim_random(8) ? 200000 : SIM_NEVER_LATER_NS) : 0);
}

/* ---- the clients' ends ---------------------------------------------------------------------------------------------------- */

static struct sim_listener *listening(uint32_t number) {
    for (uint32_t i = 0; i < listener_count; i++)
        if (listeners[i].open && listeners[i].number == number) return &listeners[i];
    return NULL;
}

bool sim_listening(uint32_t number) {
    const struct sim_listener *listener = listening(number);
    return listener && listener->listener;
}

struct sim_stream *sim_connect(uint32_t number, const struct platform_address *peer, void *client) {
    struct sim_listener *listener = listening(number);
    if (!listener || listener->waiting == BACKLOG || stream_count == SIM_STREAMS_MAX) return NULL;
    struct sim_stream *stream = streams[stream_count];
    if (!stream) stream = streams[stream_count] = malloc(sizeof *stream);
    if (!stream) sim_fail("the simulation itself has no memory");
    memset(stream, 0, offsetof(struct sim_stream, unread));
    memset(&stream->unread_bytes, 0, sizeof *stream - offsetof(struct sim_stream, unread_bytes));
    stream->number = stream_count++;
    stream->listener = number;
    stream->peer = *peer;
    stream->local = listener->at;
    stream->client = client;
    stream->state = STREAM_BACKLOG;
    stream->window = 1u << (8 + sim_random(1 + sim_random(9)));
    listener->backlog[listener->waiting++] = stream;
    return stream;
}

uint32_t sim_client_write(struct sim_stream *stream, const uint8_t *data, uint32_t bytes) {
    uint32_t room = SIM_UNREAD_BYTES - stream->unread_bytes;
    if (stream->client_ended || stream->client_reset || stream->broken || stream->state == STREAM_CLOSED) return 0;
    if (bytes > room) bytes = room;
    memcpy(stream->unread + stream->unread_bytes, data, bytes);
    stream->unread_bytes += bytes;
    if (stream->receive.due_ns < sim_now_ns()) stream->receive.due_ns = later();
    return bytes;
}

uint32_t sim_client_read(struct sim_stream *stream, uint32_t most) {
    uint32_t bytes = stream->in_window < most ? stream->in_window : most;
    stream->in_window -= bytes;
    return bytes;
}

void sim_client_end(struct sim_stream *stream) {
    stream->client_ended = true;
    if (stream->receive.due_ns < sim_now_ns()) stream->receive.due_ns = later();
}

/* The server may still find what had come before the reset, or not. */
void sim_client_reset(struct sim_stream *stream) {
    stream->client_reset = true;
    if (sim_random(2)) stream->unread_bytes = 0;
    stream->in_window = 0;
}

static void network_breaks(struct sim_stream *stream, int32_t os_error) {
    stream->broken = os_error;
    stream->unread_bytes = 0;
    sim_trace("connection %u: the network breaks it: %s", stream->number, strerror(os_error));
    client_told(stream);
}

/* What the next operation finds; 0: the connection is whole. */
static int32_t stream_error(const struct sim_stream *stream) {
    return stream->broken ? stream->broken : stream->client_reset ? ECONNRESET : 0;
}

static int32_t any_error(void) {
    static const int32_t errors[] = {ECONNRESET, ECONNABORTED, EPIPE,  ETIMEDOUT, EHOSTUNREACH, ENETUNREACH,
                                     ENOBUFS,    ENOMEM,       ENFILE, EIO,       EBADMSG,      EINVAL};
    return errors[sim_random(sizeof errors / sizeof *errors)];
}

/* ---- life of a port --------------------------------------------------------------------------------------------------------- */

static int sim_port_probe(const char **step) {
    *step = "the simulated kernel";
    return sim_fault(FAULT_START, 50) ? ENOSYS : 0;
}

static int sim_port_open(struct port **out, const struct port_options *options, const char **step) {
    *step = "memory";
    struct sim_port *port = memory_new(sizeof *port);
    if (!port) return ENOMEM;
    *step = "the simulated kernel";
    if (sim_fault(FAULT_START, 20)) {
        memory_free(port);
        return EMFILE;
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
    struct sim_stream *stream = open_stream(socket->handle, "attach");
    if (stream->socket) sim_fail("connection %u is attached twice", stream->number);
    stream->socket = socket;
    stream->port = sim_port(base);
    oracle_attached(stream);
    if (!sim_fault(FAULT_SUBMIT, 60)) return 0;
    oracle_error(stream, ENOMEM);
    return ENOMEM;
}

static void stream_close(struct sim_stream *stream) {
    if (stream->socket && (stream->socket->receive.outstanding || stream->socket->send.outstanding))
        sim_fail("the handle of connection %u is closed while the kernel has an operation of it", stream->number);
    bool reset = stream->reset_on_close || stream->unread_bytes;
    stream->state = STREAM_CLOSED;
    sim_trace("connection %u: closed by the server%s", stream->number, reset ? " with a reset" : "");
    if (reset) stream->server_reset = true, stream->in_window = 0;
    stream->server_ended = true;
    client_told(stream);
}

static void sim_port_release(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct sim_stream *stream = open_stream(socket->handle, "release");
    ASSERT(stream->socket == socket && stream->port == sim_port(base));
    oracle_released(stream);
    stream_close(stream);
    stream->socket = NULL;
    stream->port = NULL;
    socket->handle = SOCKET_NONE;
}

/* ---- submits and cancels ---------------------------------------------------------------------------------------------------------- */

static bool refused(struct sim_stream *stream) {
    if (!sim_fault(FAULT_SUBMIT, 200)) return false;
    if (stream) oracle_error(stream, ENOMEM);
    return true;
}

static int sim_port_accept(struct port *base, struct port_listener *listener) {
    port_assert_owner(base);
    struct sim_listener *kernel = listener_of(listener->handle);
    if (!kernel || !kernel->open) sim_fail("an accept on handle %d, which does not listen", (int)listener->handle);
    if (sim_fault(FAULT_SUBMIT, 20)) return ENOMEM;
    port_begin(base, &listener->accept);
    listener->accept.kind = OPERATION_ACCEPT;
    kernel->listener = listener;
    kernel->port = sim_port(base);
    kernel->cancelled = false;
    kernel->retry_ns = 0;
    return 0;
}

static void sim_port_accept_cancel(struct port *base, struct port_listener *listener) {
    port_assert_owner(base);
    struct sim_listener *kernel = listener_of(listener->handle);
    if (!kernel || !kernel->open) sim_fail("the cancel of an accept on handle %d, which does not listen", (int)listener->handle);
    if (!listener->accept.outstanding) return;
    kernel->cancelled = true;
    kernel->retry_ns = later();
}

static int sim_port_receive(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct sim_stream *stream = open_stream(socket->handle, "receive");
    if (refused(stream)) return ENOMEM;
    port_begin(base, &socket->receive);
    socket->receive.kind = OPERATION_RECEIVE;
    stream->receive.cancelled = false;
    stream->receive.due_ns = later();
    return 0;
}

static void sim_port_receive_cancel(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct sim_stream *stream = open_stream(socket->handle, "receive_cancel");
    if (!socket->receive.outstanding || stream->receive.cancelled) return;
    stream->receive.cancelled = true;
    stream->receive.cancelled_ns = sim_now_ns();
    stream->receive.due_ns = later();
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
    int32_t error = stream_error(stream);
    uint32_t bytes = slices_bytes(stream->socket), room = stream->window - stream->in_window;
    if (!error && sim_fault(FAULT_ERRORS, 150)) network_breaks(stream, error = any_error());
    if (error) {
        oracle_error(stream, error);
        send_finish(stream, error);
        return true;
    }
    if (bytes > room) bytes = room;
    if (bytes > 1 && sim_fault(FAULT_SHORT, 3)) bytes = 1 + (uint32_t)sim_random(bytes);
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
    struct sim_stream *stream = open_stream(socket->handle, "send");
    if (stream->server_ended) sim_fail("connection %u: a send behind the end of the stream", stream->number);
    if (socket->slice_count == 0 || socket->slice_count > PORT_SLICES_MAX || slices_bytes(socket) == 0)
        sim_fail("connection %u: a send of %u slices, %u bytes", stream->number, socket->slice_count, slices_bytes(socket));
    if (refused(stream)) return ENOMEM;
    port_begin(base, &socket->send);
    socket->send.kind = OPERATION_SEND;
    stream->send.done = stream->send.cancelled = false;
    stream->send.bytes = 0;
    stream->send.print = print_of(socket);
    stream->send.due_ns = later();
    if (sim_random(2)) send_step(stream); /* taken at once; it is told with the next wait */
    return 0;
}

static void sim_port_send_cancel(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct sim_stream *stream = open_stream(socket->handle, "send_cancel");
    if (!socket->send.outstanding || stream->send.cancelled) return;
    stream->send.cancelled = true;
    stream->send.cancelled_ns = sim_now_ns();
    stream->send.due_ns = later();
}

/* ---- events ---------------------------------------------------------------------------------------------------------------------- */

/* Each of these fills one event and says whether there is one. */

static bool receive_event(struct sim_port *port, struct sim_stream *stream, struct port_event *event) {
    struct port_operation *receive = &stream->socket->receive;
    *event = (struct port_event){.kind = PORT_RECEIVED, .socket = stream->socket};
    int32_t error = stream->unread_bytes ? stream->broken : stream_error(stream);
    bool cancelled = stream->receive.cancelled && !sim_fault(FAULT_CANCEL, 3);
    if (!error && !cancelled && sim_fault(FAULT_ERRORS, 300)) network_breaks(stream, error = any_error());
    if (cancelled) error = ECANCELED;
    else if (error) oracle_error(stream, error);
    if (!error && stream->unread_bytes) {
        struct buffer *buffer = sim_fault(FAULT_STARVE, 10) ? NULL : buffer_take(port->base.pool);
        if (!buffer) {
            u64_bump(&port->base.counters.starved, 1);
            return false;
        }
        uint32_t most = port->base.pool->buffer_bytes, bytes = stream->unread_bytes < most ? stream->unread_bytes : most;
        if (stream->whole_messages) bytes -= bytes % stream->message_bytes;
        else if (bytes > 1 && sim_fault(FAULT_SHORT, 3)) bytes = 1 + (uint32_t)sim_random(bytes);
        memset(buffer->memory, 0xa5, most);
        memcpy(buffer->memory, stream->unread, bytes);
        stream->unread_bytes -= bytes;
        memmove(stream->unread, stream->unread + bytes, stream->unread_bytes);
        stream->taken += bytes;
        stream->active_ns = sim_now_ns();
        buffer->bytes = event->bytes = bytes;
        event->buffer = buffer;
        stream->receive.due_ns = later();
        client_told(stream);
        return true;
    }
    if (!error && !stream->client_ended && !stream->receive.cancelled) return false;
    if (!error && !stream->client_ended) error = ECANCELED;
    event->final = true;
    event->os_error = error;
    event->error = linux_port_error(error);
    receive->next = (struct port_operation *)(uintptr_t)0xeeeeeeeeeeeeeeee;
    port_end(&port->base, receive);
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
    stream->sent += stream->send.bytes;
    if (stream->send.bytes) stream->active_ns = sim_now_ns();
    memset((void *)(uintptr_t)socket->slices, 0xee, socket->slice_count * sizeof *socket->slices);
    socket->slice_count = UINT32_MAX;
    port_end(&port->base, &socket->send);
    return true;
}

static bool accept_event(struct sim_port *port, struct sim_listener *listener, struct port_event *event) {
    struct port_operation *accept = &listener->listener->accept;
    *event = (struct port_event){.kind = PORT_ACCEPTED, .listener = listener->listener, .accepted = SOCKET_NONE};
    bool unasked = !listener->cancelled && sim_fault(FAULT_HANDLES, 400);
    if (unasked || (listener->cancelled && !(listener->waiting && sim_fault(FAULT_CANCEL, 2)))) {
        event->final = true;
        event->os_error = unasked ? EINVAL : ECANCELED;
        event->error = linux_port_error(event->os_error);
        listener->listener = NULL;
        port_end(&port->base, accept);
        return true;
    }
    if (!listener->waiting) return false;
    if (sim_fault(FAULT_HANDLES, 30)) {
        event->os_error = sim_random(2) ? EMFILE : ENOBUFS;
        event->error = linux_port_error(event->os_error);
        listener->retry_ns = sim_now_ns() + ACCEPT_RETRY_NS;
        return true;
    }
    struct sim_stream *stream = listener->backlog[0];
    listener->waiting--;
    memmove(listener->backlog, listener->backlog + 1, listener->waiting * sizeof stream);
    if (stream->client_reset && sim_random(2)) {
        stream->state = STREAM_CLOSED;
        event->os_error = ECONNABORTED;
        event->error = PORT_RESET;
        return true;
    }
    stream->state = STREAM_OPEN;
    handles_given++;
    event->accepted = handle_of(stream);
    event->peer = stream->peer;
    event->local = stream->local;
    sim_trace("connection %u: accepted", stream->number);
    oracle_accepted(stream);
    return true;
}

/* Whether an operation could be told of now. */

static bool receive_ready(const struct sim_stream *stream) {
    if (!stream->socket || !stream->socket->receive.outstanding || stream->receive.due_ns > sim_now_ns()) return false;
    return stream->receive.cancelled || stream->unread_bytes || stream->client_ended || stream_error(stream);
}

static bool send_ready(const struct sim_stream *stream) {
    if (!stream->socket || !stream->socket->send.outstanding || stream->send.due_ns > sim_now_ns()) return false;
    return stream->send.done || stream->send.cancelled || stream_error(stream) || stream->in_window < stream->window;
}

static bool accept_ready(const struct sim_listener *listener) {
    return listener->open && listener->listener && listener->retry_ns <= sim_now_ns() &&
           (listener->waiting || listener->cancelled);
}

static bool port_ready(const void *what) {
    const struct sim_port *port = what;
    if (port->exits || (port->woken && port->wake_ns <= sim_now_ns())) return true;
    for (uint32_t i = 0; i < listener_count; i++)
        if (listeners[i].port == port && accept_ready(&listeners[i])) return true;
    for (uint32_t i = 0; i < stream_count; i++) {
        const struct sim_stream *stream = streams[i];
        if (stream->port != port) continue;
        if (send_ready(stream)) return true;
        if (!receive_ready(stream)) continue;
        if (!stream->unread_bytes || stream_error(stream) || stream->receive.cancelled || buffer_available(port->base.pool))
            return true;
    }
    return false;
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
static uint32_t candidates(struct sim_port *port, uint32_t *out) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < stream_count; i++) {
        if (streams[i]->port != port) continue;
        if (receive_ready(streams[i])) out[count++] = 2 * i;
        if (send_ready(streams[i])) out[count++] = 2 * i + 1;
    }
    for (uint32_t i = 0; i < listener_count; i++)
        if (listeners[i].port == port && accept_ready(&listeners[i])) out[count++] = 2 * SIM_STREAMS_MAX + i;
    for (uint32_t i = count; i > 1; i--) {
        uint32_t other = (uint32_t)sim_random(i), kept = out[i - 1];
        out[i - 1] = out[other];
        out[other] = kept;
    }
    return count;
}

static uint32_t deliver(struct sim_port *port, struct port_event *events, uint32_t capacity) {
    uint32_t ready[2 * SIM_STREAMS_MAX + LISTENERS_MAX], count = 0, ready_count = candidates(port, ready);
    sim_still(true); /* buffer_take has atomic operations */
    if (port->woken && port->wake_ns <= sim_now_ns()) {
        port->woken = false;
        events[count++] = (struct port_event){.kind = PORT_WOKEN, .final = true};
    }
    for (; port->exits && count < capacity; port->exits--)
        events[count++] = (struct port_event){.kind = PORT_EXIT, .final = true};
    for (uint32_t i = 0; i < ready_count && count < capacity; i++) {
        if (i > 0 && sim_fault(FAULT_DELAY, 3)) continue; /* not in this batch */
        struct port_event *event = &events[count];
        struct sim_stream *stream = ready[i] < 2 * SIM_STREAMS_MAX ? streams[ready[i] / 2] : NULL;
        if (!stream) count += accept_event(port, &listeners[ready[i] - 2 * SIM_STREAMS_MAX], event);
        else count += ready[i] % 2 ? send_event(port, stream, event) : receive_event(port, stream, event);
    }
    sim_still(false);
    return count;
}

/* The next time at which something that is late will be there. */
static int64_t next_due(const struct sim_port *port) {
    int64_t next = INT64_MAX, now = sim_now_ns();
    if (port->woken && port->wake_ns < next) next = port->wake_ns;
    for (uint32_t i = 0; i < listener_count; i++)
        if (listeners[i].port == port && listeners[i].retry_ns > now && listeners[i].retry_ns < next)
            next = listeners[i].retry_ns;
    for (uint32_t i = 0; i < stream_count; i++) {
        const struct sim_stream *stream = streams[i];
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
    oracle_settled(base);
    int64_t until = timeout_ns < 0 ? INT64_MAX : sim_now_ns() + timeout_ns;
    uint32_t count = deliver(port, events, capacity);
    bool spurious = sim_fault(FAULT_SPURIOUS, 20);
    if (!count && timeout_ns == 0) sim_wait(port_ready, port, sim_now_ns() + LOOK_NS); /* in which others go on */
    while (!count && !spurious && sim_now_ns() < until) {
        int64_t due = next_due(port);
        port->asleep = true;
        sim_wait(port_ready, port, due < until ? due : until);
        port->asleep = false;
        count = deliver(port, events, capacity);
    }
    if (sim_fault(FAULT_CLOCK, 200)) sim_clock_jump((int64_t)sim_random(300) * 1000000);
    u64_bump(&base->counters.events, count);
    port->returned_ns = sim_now_ns();
    return count;
}

static void sim_port_post(struct port *base, enum port_post what) {
    struct sim_port *port = sim_port(base);
    u64_bump(&base->counters.wakes, 1);
    if (what == POST_EXIT) {
        port->exits++;
        return;
    }
    int64_t at = sim_now_ns() + (sim_fault(FAULT_LATE_WAKE, 10) ? (int64_t)sim_random(SIM_NEVER_LATER_NS) : 0);
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

/* ---- sockets: their part of platform.h -------------------------------------------------------------------------------------------------- */

int platform_sockets_begin(void) { return sim_fault(FAULT_START, 100) ? EIO : 0; }
void platform_sockets_end(void) {}
int platform_last_error(void) { return EIO; }
int platform_socket_no_delay(socket_t handle) { return handle == SOCKET_NONE ? EBADF : 0; }

void platform_error_text(int error, char *text, size_t bytes) { snprintf(text, bytes, "%s", strerror(error)); }

static void listener_close(struct sim_listener *listener) {
    if (!listener->open) sim_fail("a listener's handle is closed twice");
    if (listener->listener) sim_fail("a listener's handle is closed while the kernel has its accept");
    listener->open = false;
    for (uint32_t i = 0; i < listener->waiting; i++) {
        struct sim_stream *stream = listener->backlog[i];
        stream->state = STREAM_CLOSED;
        stream->server_reset = true;
        client_told(stream);
    }
    listener->waiting = 0;
}

void platform_socket_close(socket_t handle) {
    struct sim_listener *listener = listener_of(handle);
    if (listener) {
        listener_close(listener);
        return;
    }
    struct sim_stream *stream = open_stream(handle, "close");
    if (stream->socket) sim_fail("connection %u: its handle is closed behind the port's back", stream->number);
    oracle_refused(stream);
    stream_close(stream);
}

void platform_socket_reset_on_close(socket_t handle) { open_stream(handle, "reset_on_close")->reset_on_close = true; }

int platform_socket_shutdown_send(socket_t handle) {
    struct sim_stream *stream = open_stream(handle, "shutdown");
    if (stream->socket->send.outstanding) sim_fail("connection %u: a shutdown while a send is outstanding", stream->number);
    int32_t error = stream_error(stream) || sim_fault(FAULT_SYSTEM, 30) ? ENOTCONN : 0;
    if (error && !stream_error(stream)) network_breaks(stream, ECONNRESET);
    if (error) {
        oracle_error(stream, ECONNRESET);
        return error;
    }
    stream->server_ended = true;
    client_told(stream);
    return 0;
}

int64_t platform_socket_rtt_us(socket_t handle) {
    open_stream(handle, "rtt");
    return sim_fault(FAULT_SYSTEM, 5) ? -1 : 1 + (int64_t)sim_random(100000);
}

int platform_socket_listen(socket_t *out, const struct platform_address *at, int family, uint32_t scope_id, bool dual_stack,
                           int backlog, const char **step) {
    (void)family, (void)scope_id, (void)dual_stack, (void)backlog;
    *step = "bind";
    if (listening(at->port - PORT_FIRST)) sim_fail("listener %d is bound twice", at->port - PORT_FIRST);
    if (sim_fault(FAULT_SYSTEM, 10) || listener_count == LISTENERS_MAX) return EADDRINUSE;
    struct sim_listener *listener = &listeners[listener_count];
    *listener = (struct sim_listener){.open = true, .number = at->port - PORT_FIRST, .at = *at};
    *out = LISTENER_HANDLE + (socket_t)listener_count++;
    return 0;
}

int platform_socket_local(socket_t handle, struct platform_address *local) {
    *local = listener_of(handle)->at;
    return 0;
}

#else
typedef int port_sim_is_for_the_simulation; /* a translation unit must not be empty */
#endif
