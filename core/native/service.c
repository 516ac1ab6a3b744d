/* service.c: the services in C, and what frames are cut for. */
#include "service.h"

#include "internal.h"

void frames_copy(const struct frames *frames, uint8_t *out) {
    if (frames->rest_bytes) memcpy(out, frames->rest, frames->rest_bytes);
    memcpy(out + frames->rest_bytes, frames->data, frames->bytes);
}

/* NULL without memory: the connection is ended. */
static struct payload *payload_of(struct connection *connection, const struct frames *frames) {
    struct payload *payload = payload_new(frames->rest_bytes + frames->bytes);
    if (payload) {
        frames_copy(frames, payload->data);
        payload->messages = frames->count;
    } else {
        connection_terminate(connection, IOCPD_OUT_OF_MEMORY, true);
    }
    return payload;
}

static void echo_received(struct connection *connection, struct buffer *buffer) { connection_queue_buffer(connection, buffer); }

static void echo_whole(struct connection *connection, const struct frames *frames) {
    struct payload *payload = payload_of(connection, frames);
    if (payload) connection_answer(connection, payload, false);
}

static void discard_received(struct connection *connection, struct buffer *buffer) {
    (void)connection;
    buffer_free(buffer);
}

static void discard_whole(struct connection *connection, const struct frames *frames) {
    (void)connection;
    (void)frames;
}

/* Those that are too slow for it are ended, since a stream with a hole is worth nothing. When too many messages wait to be sent
 * on, the sender waits. */
static void relay(struct connection *connection, const struct frames *frames, const iocpd_filter *filter) {
    struct iocpd_engine *engine = connection->worker->engine;
    struct payload *payload = payload_of(connection, frames);
    if (!payload) return;
    uint64_t sender = connection_token(connection);
    iocpd_broadcast_config to = {.filter = filter, .exclude = &sender, .exclude_count = 1, .disconnect_slow = 1};
    if (!fanout_start(engine, &to, payload, NULL)) {
        payload_drop(payload);
        connection_terminate(connection, IOCPD_OUT_OF_MEMORY, true);
        return;
    }
    if (u64_load(&engine->relay_waiting) >= engine->config.relay_capacity) connection_relay_pause(connection);
}

/* Each message goes to all other connections of the listener that were there when it came. */
static void relay_whole(struct connection *connection, const struct frames *frames) {
    iocpd_filter same_listener = {.fields = IOCPD_BY_LISTENER, .listener = connection->listener};
    relay(connection, frames, &same_listener);
}

/* The same, but only to those that share a group with the sender. Without a group it goes to nobody. */
static void relay_group_whole(struct connection *connection, const struct frames *frames) {
    const struct labels *labels = connection->labels;
    if (!labels || labels->group_bytes == 0) return;
    iocpd_filter same_group = {.fields = IOCPD_BY_LISTENER | IOCPD_BY_ANY_LABEL,
                               .listener = connection->listener,
                               .labels = labels->data,
                               .label_bytes = labels->group_bytes};
    relay(connection, frames, &same_group);
}

/* Without framing, what a receive brings is a message. */
static void unframed_received(struct connection *connection, struct buffer *buffer) {
    struct frames frames = {.data = buffer->memory, .bytes = buffer->bytes, .count = 1};
    connection->worker->engine->listeners[connection->listener].whole(connection, &frames);
    buffer_free(buffer);
}

static void framed_received(struct connection *connection, struct buffer *buffer) {
    struct worker *worker = connection->worker;
    const struct listener *listener = &worker->engine->listeners[connection->listener];
    const iocpd_framing *framing = &listener->config.framing;
    const struct frame_rest *rest = connection->rest;
    struct frame_cut cut = framing_cut(framing, rest, buffer->memory, buffer->bytes);
    if (cut.count) {
        struct frames frames = {.data = buffer->memory, .bytes = cut.bytes, .count = cut.count};
        if (rest) {
            frames.rest = rest->data;
            frames.rest_bytes = rest->bytes;
        }
        u64_bump(&connection->messages_in, cut.count);
        u64_bump(&worker->messages_in, cut.count);
        listener->whole(connection, &frames);
        framing_drop(&connection->rest);
    }
    uint32_t left = buffer->bytes - cut.bytes;
    if (cut.too_large) {
        u64_bump(&worker->discarded_bytes, left + framing_drop(&connection->rest));
        /* Who has sent it gets what is queued, for as long as a slow consumer would. */
        connection_drain(connection, IOCPD_FRAME_TOO_LARGE, NULL,
                         worker->now_ns + (int64_t)u32_load(&worker->engine->config.send_soft_ms) * 1000000);
    } else if (!framing_keep(framing, &connection->rest, buffer->memory + cut.bytes, left)) {
        connection_terminate(connection, IOCPD_OUT_OF_MEMORY, true);
    }
    buffer_free(buffer);
}

static const struct service services[] = {
    [IOCPD_ECHO] = {.name = "echo", .received = echo_received, .whole = echo_whole},
    [IOCPD_DISCARD] = {.name = "discard", .received = discard_received, .whole = discard_whole},
    [IOCPD_RELAY] = {.name = "relay", .received = unframed_received, .whole = relay_whole},
    [IOCPD_RELAY_GROUP] = {.name = "relay_group", .received = unframed_received, .whole = relay_group_whole},
    [IOCPD_PYTHON] = {.name = "python", .received = unframed_received, .whole = python_whole},
};

void service_choose(struct listener *listener) {
    ASSERT((size_t)listener->config.service < sizeof services / sizeof *services);
    const struct service *service = &services[listener->config.service];
    bool framed = listener->config.framing.kind != IOCPD_RAW;
    listener->received = framed ? framed_received : service->received;
    listener->messages_per_receive = framed ? 0 : 1;
    listener->whole = service->whole;
    listener->service_name = listener->config.service == IOCPD_PYTHON ? listener->config.name : service->name;
}
