/* rig.c: see rig.h. */
#include "rig.h"

#ifndef _WIN32
#include <dirent.h>
#include <sys/ioctl.h>
#endif

/* ---- the rig ---------------------------------------------------------------------------------------------------- */

void rig_open(struct rig *rig, const struct port_driver *driver, const struct rig_options *options) {
    memset(rig, 0, sizeof *rig);
    rig->driver = driver;
    rig->capacity = PORT_EVENTS_MAX;
    uint32_t buffer_bytes = options && options->buffer_bytes ? options->buffer_bytes : 4096;
    uint32_t buffer_limit = options && options->buffer_limit ? options->buffer_limit : 2048;
    CHECK(buffer_pool_init(&rig->pool, buffer_bytes, buffer_limit) == 0);
    struct port_options port_options = {.pool = &rig->pool};
    const char *step = "";
    int error = driver->open(&rig->port, &port_options, &step);
    if (error) FAIL("open: %s: error %d", step, error);
    CHECK(rig->port->driver == driver);
    for (int i = 0; i < RIG_LISTENERS_MAX; i++) rig->listeners[i].handle = SOCKET_NONE;
}

void rig_listen(struct rig *rig, int which, int family, bool dual_stack) {
    static const struct platform_address v4 = {.ip = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1}};
    static const struct platform_address v6 = {.ip = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}};
    static const struct platform_address any = {.port = 0};
    struct port_listener *listener = &rig->listeners[which];
    struct sockaddr_storage at;
    socklen_t at_bytes = sizeof at;
    const char *step = "";
    const struct platform_address *address = dual_stack ? &any : family == 4 ? &v4 : &v6;
    int error = platform_socket_listen(&listener->handle, address, family, 0, dual_stack, 1024, &step);
    if (error && family == 6) SKIP("no IPv6 here: %s: error %d", step, error);
    if (error) FAIL("listen: %s: error %d", step, error);
    listener->family = family == 4 ? AF_INET : AF_INET6;
    CHECK(getsockname(listener->handle, (struct sockaddr *)&at, &at_bytes) == 0);
    platform_address_from(&rig->at[which], (const struct sockaddr *)&at);
}

void rig_accept(struct rig *rig, int which) {
    uint32_t pending = rig->port->pending;
    int error = rig->driver->accept(rig->port, &rig->listeners[which]);
    if (error) FAIL("accept: error %d", error);
    rig->accepting[which] = true;
    rig->outstanding++;
    CHECK(rig->listeners[which].accept.outstanding && rig->port->pending == pending + 1);
}

void rig_accept_cancel(struct rig *rig, int which) { rig->driver->accept_cancel(rig->port, &rig->listeners[which]); }

struct connection *rig_attach(struct rig *rig, const struct accepted *accepted) {
    struct connection *connection = memory_new(sizeof *connection);
    CHECK(connection != NULL);
    connection->socket.handle = accepted->handle;
    int error = rig->driver->attach(rig->port, &connection->socket);
    if (error) FAIL("attach: error %d", error);
    connection->next = rig->connections;
    rig->connections = connection;
    return connection;
}

struct connection *rig_connect(struct rig *rig, socket_t *client) {
    if (rig->listeners[0].handle == SOCKET_NONE) rig_listen(rig, 0, 4, false);
    if (!rig->accepting[0]) rig_accept(rig, 0);
    CHECK(rig->accepted_taken == rig->accepted_count);
    rig->accepted_taken = rig->accepted_count = 0;
    *client = client_open(&rig->at[0], 4);
    UNTIL(rig, rig->accepted_count == 1);
    rig->accepted_taken = 1;
    CHECK(rig->accepted[0].peer.port == client_port(*client));
    return rig_attach(rig, &rig->accepted[0]);
}

void rig_release(struct rig *rig, struct connection *connection) {
    CHECK(!connection->receiving && !connection->sending);
    rig->driver->release(rig->port, &connection->socket);
    struct connection **link = &rig->connections;
    while (*link != connection) link = &(*link)->next;
    *link = connection->next;
    rig_free_held(connection, connection->held_count);
    free(connection->bytes);
    memory_free(connection);
}

