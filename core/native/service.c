/* service.c: the services in C. */
#include "service.h"

#include "internal.h"

static void echo_received(struct connection *connection, struct buffer *buffer) { connection_queue_buffer(connection, buffer); }

static void discard_received(struct connection *connection, struct buffer *buffer) {
    (void)connection;
    buffer_free(buffer);
}

/* Each message goes to all other connections of the listener that were there when it came. Those that are too slow for it are
 * ended, since a stream with a hole is worth nothing. When too many messages wait to be sent on, the sender waits. */
static void relay_received(struct connection *connection, struct buffer *buffer) {
    struct iocpd_engine *engine = connection->worker->engine;
    struct payload *payload = payload_new(buffer->bytes);
    if (payload) memcpy(payload->data, buffer->memory, buffer->bytes);
    buffer_free(buffer);
    iocpd_filter same_listener = {.fields = IOCPD_BY_LISTENER, .listener = connection->listener};
    if (!payload || !fanout_start(engine, &same_listener, connection_token(connection), payload, NULL)) {
        if (payload) payload_drop(payload);
        connection_terminate(connection, IOCPD_OUT_OF_MEMORY, true);
        return;
    }
    if (u64_load(&engine->relay_waiting) >= engine->config.relay_capacity) connection_relay_pause(connection);
}

static const struct service services[] = {
    [IOCPD_ECHO] = {.name = "echo", .received = echo_received},
    [IOCPD_DISCARD] = {.name = "discard", .received = discard_received},
    [IOCPD_RELAY] = {.name = "relay", .received = relay_received},
};

const struct service *service_by_number(enum iocpd_service number) {
    ASSERT((size_t)number < sizeof services / sizeof *services);
    return &services[number];
}
