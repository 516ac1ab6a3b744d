/* connection.c: see connection.h. */
#include "connection.h"

#include "internal.h"
#include "send_queue.h"

static const iocpd_config *config_of(const struct connection *connection) { return &connection->worker->engine->config; }

uint64_t connection_token(const struct connection *connection) {
    return token_make(connection->generation, connection->worker->number, connection->slot);
}

static void touch(struct connection *connection) {
    u64_store(&connection->last_activity_ns, (uint64_t)connection->worker->now_ns);
}

/* A service that answers stops to receive when so much waits to be sent. */
static uint64_t pause_limit(const struct connection *connection) {
    return buffers_scarce(&connection->worker->pool) ? config_of(connection)->receive_buffer_bytes
                                                     : u32_load(&config_of(connection)->send_soft_bytes);
}

static void mark_dirty(struct connection *connection) {
    if (connection->flags & (CONNECTION_DIRTY | CONNECTION_LEAVING)) return;
    connection->flags |= CONNECTION_DIRTY;
    connection->next = connection->worker->dirty;
    connection->worker->dirty = connection;
}

/* ---- timers --------------------------------------------------------------------------------------------------------- */

static int64_t sooner(int64_t a, int64_t b) { return b != 0 && (a == 0 || b < a) ? b : a; }

/* A limit in milliseconds, which iocpd_configure may just be changing. */
static int64_t limit_ns(const uint32_t *ms) { return (int64_t)u32_load(ms) * 1000000; }

static bool is_over(const uint32_t *limit_ms, uint64_t since_ns, int64_t now_ns) {
    int64_t ns = limit_ns(limit_ms);
    return ns && (int64_t)since_ns + ns <= now_ns;
}

/* When this connection must be looked at next; 0: never. */
static int64_t next_deadline(const struct connection *connection) {
    const iocpd_config *config = config_of(connection);
    int64_t active_ns = (int64_t)connection->last_activity_ns, at = connection->deadline_ns;
    int64_t soft_ns = limit_ns(&config->send_soft_ms);
    if (connection->state == IOCPD_ARRIVING) {
        at = arrival_deadline(connection);
    } else if (connection->state == IOCPD_OPEN) {
        int64_t first_byte_ns = limit_ns(&config->first_byte_ms), idle_ns = limit_ns(&config->idle_ms);
        bool waits = python_waiting(connection); /* for its service: it is neither silent nor idle */
        int64_t since_ns = waits ? connection->worker->now_ns : (int64_t)connection->connected_ns;
        if (first_byte_ns && connection->bytes_in == 0) at = sooner(at, since_ns + first_byte_ns);
        if (idle_ns) at = sooner(at, (waits ? since_ns : active_ns) + idle_ns);
        if (connection->over_soft_ns) at = sooner(at, connection->over_soft_ns + soft_ns);
        /* Nothing is received while it is paused, so its last activity was that it read something. */
        if (connection->flags & CONNECTION_PAUSED) at = sooner(at, active_ns + soft_ns);
    } else if (connection->state == IOCPD_DRAINING && connection->deadline_ns == 0) {
        /* The client has shut its side: it gets what is queued for as long as it keeps reading. Who waits for a service that
         * is slow has nothing to read. */
        if (connection->first || !(connection->flags & CONNECTION_ANSWERS)) at = sooner(at, active_ns + soft_ns);
    }
    return at;
}

static void set_timer(struct connection *connection) {
    int64_t at = next_deadline(connection);
    if (at) timers_set(&connection->worker->timers, connection, at);
}

static bool consumer_is_slow(const struct connection *connection, int64_t now_ns) {
    int64_t patience_ns = now_ns - limit_ns(&config_of(connection)->send_soft_ms);
    if (connection->over_soft_ns && connection->over_soft_ns <= patience_ns) return true;
    return connection->flags & CONNECTION_PAUSED && (int64_t)connection->last_activity_ns <= patience_ns;
}