void rig_end(struct rig *rig) {
    for (int i = 0; i < RIG_LISTENERS_MAX; i++)
        if (rig->accepting[i]) rig_accept_cancel(rig, i);
    for (struct connection *connection = rig->connections; connection; connection = connection->next) {
        connection->send_endlessly = false;
        connection->unsent_bytes = 0;
        if (connection->receiving) rig->driver->receive_cancel(rig->port, &connection->socket);
        if (connection->sending) rig->driver->send_cancel(rig->port, &connection->socket);
    }
    UNTIL(rig, rig->outstanding == 0);
    while (rig->connections) rig_release(rig, rig->connections);
    for (; rig->accepted_taken < rig->accepted_count; rig->accepted_taken++)
        platform_socket_close(rig->accepted[rig->accepted_taken].handle);
    for (int i = 0; i < RIG_LISTENERS_MAX; i++)
        if (rig->listeners[i].handle != SOCKET_NONE) platform_socket_close(rig->listeners[i].handle);
    CHECK(rig->port->pending == 0);
    rig_turn(rig, 0);
}

void rig_close_port(struct rig *rig) {
    rig->driver->close(rig->port);
    CHECK(rig->pool.free_count == rig->pool.count);
    buffer_pool_destroy(&rig->pool);
}

void rig_close(struct rig *rig) {
    rig_end(rig);
    rig_close_port(rig);
}

/* ---- events, held against the books ----------------------------------------------------------------------------- */

static void on_accepted(struct rig *rig, const struct port_event *event) {
    int which = event->listener == &rig->listeners[0] ? 0 : 1;
    CHECK(event->listener == &rig->listeners[which] && rig->accepting[which]);
    if (event->final) {
        CHECK(event->accepted == SOCKET_NONE && event->error != PORT_OK);
        CHECK(!event->listener->accept.outstanding);
        rig->accepting[which] = false;
        rig->accept_finals[which]++;
        rig->outstanding--;
    } else if (event->accepted == SOCKET_NONE) {
        CHECK(event->error != PORT_OK);
        rig->accept_failures++;
    } else {
        CHECK(event->error == PORT_OK);
        CHECK(rig->accepted_count < RIG_ACCEPTED_MAX);
        rig->accepted[rig->accepted_count++] =
            (struct accepted){.handle = event->accepted, .listener = event->listener, .peer = event->peer, .local = event->local};
    }
}

static void keep_bytes(struct connection *connection, const struct buffer *buffer) {
    if (connection->byte_count + buffer->bytes > connection->byte_room) {
        connection->byte_room = 2 * (connection->byte_count + buffer->bytes);
        connection->bytes = realloc(connection->bytes, connection->byte_room);
        CHECK(connection->bytes != NULL);
    }
    memcpy(connection->bytes + connection->byte_count, buffer->memory, buffer->bytes);
}

static void on_received(struct rig *rig, const struct port_event *event) {
    struct connection *connection = (struct connection *)event->socket;
    struct buffer *buffer = event->buffer;
    CHECK(connection->receiving);
    if (buffer) {
        CHECK(event->error == PORT_OK && !event->final);
        CHECK(buffer->bytes >= 1 && buffer->bytes <= rig->pool.buffer_bytes && buffer->pool == &rig->pool);
        CHECK(event->bytes == buffer->bytes);
        if (!connection->discard) keep_bytes(connection, buffer);
        connection->byte_count += buffer->bytes;
        if (connection->hold) {
            buffer->outgoing.next = connection->held;
            connection->held = &buffer->outgoing;
            connection->held_count++;
        } else {
            buffer_free(buffer);
        }
        return;
    }
    CHECK(event->final && !connection->socket.receive.outstanding);
    connection->receiving = false;
    connection->receive_finals++;
    connection->receive_error = event->error;
    connection->end_of_file = event->error == PORT_OK;
    rig->outstanding--;
}

