/* send_queue.c: see send_queue.h. */
#include "send_queue.h"

#include "internal.h"

enum {
    SEND_BYTES_MAX = 128 * 1024, /* in one send: its completion is what shows that a slow peer is still reading */
    PIECE_OVERHEAD = 64,         /* what a piece costs beside its bytes; counts against the hard limit for what stands before */
    APPEND_MAX = 1024,           /* received pieces up to this size are copied behind what is queued */
};

static const iocpd_config *config_of(const struct connection *connection) { return &connection->worker->engine->config; }

/* ---- in -------------------------------------------------------------------------------------------------------------- */

static void queue_push(struct connection *connection, struct outgoing *piece) {
    piece->next = NULL;
    if (connection->last) connection->last->next = piece;
    else connection->first = piece;
    connection->last = piece;
    connection->pieces++;
}

static void pending_add(struct connection *connection, uint32_t bytes) {
    u64_bump(&connection->pending_bytes, bytes);
    u64_bump(&connection->worker->pending_bytes, bytes);
    if (!connection->over_soft_ns && connection->pending_bytes > u32_load(&config_of(connection)->send_soft_bytes)) {
        connection->over_soft_ns = connection->worker->now_ns;
        connection_over_soft(connection);
    }
}

enum queue_result send_queue_add(struct connection *connection, struct payload *payload, struct iocpd_ticket *ticket,
                                 bool limited) {
    uint64_t after = connection->pending_bytes + payload->bytes + (uint64_t)connection->pieces * PIECE_OVERHEAD;
    if (limited && after > u32_load(&config_of(connection)->send_hard_bytes)) return QUEUE_FULL;
    struct outgoing *piece = memory_new(sizeof *piece);
    if (!piece) return QUEUE_NO_MEMORY;
    payload_hold(payload);
    piece->payload = payload;
    piece->data = payload->data;
    piece->bytes = payload->bytes;
    piece->ticket = ticket;
    if (ticket) {
        ticket_hold(ticket);
        u64_add(&ticket->queued, 1);
    }
    queue_push(connection, piece);
    pending_add(connection, payload->bytes);
    return QUEUED;
}

/* A small piece goes behind the last one, if that is a buffer with room: behind the bytes that a send may just be reading. */
static bool append(struct connection *connection, struct buffer *buffer, uint32_t most) {
    struct outgoing *last = connection->last;
    if (!last || !last->is_buffer || buffer->bytes > most) return false;
    struct buffer *tail = (struct buffer *)last;
    if (tail->bytes + buffer->bytes > tail->pool->buffer_bytes) return false;
    memcpy(tail->memory + tail->bytes, buffer->memory, buffer->bytes);
    tail->bytes += buffer->bytes;
    last->bytes += buffer->bytes;
    return true;
}

void send_queue_add_buffer(struct connection *connection, struct buffer *buffer) {
    struct buffer_pool *pool = buffer->pool;
    uint32_t bytes = buffer->bytes;
    bool scarce = buffers_scarce(&connection->worker->pool);
    struct outgoing *copy = NULL;
    if (append(connection, buffer, scarce ? pool->buffer_bytes : APPEND_MAX)) {
        buffer_free(buffer);
    } else {
        struct payload *payload = scarce ? payload_new(bytes) : NULL;
        if (payload) copy = memory_new(sizeof *copy);
        if (copy) {
            memcpy(payload->data, buffer->memory, bytes);
            copy->payload = payload;
            copy->data = payload->data;
            copy->bytes = bytes;
            buffer_free(buffer);
            queue_push(connection, copy);
        } else {
            if (payload) payload_drop(payload);
            buffer->outgoing.data = buffer->memory;
            buffer->outgoing.bytes = bytes;
            buffer->outgoing.ticket = NULL;
            queue_push(connection, &buffer->outgoing);
        }
    }
    pending_add(connection, bytes);
}

/* ---- out ------------------------------------------------------------------------------------------------------------- */

static void pending_take(struct connection *connection, uint64_t bytes) {
    u64_bump(&connection->pending_bytes, 0 - bytes);
    u64_bump(&connection->worker->pending_bytes, 0 - bytes);
    if (connection->pending_bytes <= u32_load(&config_of(connection)->send_soft_bytes)) connection->over_soft_ns = 0;
}

/* The first piece is done with: `fate` is the ticket's counter of what became of it. */
enum fate { WRITTEN, CLOSED_BEFORE_WRITE, EXPIRED };

static void ticket_tell(struct iocpd_ticket *ticket, enum fate fate) {
    if (fate == WRITTEN) u64_add(&ticket->written, 1);
    else if (fate == EXPIRED) u64_add(&ticket->expired, 1);
    else u64_add(&ticket->closed_before_write, 1);
    ticket_close(ticket);
}

static void queue_pop(struct connection *connection, enum fate fate) {
    struct outgoing *piece = connection->first;
    struct iocpd_ticket *ticket = piece->ticket;
    connection->first = piece->next;
    if (!connection->first) connection->last = NULL;
    connection->pieces--;
    if (fate == WRITTEN) {
        uint32_t messages = piece->is_buffer ? 1 : piece->payload->messages;
        u64_bump(&connection->messages_out, messages);
        u64_bump(&connection->worker->messages_out, messages);
    }
    if (ticket) ticket_tell(ticket, fate);
    if (piece->is_buffer) {
        buffer_free((struct buffer *)piece);
    } else {
        payload_drop(piece->payload);
        memory_free(piece);
    }
}

/* Nothing of the piece has gone out, and its time is over. */
static bool piece_expired(const struct connection *connection, const struct outgoing *piece) {
    const struct payload *payload = piece->is_buffer ? NULL : piece->payload;
    return payload && payload->expires_ns && payload->expires_ns <= connection->worker->now_ns && piece->data == payload->data;
}

uint32_t send_queue_slices(struct connection *connection, port_slice *slices, uint32_t capacity) {
    uint32_t count = 0, bytes = 0;
    for (struct outgoing *piece = connection->first; piece && count < capacity && bytes < SEND_BYTES_MAX; piece = piece->next) {
        if (piece_expired(connection, piece)) break; /* it is dropped when it is the first */
        uint32_t share = piece->bytes < SEND_BYTES_MAX - bytes ? piece->bytes : SEND_BYTES_MAX - bytes;
        port_slice_set(&slices[count++], piece->data, share);
        bytes += share;
    }
    return count;
}

void send_queue_expire(struct connection *connection) {
    while (connection->first && piece_expired(connection, connection->first)) {
        pending_take(connection, connection->first->bytes);
        queue_pop(connection, EXPIRED);
    }
}

void send_queue_sent(struct connection *connection, uint32_t bytes) {
    pending_take(connection, bytes);
    while (bytes > 0 || (connection->first && connection->first->bytes == 0)) {
        struct outgoing *piece = connection->first;
        uint32_t share = piece->bytes < bytes ? piece->bytes : bytes;
        piece->data += share;
        piece->bytes -= share;
        bytes -= share;
        if (piece->bytes == 0) queue_pop(connection, WRITTEN);
    }
}

void send_queue_drop(struct connection *connection) {
    pending_take(connection, connection->pending_bytes);
    while (connection->first) queue_pop(connection, CLOSED_BEFORE_WRITE);
}
