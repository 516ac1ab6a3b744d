/* sockets.c: the simulated kernel's sockets: their handles, what clients do at the other end, and platform.h's functions of them.
 * What a port does with them is ../../core/native/port_sim.c.
 */
#include "port_sim.h"

#include <stdio.h>

enum {
    STREAM_HANDLE = 1000, /* and its number */
    LISTENER_HANDLE = 100,
    PORT_FIRST = 1000, /* the TCP port of listener 0 */
};

static struct sim_stream *streams[SIM_STREAMS_MAX];
static struct sim_listener listeners[SIM_LISTENERS_MAX];
static uint32_t stream_count, listener_count;
static uint64_t handles_given;

/* ---- handles ------------------------------------------------------------------------------------------------------------ */

struct sim_listener *sim_listener_of(socket_t handle) {
    int at = handle - LISTENER_HANDLE;
    return at >= 0 && at < (int)listener_count ? &listeners[at] : NULL;
}

static struct sim_stream *stream_of(socket_t handle) {
    int at = handle - STREAM_HANDLE;
    if (at < 0 || at >= (int)stream_count) sim_fail("a call with handle %d, which nobody has given", handle);
    return streams[at];
}

struct sim_stream *sim_open_stream(socket_t handle, const char *call) {
    struct sim_stream *stream = stream_of(handle);
    if (stream->state != STREAM_OPEN) sim_fail("%s on connection %u, which is closed", call, stream->number);
    return stream;
}

socket_t sim_handle_give(struct sim_stream *stream) {
    stream->state = STREAM_OPEN;
    handles_given++;
    return STREAM_HANDLE + (socket_t)stream->number;
}

void sim_kernel_reset(void) {
    stream_count = listener_count = 0;
    memset(listeners, 0, sizeof listeners);
    sim_ports_reset();
    handles_given = 0;
}

uint32_t sim_handles_open(void) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < listener_count; i++) count += listeners[i].open;
    for (uint32_t i = 0; i < stream_count; i++) count += streams[i]->state == STREAM_OPEN;
    return count;
}

struct sim_listener *sim_listener_at(uint32_t at) { return &listeners[at]; }
uint32_t sim_listener_count(void) { return listener_count; }
struct sim_stream *sim_stream_at(uint32_t number) { return number < stream_count ? streams[number] : NULL; }
uint32_t sim_stream_count(void) { return stream_count; }
uint64_t sim_handles_given(void) { return handles_given; }

int64_t sim_later(void) {
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
    if (!listener || listener->waiting == SIM_BACKLOG || stream_count == SIM_STREAMS_MAX) return NULL;
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
    if (stream->receive.due_ns < sim_now_ns()) stream->receive.due_ns = sim_later();
    return bytes;
}

uint32_t sim_client_read(struct sim_stream *stream, uint32_t most) {
    uint32_t bytes = stream->in_window < most ? stream->in_window : most;
    stream->in_window -= bytes;
    return bytes;
}

void sim_client_end(struct sim_stream *stream) {
    stream->client_ended = true;
    if (stream->receive.due_ns < sim_now_ns()) stream->receive.due_ns = sim_later();
}

/* The server may still find what had come before the reset, or not. */
void sim_client_reset(struct sim_stream *stream) {
    stream->client_reset = true;
    if (sim_random(2)) stream->unread_bytes = 0;
    stream->in_window = 0;
}

void sim_network_breaks(struct sim_stream *stream, int32_t os_error) {
    stream->broken = os_error;
    stream->unread_bytes = 0;
    sim_trace("connection %u: the network breaks it: %s", stream->number, strerror(os_error));
    client_told(stream);
}

struct sim_stream *sim_backlog_take(struct sim_listener *listener) {
    struct sim_stream *stream = listener->backlog[0];
    listener->waiting--;
    memmove(listener->backlog, listener->backlog + 1, listener->waiting * sizeof stream);
    return stream;
}

void sim_backlog_lose(struct sim_listener *listener) {
    struct sim_stream *stream = sim_backlog_take(listener);
    stream->state = STREAM_CLOSED;
    stream->server_reset = true;
    client_told(stream);
}