void connection_timer(struct connection *connection) {
    const iocpd_config *config = config_of(connection);
    int64_t now = connection->worker->now_ns;
    if (connection->state == IOCPD_CLOSING_STATE) return;
    if (next_deadline(connection) == 0 || next_deadline(connection) > now) {
        set_timer(connection);
        return;
    }
    if (connection->state == IOCPD_ARRIVING) {
        connection_terminate(connection, IOCPD_PROXY_HEADER_TIMEOUT, true);
    } else if (connection->state == IOCPD_DRAINING) {
        bool stalled = connection->deadline_ns == 0;
        if (stalled) u32_store(&connection->reason, IOCPD_SLOW_CONSUMER);
        if (connection->reason == IOCPD_DRAINED || connection->reason == IOCPD_SHUTDOWN)
            u64_add(&connection->worker->engine->drain.cancelled, 1);
        connection_terminate(connection, IOCPD_SLOW_CONSUMER, true);
    } else if (consumer_is_slow(connection, now)) {
        connection_terminate(connection, IOCPD_SLOW_CONSUMER, true);
    } else {
        bool silent = connection->bytes_in == 0 && is_over(&config->first_byte_ms, connection->connected_ns, now);
        if (!silent && (python_waiting(connection) || !is_over(&config->idle_ms, connection->last_activity_ns, now))) {
            set_timer(connection); /* the limit that was over a moment ago has just been changed */
            return;
        }
        /* What is queued still goes out, but not for longer than a slow consumer gets. */
        connection_drain(connection, silent ? IOCPD_FIRST_BYTE_TIMEOUT : IOCPD_IDLE_TIMEOUT, NULL,
                         now + limit_ns(&config->send_soft_ms));
    }
}

/* ---- what is to be sent ------------------------------------------------------------------------------------------------ */

static enum queue_result queue_payload(struct connection *connection, struct payload *payload, struct iocpd_ticket *ticket,
                                       bool limited) {
    enum queue_result result = send_queue_add(connection, payload, ticket, limited);
    if (result == QUEUED) mark_dirty(connection);
    return result;
}

enum queue_result connection_queue_payload(struct connection *connection, struct payload *payload, struct iocpd_ticket *ticket) {
    worker_assert_owner(connection->worker);
    return connection->state == IOCPD_OPEN ? queue_payload(connection, payload, ticket, true) : QUEUE_CLOSING;
}

/* A service that answers does not take in more than its client reads. */
static void pause_if_full(struct connection *connection) {
    if (connection->pending_bytes < pause_limit(connection) || connection->flags & CONNECTION_PAUSED) return;
    connection->flags |= CONNECTION_PAUSED;
    set_timer(connection);
}

static void resume_if_low(struct connection *connection) {
    if (connection->pending_bytes <= pause_limit(connection) / 2) connection->flags &= ~(uint32_t)CONNECTION_PAUSED;
}

void connection_answer(struct connection *connection, struct payload *payload, bool limited) {
    bool takes =
        connection->state == IOCPD_OPEN || (connection->state == IOCPD_DRAINING && connection->flags & CONNECTION_ANSWERS);
    enum queue_result result = QUEUE_CLOSING;
    worker_assert_owner(connection->worker);
    if (takes && !connection->first) touch(connection); /* from now on the client is to read, however long the answer took */
    if (takes) result = queue_payload(connection, payload, NULL, limited);
    payload_drop(payload);
    if (result == QUEUE_FULL) connection_terminate(connection, IOCPD_SLOW_CONSUMER, true);
    else if (result == QUEUE_NO_MEMORY) connection_terminate(connection, IOCPD_OUT_OF_MEMORY, true);
    else if (result == QUEUED && connection->state == IOCPD_DRAINING) set_timer(connection);
    else if (result == QUEUED) pause_if_full(connection);
}

void connection_queue_buffer(struct connection *connection, struct buffer *buffer) {
    send_queue_add_buffer(connection, buffer);
    mark_dirty(connection);
    pause_if_full(connection);
}

void connection_over_soft(struct connection *connection) {
    set_timer(connection);
    event_connection(connection, IOCPD_EVENT_SLOW_CONSUMER, connection->pending_bytes);
}

/* ---- receive ---------------------------------------------------------------------------------------------------------- */

static bool receive_wanted(const struct connection *connection) {
    if (connection->flags & CONNECTION_END_SEEN || connection->state == IOCPD_CLOSING_STATE) return false;
    /* A draining connection reads on, to the end of file: closing a socket with unread data would reset it, and the peer could
     * lose what it was sent last. */
    return connection->state == IOCPD_DRAINING || !(connection->flags & CONNECTION_PAUSES);
}

/* Arms or cancels the receive, as the state asks for. */
static void receive_update(struct connection *connection) {
    struct worker *worker = connection->worker;
    bool wanted = receive_wanted(connection), outstanding = connection->socket.receive.outstanding;
    if (wanted && !outstanding) {
        int error = worker->driver->receive(worker->port, &connection->socket);
        if (!error) return;
        connection->os_error = error;
        connection_terminate(connection, IOCPD_IO_ERROR, true);
    } else if (!wanted && outstanding) {
        worker->driver->receive_cancel(worker->port, &connection->socket); /* asking twice is harmless */
    }
}

