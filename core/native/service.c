/* service.c: the services in C. */
#include "service.h"

#include "internal.h"

static void echo_received(struct connection *connection, struct buffer *buffer) { connection_queue_buffer(connection, buffer); }

static void discard_received(struct connection *connection, struct buffer *buffer) {
    (void)connection;
    buffer_free(buffer);
}

/* Those that are too slow for it are ended, since a stream with a hole is worth nothing. When too many messages wait to be sent
 * on, the sender waits. */
static void relay(struct connection *connection, struct buffer *buffer, const iocpd_filter *filter) {
    struct iocpd_engine *engine = connection->worker->engine;
    struct payload *payload = payload_new(buffer->bytes);
    uint64_t sender = connection_token(connection);
    if (payload) memcpy(payload->data, buffer->memory, buffer->bytes);
    buffer_free(buffer);
    iocpd_broadcast_config to = {.filter = filter, .exclude = &sender, .exclude_count = 1, .disconnect_slow = 1};
    if (!payload || !fanout_start(engine, &to, payload, NULL)) {
        if (payload) payload_drop(payload);
        connection_terminate(connection, IOCPD_OUT_OF_MEMORY, true);
        return;
    }
    if (u64_load(&engine->relay_waiting) >= engine->config.relay_capacity) connection_relay_pause(connection);
}

/* Each message goes to all other connections of the listener that were there when it came. */
static void relay_received(struct connection *connection, struct buffer *buffer) {
    iocpd_filter same_listener = {.fields = IOCPD_BY_LISTENER, .listener = connection->listener};
    relay(connection, buffer, &same_listener);
}

/* The same, but only to those that share a group with the sender. Without a group it goes to nobody. */
static void relay_group_received(struct connection *connection, struct buffer *buffer) {
    const struct labels *labels = connection->labels;
    if (!labels || labels->group_bytes == 0) {
        buffer_free(buffer);
        return;
    }
    iocpd_filter same_group = {.fields = IOCPD_BY_LISTENER | IOCPD_BY_ANY_LABEL,
                               .listener = connection->listener,
                               .labels = labels->data,
                               .label_bytes = labels->group_bytes};
    relay(connection, buffer, &same_group);
}

static const struct service services[] = {
    [IOCPD_ECHO] = {.name = "echo", .received = echo_received},
    [IOCPD_DISCARD] = {.name = "discard", .received = discard_received},
    [IOCPD_RELAY] = {.name = "relay", .received = relay_received},
    [IOCPD_RELAY_GROUP] = {.name = "relay_group", .received = relay_group_received},
};

const struct service *service_by_number(enum iocpd_service number) {
    ASSERT((size_t)number < sizeof services / sizeof *services);
    return &services[number];
}