static void on_sent(struct rig *rig, const struct port_event *event) {
    struct connection *connection = (struct connection *)event->socket;
    CHECK(connection->sending && event->final && !connection->socket.send.outstanding);
    CHECK(event->bytes <= connection->submitted_bytes);
    CHECK(event->bytes > 0 || event->error != PORT_OK);
    connection->sending = false;
    connection->send_finals++;
    connection->send_error = event->error;
    connection->sent_bytes += event->bytes;
    rig->outstanding--;
    if (event->error != PORT_OK) return;
    if (connection->send_endlessly) {
        rig_send(rig, connection, connection->unsent, connection->submitted_bytes);
    } else if (connection->unsent_bytes > 0) {
        connection->unsent += event->bytes;
        connection->unsent_bytes -= event->bytes;
        if (connection->unsent_bytes > 0) rig_send(rig, connection, connection->unsent, connection->unsent_bytes);
    }
}

uint32_t rig_turn(struct rig *rig, int64_t timeout_ns) {
    uint32_t count = rig->driver->wait(rig->port, rig->events, rig->capacity, timeout_ns);
    rig->turns++;
    CHECK(count <= rig->capacity);
    for (uint32_t i = 0; i < count; i++) {
        const struct port_event *event = &rig->events[i];
        switch (event->kind) {
        case PORT_ACCEPTED: on_accepted(rig, event); break;
        case PORT_RECEIVED: on_received(rig, event); break;
        case PORT_SENT: on_sent(rig, event); break;
        case PORT_WOKEN: rig->woken++; break;
        case PORT_EXIT: rig->exits++; break;
        }
    }
    CHECK(rig->port->pending == rig->outstanding);
    return count;
}

void rig_quiet(struct rig *rig, int64_t timeout_ns) {
    int64_t until_ns = platform_monotonic_ns() + timeout_ns;
    for (int64_t now_ns; (now_ns = platform_monotonic_ns()) < until_ns;)
        if (rig_turn(rig, until_ns - now_ns) > 0) FAIL("an event of kind %d came out of nothing", (int)rig->events[0].kind);
}

/* ---- submits ---------------------------------------------------------------------------------------------------- */

void rig_receive(struct rig *rig, struct connection *connection) {
    CHECK(!connection->receiving);
    uint32_t pending = rig->port->pending;
    int error = rig->driver->receive(rig->port, &connection->socket);
    if (error) FAIL("receive: error %d", error);
    connection->receiving = true;
    rig->outstanding++;
    CHECK(connection->socket.receive.outstanding && rig->port->pending == pending + 1);
}

void rig_receive_cancel(struct rig *rig, struct connection *connection) {
    uint32_t pending = rig->port->pending;
    rig->driver->receive_cancel(rig->port, &connection->socket);
    CHECK(rig->port->pending == pending); /* the final event is still to come */
}

static int submit_send(struct rig *rig, struct connection *connection, size_t bytes) {
    CHECK(!connection->sending);
    uint32_t pending = rig->port->pending;
    connection->submitted_bytes = bytes;
    int error = rig->driver->send(rig->port, &connection->socket);
    if (!error) {
        connection->sending = true;
        rig->outstanding++;
    }
    CHECK(connection->socket.send.outstanding == !error && rig->port->pending == pending + !error);
    return error;
}

int rig_try_send(struct rig *rig, struct connection *connection, const void *data, size_t bytes) {
    CHECK(!connection->sending);
    port_slice_set(&connection->socket.slice, data, bytes);
    connection->socket.slices = &connection->socket.slice;
    connection->socket.slice_count = 1;
    return submit_send(rig, connection, bytes);
}

void rig_send(struct rig *rig, struct connection *connection, const void *data, size_t bytes) {
    int error = rig_try_send(rig, connection, data, bytes);
    if (error) FAIL("send: error %d", error);
}

void rig_send_whole(struct rig *rig, struct connection *connection, const void *data, size_t bytes) {
    connection->unsent = data;
    connection->unsent_bytes = bytes;
    rig_send(rig, connection, data, bytes);
}

void rig_send_gather(struct rig *rig, struct connection *connection, uint32_t slice_count) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < slice_count; i++)
#ifdef _WIN32
        bytes += connection->gather.slices[i].len;