static void received_error(struct connection *connection, enum port_error error, int32_t os_error) {
    enum iocpd_reason reason = IOCPD_IO_ERROR;
    if (error == PORT_RESET) reason = IOCPD_CLIENT_RESET;
    if (error == PORT_TIMED_OUT) reason = IOCPD_CLIENT_TIMED_OUT;
    if (error == PORT_NO_RESOURCES) reason = IOCPD_OUT_OF_MEMORY;
    if (connection->os_error == 0) connection->os_error = os_error;
    connection_terminate(connection, reason, true);
}

/* What comes before a connection is open, or after. */
static void received_outside(struct connection *connection, struct buffer *buffer) {
    if (connection->state == IOCPD_ARRIVING) {
        arrival_received(connection, buffer);
        if (connection->flags & CONNECTION_PAUSES) receive_update(connection);
    } else {
        u64_bump(&connection->worker->discarded_bytes, buffer->bytes);
        buffer_free(buffer);
    }
}

void connection_received(struct connection *connection, const struct port_event *event) {
    struct worker *worker = connection->worker;
    if (event->buffer) {
        touch(connection);
        if (connection->state == IOCPD_OPEN) {
            const struct listener *listener = &worker->engine->listeners[connection->listener];
            u64_bump(&connection->bytes_in, event->bytes);
            u64_bump(&connection->messages_in, listener->messages_per_receive);
            u64_bump(&worker->bytes_in, event->bytes);
            u64_bump(&worker->messages_in, listener->messages_per_receive);
            listener->received(connection, event->buffer);
            if (connection->flags & CONNECTION_PAUSES) receive_update(connection);
        } else {
            received_outside(connection, event->buffer);
        }
    }
    if (!event->final) return;
    mark_dirty(connection); /* the state may now go on */
    if (connection->state == IOCPD_CLOSING_STATE || event->error == PORT_CANCELLED) return;
    if (event->error != PORT_OK) {
        received_error(connection, event->error, event->os_error);
        return;
    }
    connection->flags |= CONNECTION_END_SEEN;
    connection_drain(connection, IOCPD_CLIENT_CLOSED, NULL, 0);
}

/* ---- send ------------------------------------------------------------------------------------------------------------- */

static void send_start(struct connection *connection) {
    struct worker *worker = connection->worker;
    struct port_socket *socket = &connection->socket;
    socket->slices = &socket->slice;
    socket->slice_count = 1;
    if (connection->first->next) connection->gather = worker_gather_take(worker);
    if (connection->gather) {
        socket->slices = connection->gather->slices;
        socket->slice_count = send_queue_slices(connection, connection->gather->slices, PORT_SLICES_MAX);
    } else {
        send_queue_slices(connection, &socket->slice, 1); /* also without memory for a list: one piece after the other */
    }
    int error = worker->driver->send(worker->port, socket);
    if (!error) return;
    if (connection->gather) worker_gather_free(worker, connection->gather);
    connection->gather = NULL;
    connection->os_error = error;
    connection_terminate(connection, IOCPD_IO_ERROR, true);
}

void connection_sent(struct connection *connection, const struct port_event *event) {
    if (connection->gather) worker_gather_free(connection->worker, connection->gather);
    connection->gather = NULL;
    uint32_t bytes = event->bytes;
    if (bytes) {
        touch(connection);
        u64_bump(&connection->bytes_out, bytes);
        u64_bump(&connection->worker->bytes_out, bytes);
    }
    send_queue_sent(connection, bytes);
    mark_dirty(connection);
    if (event->error != PORT_OK && event->error != PORT_CANCELLED && connection->state != IOCPD_CLOSING_STATE)
        received_error(connection, event->error, event->os_error);
}

/* ---- the end ---------------------------------------------------------------------------------------------------------- */