int32_t sim_stream_error(const struct sim_stream *stream) {
    return stream->broken ? stream->broken : stream->client_reset ? ECONNRESET : 0;
}

/* ---- ends ---------------------------------------------------------------------------------------------------------------------- */

void sim_stream_close(struct sim_stream *stream) {
    if (stream->socket && (stream->socket->receive.outstanding || stream->socket->send.outstanding))
        sim_fail("the handle of connection %u is closed while the kernel has an operation of it", stream->number);
    bool reset = stream->reset_on_close || stream->unread_bytes;
    stream->state = STREAM_CLOSED;
    sim_trace("connection %u: closed by the server%s", stream->number, reset ? " with a reset" : "");
    if (reset) stream->server_reset = true, stream->in_window = 0;
    stream->server_ended = true;
    client_told(stream);
}

/* ---- their part of platform.h -------------------------------------------------------------------------------------------------- */

int platform_sockets_begin(void) { return sim_fault(FAULT_START, 100) ? sim_error() : 0; }
void platform_sockets_end(void) {}
int platform_last_error(void) { return EIO; }
int platform_socket_no_delay(socket_t handle) { return handle == SOCKET_NONE ? EBADF : 0; }

void platform_error_text(int error, char *text, size_t bytes) { snprintf(text, bytes, "%s", strerror(error)); }

static void listener_close(struct sim_listener *listener) {
    if (!listener->open) sim_fail("a listener's handle is closed twice");
    if (listener->listener) sim_fail("a listener's handle is closed while the kernel has its accept");
    listener->open = false;
    while (listener->waiting) sim_backlog_lose(listener);
}

void platform_socket_close(socket_t handle) {
    struct sim_listener *listener = sim_listener_of(handle);
    if (listener) {
        listener_close(listener);
        return;
    }
    struct sim_stream *stream = sim_open_stream(handle, "close");
    if (stream->socket) sim_fail("connection %u: its handle is closed behind the port's back", stream->number);
    oracle_refused(stream);
    sim_stream_close(stream);
}

void platform_socket_reset_on_close(socket_t handle) {
    struct sim_stream *stream = sim_open_stream(handle, "reset_on_close");
    stream->reset_on_close = true;
    oracle_resets(stream);
}

int platform_socket_shutdown_send(socket_t handle) {
    struct sim_stream *stream = sim_open_stream(handle, "shutdown");
    if (stream->socket->send.outstanding) sim_fail("connection %u: a shutdown while a send is outstanding", stream->number);
    if (sim_stream_error(stream)) return ENOTCONN;
    if (sim_fault(FAULT_SYSTEM, 30)) {
        if (sim_random(2)) sim_network_breaks(stream, ECONNRESET);
        return sim_error();
    }
    stream->server_ended = true;
    client_told(stream);
    return 0;
}

int64_t platform_socket_rtt_us(socket_t handle) {
    sim_open_stream(handle, "rtt");
    return sim_fault(FAULT_SYSTEM, 5) ? -1 : 1 + (int64_t)sim_random(100000);
}

int platform_socket_listen(socket_t *out, const struct platform_address *at, int family, uint32_t scope_id, bool dual_stack,
                           int backlog, const char **step) {
    (void)family, (void)scope_id, (void)dual_stack, (void)backlog;
    static const char *const steps[] = {"socket", "setsockopt", "bind", "listen"};
    *step = steps[2];
    if (listening(at->port - PORT_FIRST)) sim_fail("listener %d is bound twice", at->port - PORT_FIRST);
    if (listener_count == SIM_LISTENERS_MAX) return EADDRINUSE;
    if (sim_fault(FAULT_SYSTEM, 10)) {
        *step = steps[sim_random(4)];
        return sim_random(2) ? EADDRINUSE : sim_error();
    }
    struct sim_listener *listener = &listeners[listener_count];
    *listener = (struct sim_listener){.open = true, .number = at->port - PORT_FIRST, .at = *at};
    *out = LISTENER_HANDLE + (socket_t)listener_count++;
    return 0;
}

int platform_socket_local(socket_t handle, struct platform_address *local) {
    if (sim_fault(FAULT_SYSTEM, 30)) return sim_error();
    *local = sim_listener_of(handle)->at;
    return 0;
}