#else
        bytes += connection->gather.slices[i].iov_len;
#endif
    connection->socket.slices = connection->gather.slices;
    connection->socket.slice_count = slice_count;
    int error = submit_send(rig, connection, bytes);
    if (error) FAIL("send: error %d", error);
}

void rig_send_cancel(struct rig *rig, struct connection *connection) {
    uint32_t pending = rig->port->pending;
    rig->driver->send_cancel(rig->port, &connection->socket);
    CHECK(rig->port->pending == pending);
}

void rig_send_until_blocked(struct rig *rig, struct connection *connection, const uint8_t *data, size_t bytes) {
    size_t sent = 0;
    for (int quiet = 0; quiet < 5;) { /* an event may still be on its way: 5 x 20 ms without one */
        if (!connection->sending) {
            sent = (size_t)connection->sent_bytes;
            CHECK(sent < bytes);
            rig_send(rig, connection, data + sent, bytes - sent);
        }
        quiet = rig_turn(rig, 20000000) ? 0 : quiet + 1;
    }
    CHECK(connection->sending);
}

void rig_free_held(struct connection *connection, uint32_t count) {
    CHECK(count <= connection->held_count);
    for (; count > 0; count--) {
        struct outgoing *held = connection->held;
        connection->held = held->next;
        connection->held_count--;
        buffer_free(CONTAINER_OF(held, struct buffer, outgoing));
    }
}

bool received_is(const struct connection *connection, const void *data, size_t bytes) {
    return connection->byte_count == bytes && (bytes == 0 || memcmp(connection->bytes, data, bytes) == 0);
}

uint32_t handles_open(void) {
    uint32_t count = 0;
#ifdef _WIN32
    DWORD handles = 0;
    if (GetProcessHandleCount(GetCurrentProcess(), &handles)) count = handles;
#else
    DIR *directory = opendir("/proc/self/fd");
    while (directory && readdir(directory)) count++;
    if (directory) closedir(directory);
#endif
    return count;
}

/* ---- bytes whose place can be told ------------------------------------------------------------------------------ */

uint8_t pattern_at(uint32_t seed, size_t offset) {
    uint32_t mixed = ((uint32_t)offset + seed * 977u) * 2654435761u;
    return (uint8_t)(mixed >> 24 ^ mixed >> 9);
}

uint8_t *pattern_new(uint32_t seed, size_t bytes) {
    uint8_t *data = malloc(bytes);
    CHECK(data != NULL);
    for (size_t i = 0; i < bytes; i++) data[i] = pattern_at(seed, i);
    return data;
}

bool pattern_is(uint32_t seed, size_t offset, const uint8_t *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (data[i] != pattern_at(seed, offset + i)) return false;
    return true;
}

/* ---- clients ---------------------------------------------------------------------------------------------------- */

/* A socket with a time limit isn't restarted when the kernel interrupts it, which io_uring does for its own ends. */
#ifdef _WIN32
enum { SEND_FLAGS = 0 };
static bool interrupted(void) { return false; }
#else
enum { SEND_FLAGS = MSG_NOSIGNAL };
static bool interrupted(void) { return errno == EINTR; }
#endif

socket_t client_open(const struct platform_address *to, int family) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(to->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(to->port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socket_t client = socket(family == 4 ? AF_INET : AF_INET6, SOCK_STREAM, IPPROTO_TCP);
    CHECK(client != SOCKET_NONE);
    int failed =
        family == 4 ? connect(client, (struct sockaddr *)&v4, sizeof v4) : connect(client, (struct sockaddr *)&v6, sizeof v6);
    if (failed) FAIL("connect: error %d", platform_last_error());
#ifdef _WIN32
    DWORD limit = (DWORD)(LIMIT_NS / 1000000);
#else
    struct timeval limit = {.tv_sec = LIMIT_NS / SECOND_NS};
#endif
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, (const char *)&limit, sizeof limit);
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, (const char *)&limit, sizeof limit);
    platform_socket_no_delay(client);
    return client;
}