void connection_drain(struct connection *connection, enum iocpd_reason reason, struct payload *farewell, int64_t deadline_ns) {
    worker_assert_owner(connection->worker);
    if (connection->state == IOCPD_CLOSING_STATE) return;
    if (connection->state == IOCPD_ARRIVING) {
        bool served = reason == IOCPD_CLIENT_CLOSED && connection->flags & CONNECTION_ENTERING; /* first, if it is let in */
        if (!served) connection_terminate(connection, reason, reason != IOCPD_CLIENT_CLOSED);
        return;
    }
    bool answers = connection->session && python_answers(reason);
    if (connection->state == IOCPD_OPEN) {
        if (answers) python_end(connection, farewell);
        else if (farewell) connection_queue_payload(connection, farewell, NULL); /* full or no memory: it ends without one */
        if (answers) connection->flags |= CONNECTION_ANSWERS;
        u32_store(&connection->reason, reason);
        u32_store(&connection->state, IOCPD_DRAINING);
        connection->worker->open_count--;
        connection->over_soft_ns = 0;
        touch(connection);
    } else if (connection->flags & CONNECTION_ANSWERS && !answers) {
        connection_answered(connection); /* whoever asks for this end does not wait for the service */
        if (farewell) queue_payload(connection, farewell, NULL, true);             /* full or no memory: it ends without one */
        if (reason == IOCPD_SERVICE_ERROR) u32_store(&connection->reason, reason); /* what it took in is not answered */
    }
    if (deadline_ns && (connection->deadline_ns == 0 || deadline_ns < connection->deadline_ns))
        connection->deadline_ns = deadline_ns;
    set_timer(connection);
    mark_dirty(connection);
}

void connection_terminate(struct connection *connection, enum iocpd_reason reason, bool reset) {
    worker_assert_owner(connection->worker);
    if (connection->state == IOCPD_CLOSING_STATE) return;
    if (connection->reason == IOCPD_REASON_NONE) u32_store(&connection->reason, reason);
    if (connection->state == IOCPD_ARRIVING) arrival_end(connection);
    if (connection->state < IOCPD_DRAINING) connection->worker->open_count--;
    connection->worker->closing_count++;
    u32_store(&connection->state, IOCPD_CLOSING_STATE);
    if (reset) platform_socket_reset_on_close(connection->socket.handle);
    timers_clear(&connection->worker->timers, connection);
    mark_dirty(connection);
}

void connection_answered(struct connection *connection) {
    if (connection->state != IOCPD_DRAINING || !(connection->flags & CONNECTION_ANSWERS)) return;
    struct payload *farewell = python_farewell(connection);
    if (farewell) queue_payload(connection, farewell, NULL, true);
    if (farewell) payload_drop(farewell);
    connection->flags &= ~(uint32_t)CONNECTION_ANSWERS;
    touch(connection);
    set_timer(connection);
    mark_dirty(connection);
}

static void closed_row(struct connection *connection, iocpd_closed *row) {
    struct iocpd_engine *engine = connection->worker->engine;
    memset(row, 0, sizeof *row);
    table_read(&connection->worker->table, connection->slot, &row->connection);
    row->closed_serial = u64_add(&engine->closed_serial, 1) + 1;
    row->closed_at_us = engine_wall_us(engine, connection->worker->now_ns);
    row->os_error = connection->os_error;
    row->number = connection->worker->closed.written;
    if (connection->reason != IOCPD_KICKED && connection->reason != IOCPD_BANNED) return;
    if (connection->session) python_kick_text(connection, row->text, sizeof row->text);
    for (struct ticket_part *waiter = connection->waiters; waiter; waiter = waiter->next_waiter)
        memcpy(row->text, waiter->ticket->text, sizeof row->text); /* the last in the list is the first that kicked */
}

/* The ring keeps the labels with the record; those of the record that it overwrites are nobody's any more. They are retired only
 * when that record can not be read any more: a reader that found it after another had freed them would read freed memory. */
static void closed_put(struct worker *worker, const iocpd_closed *row) {
    iocpd_closed before = {0};
    struct ring *ring = &worker->closed;
    if (ring->written >= ring->capacity) ring_read(ring, ring->written - ring->capacity, &before, sizeof before);
    ring_write(ring, row, sizeof *row);
    labels_retire(worker->engine, (struct labels *)(uintptr_t)before.connection.labels);
}

void connection_finish(struct connection *connection) {
    struct worker *worker = connection->worker;
    iocpd_closed row;
    closed_row(connection, &row);
    if (connection->flags & CONNECTION_RELAY_PAUSED) paused_remove(&worker->relay_paused, connection);
    if (connection->flags & CONNECTION_PYTHON_PAUSED) paused_remove(&worker->python_paused, connection);
    if (connection->rest) u64_bump(&worker->discarded_bytes, framing_drop(&connection->rest));
    worker->driver->release(worker->port, &connection->socket);
    send_queue_drop(connection);
    pointer_store_release((void **)&connection->labels, NULL); /* they are the closed record's */
    closed_put(worker, &row);
    event_connection(connection, IOCPD_EVENT_DISCONNECTED, row.number);
    u64_bump(&worker->ended[connection->reason], 1);
    struct ticket_part *waiter = connection->waiters;
    struct visitor *visitor = connection->visitor;
    uint32_t listener = connection->listener;
    connection->waiters = NULL;
    worker->closing_count--;
    if (connection->session) python_closed(connection);
    table_give(&worker->table, connection);
    u32_add(&worker->load, (uint32_t)-1);
    listener_left(worker->engine, listener, visitor);
    while (waiter) { /* only now: who waits may look for it in the table, count those who are there, or want its place */
        struct ticket_part *next = waiter->next_waiter;
        u32_store_release(&waiter->outcome, IOCPD_LEFT);
        ticket_close(waiter->ticket);
        waiter = next;
    }
}