bool client_try_send(socket_t client, const uint8_t *data, size_t bytes) {
    while (bytes > 0) {
        int sent;
        do sent = (int)send(client, (const char *)data, (int)bytes, SEND_FLAGS);
        while (sent < 0 && interrupted());
        if (sent <= 0) return false;
        data += sent;
        bytes -= (size_t)sent;
    }
    return true;
}

void client_send(socket_t client, const void *data, size_t bytes) {
    if (!client_try_send(client, data, bytes)) FAIL("client's send: error %d", platform_last_error());
}

int client_take(socket_t client, void *data, size_t bytes) {
    int taken;
    do taken = (int)recv(client, data, (int)bytes, 0);
    while (taken < 0 && interrupted());
    return taken;
}

void client_expect(socket_t client, const void *data, size_t bytes) {
    uint8_t got[4096];
    const uint8_t *want = data;
    while (bytes > 0) {
        int taken = client_take(client, got, bytes < sizeof got ? bytes : sizeof got);
        if (taken <= 0) FAIL("client's recv gave %d, error %d", taken, platform_last_error());
        CHECK(memcmp(got, want, (size_t)taken) == 0);
        want += taken;
        bytes -= (size_t)taken;
    }
}

void client_expect_end(socket_t client) {
    char byte;
    int taken = client_take(client, &byte, 1);
    if (taken != 0) FAIL("client's recv gave %d, not the end of file", taken);
}

size_t client_waiting(socket_t client) {
#ifdef _WIN32
    u_long waiting = 0;
    CHECK(ioctlsocket(client, FIONREAD, &waiting) == 0);
#else
    int waiting = 0;
    CHECK(ioctl(client, FIONREAD, &waiting) == 0);
#endif
    return (size_t)waiting;
}

void client_shutdown(socket_t client) { CHECK(platform_socket_shutdown_send(client) == 0); }

void client_reset(socket_t client) {
    platform_socket_reset_on_close(client);
    platform_socket_close(client);
}

void client_close(socket_t client) { platform_socket_close(client); }

uint16_t client_port(socket_t client) {
    struct platform_address peer, local;
    CHECK(platform_socket_addresses(client, &peer, &local) == 0);
    return local.port;
}

static void read_stream(void *argument) {
    struct stream *stream = argument;
    static const size_t room = 65536;
    uint8_t *data = malloc(room);
    int taken;
    stream->whole = true;
    while ((taken = client_take(stream->client, data, room)) > 0) {
        if (!pattern_is(stream->seed, stream->bytes, data, (size_t)taken)) stream->whole = false;
        stream->bytes += (size_t)taken;
    }
    stream->by_error = taken < 0;
    free(data);
    u32_store_release(&stream->ended, 1);
}

static void write_stream(void *argument) {
    struct stream *stream = argument;
    uint8_t data[10007]; /* not in step with any buffer */
    size_t done = 0;
    while (done < stream->bytes && !u32_load_acquire(&stream->stop)) {
        size_t bytes = stream->bytes - done < sizeof data ? stream->bytes - done : sizeof data;
        for (size_t i = 0; i < bytes; i++) data[i] = pattern_at(stream->seed, done + i);
        if (!client_try_send(stream->client, data, bytes)) {
            stream->by_error = true;
            break;
        }
        done += bytes;
    }
    stream->whole = done == stream->bytes;
    u32_store_release(&stream->ended, 1);
}

static void stream_start(struct stream *stream, socket_t client, uint32_t seed, size_t bytes, void (*run)(void *)) {
    memset(stream, 0, sizeof *stream);
    stream->client = client;
    stream->seed = seed;
    stream->bytes = bytes;
    CHECK(platform_thread_start(&stream->thread, run, stream, "client") == 0);
}

void stream_read(struct stream *stream, socket_t client, uint32_t seed) { stream_start(stream, client, seed, 0, read_stream); }

void stream_write(struct stream *stream, socket_t client, uint32_t seed, size_t bytes) {
    stream_start(stream, client, seed, bytes, write_stream);
}

void stream_join(struct stream *stream) { platform_thread_join(stream->thread); }