static void leave(struct connection *connection) {
    struct leaving *leaving = &connection->worker->leaving;
    connection->flags |= CONNECTION_LEAVING;
    connection->next = NULL;
    if (leaving->last) leaving->last->next = connection;
    else leaving->first = connection;
    leaving->last = connection;
}

static void closing_step(struct connection *connection) {
    struct worker *worker = connection->worker;
    struct port_socket *socket = &connection->socket;
    if (!socket->receive.outstanding && !socket->send.outstanding) {
        leave(connection);
    } else if (!(connection->flags & CONNECTION_CANCELLED)) {
        connection->flags |= CONNECTION_CANCELLED;
        if (socket->receive.outstanding) worker->driver->receive_cancel(worker->port, socket);
        if (socket->send.outstanding) worker->driver->send_cancel(worker->port, socket);
    }
}

static void draining_step(struct connection *connection) {
    if (connection->first || connection->flags & CONNECTION_ANSWERS) return;
    if (connection->flags & CONNECTION_END_SEEN) {
        connection_terminate(connection, IOCPD_CLIENT_CLOSED, false); /* both sides are through: an orderly close */
    } else if (!(connection->flags & CONNECTION_END_SENT)) {
        connection->flags |= CONNECTION_END_SENT;
        int error = platform_socket_shutdown_send(connection->socket.handle);
        if (error) connection_terminate(connection, IOCPD_CLIENT_RESET, true);
    }
}

void connection_flush(struct connection *connection) {
    bool sends = connection->state != IOCPD_CLOSING_STATE && !connection->socket.send.outstanding;
    if (sends) {
        send_queue_expire(connection);
        resume_if_low(connection); /* here, because what was sent and what has expired may both be what it was paused for */
    }
    if (connection->state != IOCPD_CLOSING_STATE) receive_update(connection);
    if (sends && connection->state != IOCPD_CLOSING_STATE && connection->first) send_start(connection);
    if (connection->state == IOCPD_DRAINING) draining_step(connection);
    if (connection->state == IOCPD_CLOSING_STATE) closing_step(connection);
    connection->flags &= ~(uint32_t)CONNECTION_DIRTY; /* last: a step that changes the state is followed by that state's step */
}

void connection_look_again(struct connection *connection) {
    set_timer(connection);
    mark_dirty(connection);
}

void connection_open(struct connection *connection) {
    event_connection(connection, IOCPD_EVENT_CONNECTED, 0);
    connection_look_again(connection);
    if (connection->worker->engine->listeners[connection->listener].config.service == IOCPD_PYTHON) python_open(connection);
}

void connection_label(struct connection *connection, struct labels *labels) {
    worker_assert_owner(connection->worker);
    struct labels *before = connection->labels;
    if (labels) labels->version = u64_add(&connection->worker->engine->labels_version, 1) + 1;
    pointer_store_release((void **)&connection->labels, labels);
    labels_retire(connection->worker->engine, before);
}

void connection_limits_changed(struct connection *connection) {
    if (connection->state != IOCPD_FREE && connection->state != IOCPD_CLOSING_STATE) set_timer(connection);
}

void connection_relay_pause(struct connection *connection) {
    struct worker *worker = connection->worker;
    if (connection->flags & CONNECTION_RELAY_PAUSED) return;
    connection->flags |= CONNECTION_RELAY_PAUSED;
    paused_add(&worker->relay_paused, connection); /* relay_turn sees to it that it is woken */
}

void connection_relay_resume(struct connection *connection) {
    paused_remove(&connection->worker->relay_paused, connection);
    connection->flags &= ~(uint32_t)CONNECTION_RELAY_PAUSED;
    mark_dirty(connection);
}

void connection_python_pause(struct connection *connection) {
    connection->flags |= CONNECTION_PYTHON_PAUSED;
    paused_add(&connection->worker->python_paused, connection);
}

void connection_python_resume(struct connection *connection) {
    paused_remove(&connection->worker->python_paused, connection);
    connection->flags &= ~(uint32_t)CONNECTION_PYTHON_PAUSED;
    mark_dirty(connection);
}
