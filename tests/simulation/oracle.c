/* oracle.c: what must hold, whatever the kernel does.
 *
 * It looks at the engine from both sides: from outside, by what clients get, what reports say and what listings show; and from
 * inside, each time that a worker has done all it could and goes to wait: then nothing may be left over that nobody will come
 * back to.
 */
#include "world.h"

#include "port_linux.h"
#include "python_thread.h"

#include <stdio.h>

enum {
    PIECE_OVERHEAD = 64, /* of send_queue.c */
    LETTER_BYTES = 128,  /* what a message costs beside its bytes while it waits for a service */
    SESSION_BYTES = 512, /* and a connection that has ended */
    LOSSES = 24,         /* receives that a cancel may still let through */
    EARLY_MAX = 64,
    PATIENCE_NS = 100 * 1000 * 1000, /* what late wakes and late cancels may cost together */
    HELD_TURNS = 16,                 /* of a pause for which there is no reason any more */
    WAITING_TURNS = 2,               /* of what waits at a worker */
    OVERDUE_TURNS = 5,               /* of a deadline: a turn ends 8 connections at most, and there are up to 40 */
};

struct witness witnesses[SIM_STREAMS_MAX];

static struct {
    bool drain, stop;
} asked;

static uint64_t early[EARLY_MAX]; /* told of before their attach */
static uint32_t early_count;

static struct waiting {
    uint32_t backlog_turns, fanout_turns, leaving_turns; /* that a worker went to wait with something left: at all, of the same */
    const void *fanout, *leaving, *replies;
    uint32_t replies_at;
} waiting[WORKERS_MAX];

static int64_t attention_ns[WORKERS_MAX]; /* since when a sleeping worker has been asked for attention; 0: it is not */

void oracle_reset(void) {
    for (uint32_t i = 0; i < SIM_STREAMS_MAX; i++) {
        struct witness *witness = &witnesses[i];
        if (!witness->writer.listener) break; /* they are used one after the other */
        memset(witness, 0, sizeof *witness);
    }
    memset(&asked, 0, sizeof asked);
    memset(attention_ns, 0, sizeof attention_ns);
    memset(waiting, 0, sizeof waiting);
    early_count = 0;
    admission_reset();
    counts_reset();
}

struct witness *witness_of(uint64_t token) {
    for (uint32_t i = sim_stream_count(); i-- > 0;)
        if (witnesses[i].token == token) return &witnesses[i];
    return NULL;
}

void oracle_cause(uint64_t token, enum cause cause) {
    struct witness *witness = witness_of(token);
    if (witness) witness->causes |= (uint32_t)cause;
}

void oracle_drain(const iocpd_drain_config *config) {
    if (config->stop) asked.stop = true;
    else asked.drain = true;
}

static struct connection *connection_of(const struct sim_stream *stream) {
    return CONTAINER_OF(stream->socket, struct connection, socket);
}

/* ---- a connection's life ------------------------------------------------------------------------------------------------------ */

void oracle_accepted(struct sim_stream *stream) { witnesses[stream->number].accepted_ns = world.now_ns; }

void oracle_attached(struct sim_stream *stream) {
    struct witness *witness = &witnesses[stream->number];
    const struct connection *connection = connection_of(stream);
    witness->token = connection_token(connection);
    witness->worker = connection->worker->number;
    witness->attached = true;
    for (uint32_t i = 0; i < early_count; i++) witness->connected_events += early[i] == witness->token;
    for (uint32_t i = 0; i < stream->number; i++)
        if (witnesses[i].token == witness->token) sim_fail("connections %u and %u have one token", i, stream->number);
    if (connection->serial == 0 || connection->listener != stream->listener)
        sim_fail("connection %u is misunderstood", stream->number);
    if (memcmp(connection->peer_ip, stream->peer.ip, 16) != 0) sim_fail("connection %u has another address", stream->number);
    sim_trace("connection %u: is in the table of worker %u as %llx", stream->number, witness->worker,
              (unsigned long long)witness->token);
    admission_check(stream);
}

static void os_error_note(const struct sim_stream *stream, int32_t os_error) {
    witnesses[stream->number].os_errors[os_error / 64] |= UINT64_C(1) << os_error % 64;
}

void oracle_error(struct sim_stream *stream, int32_t os_error) {
    static const uint32_t causes[] = {[PORT_OK] = 0,
                                      [PORT_CANCELLED] = 0,
                                      [PORT_RESET] = CAUSE_RESET,
                                      [PORT_TIMED_OUT] = CAUSE_TIMED_OUT,
                                      [PORT_NO_RESOURCES] = CAUSE_RESOURCES,
                                      [PORT_FAILED] = CAUSE_FAILED};
    witnesses[stream->number].causes |= causes[linux_port_error(os_error)];
    os_error_note(stream, os_error);
}

int32_t oracle_not_begun(struct sim_stream *stream, int32_t os_error) {
    witnesses[stream->number].causes |= CAUSE_NOT_BEGUN;
    os_error_note(stream, os_error);
    return os_error;
}

void oracle_sent(struct sim_stream *stream, const uint8_t *data, uint32_t bytes) {
    struct witness *witness = &witnesses[stream->number];
    if (witness->released) sim_fail("connection %u is sent something after its end", stream->number);
    sim_trace("connection %u: the kernel takes %u bytes", stream->number, bytes);
    reader_take(&witness->reader, data, bytes);
}

static bool reason_is_true(const struct connection *connection, const struct witness *witness) {
    uint32_t causes = witness->causes;
    const iocpd_listener_config *listener = witness->reader.listener;
    if (!arrival_may_end(sim_stream_at((uint32_t)(witness - witnesses)), (int32_t)connection->reason)) return false;
    bool ended_when_slow =
        listener->service == IOCPD_RELAY || listener->service == IOCPD_RELAY_GROUP || listener->service == IOCPD_PYTHON;
    switch (connection->reason) {
    case IOCPD_CLIENT_CLOSED: return causes & CAUSE_CLIENT_END;
    case IOCPD_CLIENT_RESET: return causes & (CAUSE_CLIENT_RESET | CAUSE_RESET);
    case IOCPD_CLIENT_TIMED_OUT: return causes & CAUSE_TIMED_OUT;
    case IOCPD_KICKED: return causes & CAUSE_KICK;
    case IOCPD_DRAINED: return asked.drain;
    case IOCPD_SHUTDOWN: return asked.stop;
    case IOCPD_FIRST_BYTE_TIMEOUT: return limits.largest.first_byte_ms && connection->bytes_in == 0;
    case IOCPD_IDLE_TIMEOUT: return limits.largest.idle_ms;
    case IOCPD_SLOW_CONSUMER: return causes & CAUSE_SLOW || ended_when_slow;
    case IOCPD_OUT_OF_MEMORY: return causes & CAUSE_RESOURCES || memory_has_failed();
    case IOCPD_IO_ERROR: return causes & (CAUSE_FAILED | CAUSE_NOT_BEGUN);
    case IOCPD_FRAME_TOO_LARGE: return causes & CAUSE_TOO_LARGE;
    case IOCPD_SERVICE_CLOSED: return causes & CAUSE_SERVICE_CLOSE;
    case IOCPD_SERVICE_ERROR: return causes & CAUSE_SERVICE_FAIL;
    case IOCPD_BANNED:
    case IOCPD_PROXY_HEADER_INVALID:
    case IOCPD_PROXY_HEADER_TIMEOUT:
    case IOCPD_ADDRESS_LIMIT:
    case IOCPD_ADDRESS_RATE:
    case IOCPD_ACCEPT_RATE: return true; /* see arrival_may_end */
    default: return false;
    }
}

/* The system's number is one that it gave for this connection, and there is one where the system has ended it. */
static void os_error_check(const struct witness *witness, int32_t reason, int32_t os_error) {
    bool told = os_error > 0 && witness->os_errors[os_error / 64] >> os_error % 64 & 1;
    bool needed = reason == IOCPD_CLIENT_RESET || reason == IOCPD_CLIENT_TIMED_OUT || reason == IOCPD_IO_ERROR;
    if (os_error ? !told : needed)
        sim_fail("connection %u ends as %s with error %d of the system", witness->writer.number, iocpd_reason_name(reason),
                 os_error);
}

static bool echoes(const iocpd_listener_config *listener) {
    return listener->service == IOCPD_ECHO || listener->service == IOCPD_PYTHON;
}

/* Everything whole that the engine has taken from it has come back. */
static bool is_answered(const struct sim_stream *stream, const struct witness *witness) {
    const iocpd_listener_config *listener = witness->reader.listener;
    if (listener->service == IOCPD_ECHO && listener->framing.kind == IOCPD_RAW) return witness->reader.echoed == stream->taken;
    const struct writer *writer = &witness->writer;
    bool begun = writer->frame_at < writer->frame_bytes || stream->unread_bytes;
    if (stream->unread_bytes > 0) return true; /* how many of its messages were taken is not known */
    return witness->reader.messages + (begun && writer->messages ? 1 : 0) >= writer->messages;
}

void oracle_released(struct sim_stream *stream) {
    struct witness *witness = &witnesses[stream->number];
    const struct connection *connection = connection_of(stream);
    if (witness->released) sim_fail("connection %u ends twice", stream->number);
    witness->released = true;
    witness->released_ns = world.now_ns;
    witness->reason = (int32_t)connection->reason;
    arrival_look(stream, connection);
    sim_trace("connection %u: ends as %s", stream->number, iocpd_reason_name(witness->reason));
    if (!reason_is_true(connection, witness))
        sim_fail("connection %u ends as %s, which is not true (%x)", stream->number, iocpd_reason_name(witness->reason),
                 witness->causes);
    os_error_check(witness, witness->reason, connection->os_error);
    if (connection->bytes_out != stream->sent)
        sim_fail("connection %u: bytes_out is %llu, and %llu were sent", stream->number,
                 (unsigned long long)connection->bytes_out, (unsigned long long)stream->sent);
    counts_check(witness, connection);
    witness->messages_out = connection->messages_out;
    if (connection->reason == IOCPD_CLIENT_CLOSED && !stream->reset_on_close) { /* an orderly end: nothing is owed */
        /* Who is kicked while a service in Python still has something of it does not wait for the answer. */
        bool cut = connection->session && witness->causes & (CAUSE_KICK | CAUSE_BAN | CAUSE_SERVICE_CLOSE | CAUSE_SERVICE_FAIL);
        if (echoes(witness->reader.listener) && !cut && !is_answered(stream, witness))
            sim_fail("connection %u ends in order, but not all that it wrote was answered", stream->number);
        if (connection->first || !reader_between(&witness->reader))
            sim_fail("connection %u ends in order in the middle of what it is sent", stream->number);
        if (!(connection->flags & CONNECTION_END_SEEN))
            sim_fail("connection %u ends as closed by its client, who has not", stream->number);
    }
    if (!stream->reset_on_close && !stream->client_ended)
        sim_fail("connection %u is closed in order before its client's end", stream->number);
}

/* ---- a worker that goes to wait ----------------------------------------------------------------------------------------------- */

/* True when it is over; complains if it has been for too long. While connections end, a turn looks at few who are due. */
static bool overdue(const struct connection *connection, const char *what, int64_t since_ns, uint32_t ms, int64_t returned_ns) {
    int64_t due = since_ns + (int64_t)ms * 1000000, noticed = limits.changed_ns + (limits.changed_ns ? PATIENCE_NS : 0);
    if (due < noticed) due = noticed;
    if (!ms || due >= returned_ns) return false;
    struct witness *witness = witness_of(connection_token(connection));
    if (connection->worker->closing_count == 0 && witness->overdue_turns++ > OVERDUE_TURNS)
        sim_fail("connection %u: its %s is over", witness->writer.number, what);
    return true;
}

/* What is over at the end of the turn that has begun it is seen in the next. */
static void deadlines_check(struct witness *witness, const struct connection *connection, int64_t returned_ns) {
    bool late = false;
    if (connection->state == IOCPD_OPEN) {
        /* Who waits for his service is neither silent nor idle, and his time begins again when that is over. */
        if (!connection->session && connection->bytes_in == 0 && limits.smallest.first_byte_ms)
            late |= overdue(connection, "first_byte_ms", (int64_t)connection->connected_ns, limits.largest.first_byte_ms,
                            returned_ns);
        if (!connection->session && limits.smallest.idle_ms)
            late |= overdue(connection, "idle_ms", (int64_t)connection->last_activity_ns, limits.largest.idle_ms, returned_ns);
        if (connection->over_soft_ns)
            late |= overdue(connection, "time above the soft limit", connection->over_soft_ns, limits.largest.send_soft_ms,
                            returned_ns);
        if (connection->flags & CONNECTION_PAUSED)
            late |= overdue(connection, "pause", (int64_t)connection->last_activity_ns, limits.largest.send_soft_ms, returned_ns);
    } else if (connection->state == IOCPD_ARRIVING && !(connection->flags & CONNECTION_ENTERING)) {
        late |= overdue(connection, "header's time", (int64_t)connection->connected_ns,
                        header_ms(limits.smallest.first_byte_ms ? limits.largest.first_byte_ms : 0), returned_ns);
    } else if (connection->state == IOCPD_DRAINING) {
        late |= overdue(connection, "drain's time", connection->deadline_ns, connection->deadline_ns ? 1 : 0, returned_ns);
        if (!connection->deadline_ns && connection->first)
            late |= overdue(connection, "time to read what is queued", (int64_t)connection->last_activity_ns,
                            limits.largest.send_soft_ms, returned_ns);
    }
    if (!late) witness->overdue_turns = 0;
}

/* Once, when it has just begun to end. */
static void patience_check(struct witness *witness, const struct sim_stream *stream, const struct connection *connection) {
    int64_t active = stream->active_ns ? stream->active_ns : (int64_t)connection->connected_ns, now = world.now_ns + 1000000;
    if (witness->ending) return;
    witness->ending = true;
    if (world.jumped_ns)
        return; /* for a worker that was in the middle of a turn, the connection may have begun before the jump */
    if (connection->reason == IOCPD_IDLE_TIMEOUT && now < active + (int64_t)limits.idle_ms * 1000000)
        sim_fail("connection %u ends as idle, and was not for as long as that", stream->number);
    if (connection->reason == IOCPD_FIRST_BYTE_TIMEOUT &&
        now < (int64_t)connection->connected_ns + (int64_t)limits.first_byte_ms * 1000000)
        sim_fail("connection %u has not had its time for a first byte", stream->number);
    if (connection->reason == IOCPD_PROXY_HEADER_TIMEOUT &&
        now < (int64_t)connection->connected_ns + (int64_t)header_ms(limits.first_byte_ms) * 1000000)
        sim_fail("connection %u has not had its time for a header", stream->number);
}

static void queue_check(const struct connection *connection) {
    const struct worker *worker = connection->worker;
    uint64_t bytes = 0, pieces = 0, token = connection_token(connection);
    for (const struct outgoing *piece = connection->first; piece; piece = piece->next) {
        bytes += piece->bytes;
        pieces++;
        if (!piece->next && piece != connection->last)
            sim_fail("connection %llx: the end of its queue is lost", (unsigned long long)token);
    }
    if (bytes != connection->pending_bytes || pieces != connection->pieces)
        sim_fail("connection %llx: pending_bytes is %llu and %llu are queued; %u pieces and %llu", (unsigned long long)token,
                 (unsigned long long)connection->pending_bytes, (unsigned long long)bytes, connection->pieces,
                 (unsigned long long)pieces);
    const struct listener *listener = &worker->engine->listeners[connection->listener];
    uint64_t most = limits.largest.send_hard_bytes + PIECE_OVERHEAD; /* that of the last piece is not asked for */
    if (listener->config.service == IOCPD_ECHO) {
        uint64_t unlimited = limits.largest.send_soft_bytes + (uint64_t)LOSSES * (worker->pool.buffer_bytes + 1000);
        most = (most > unlimited ? most : unlimited) + connection->pieces * PIECE_OVERHEAD;
    }
    if (bytes + pieces * PIECE_OVERHEAD > most)
        sim_fail("connection %llx: its queue of %llu bytes in %llu pieces is above %llu", (unsigned long long)token,
                 (unsigned long long)bytes, (unsigned long long)pieces, (unsigned long long)most);
}

/* True when its service has handled everything that it was given. */
static bool is_handled(const struct connection *connection) {
    struct iocpd_engine *engine = connection->worker->engine;
    const struct listener *listener = &engine->listeners[connection->listener];
    iocpd_service_stats stats;
    iocpd_service_read(engine, listener->first_thread + (uint32_t)(connection->serial % listener->config.threads), &stats);
    return stats.waiting_bytes == 0;
}

/* Who is paused though nothing is in his way must go on within some turns; a service may also need some time to say so. */
static void held_check(struct witness *witness, const struct connection *connection) {
    const struct iocpd_engine *engine = connection->worker->engine;
    bool relay = connection->flags & CONNECTION_RELAY_PAUSED, python = connection->flags & CONNECTION_PYTHON_PAUSED;
    bool held = (relay && engine->relay_waiting <= engine->config.relay_capacity / 2) || (python && is_handled(connection));
    int64_t now_ns = world.now_ns - world.jumped_ns;
    if (!held) witness->held_turns = 0;
    else if (connection->worker->turns != witness->held_turn) witness->held_turns++;
    witness->held_turn = connection->worker->turns;
    if (!held) witness->held_ns = now_ns;
    if (witness->held_turns > HELD_TURNS && (relay || now_ns > witness->held_ns + PATIENCE_NS))
        sim_fail("connection %u: nothing is in its way, and for %u turns it has not gone on", witness->writer.number,
                 witness->held_turns);
}

static void connection_check(const struct connection *connection, int64_t returned_ns) {
    uint64_t token = connection_token(connection);
    bool receives = connection->socket.receive.outstanding, sends = connection->socket.send.outstanding;
    bool queued = connection->first != NULL, paused = connection->flags & CONNECTION_PAUSES;
    struct witness *witness = witness_of(token);
    if (!witness || witness->released) sim_fail("%llx is in its table, but not a connection", (unsigned long long)token);
    if (connection->flags & CONNECTION_DIRTY) sim_fail("connection %llx is left dirty", (unsigned long long)token);
    arrival_look(sim_stream_at((uint32_t)(witness - witnesses)), connection);
    arrival_check(sim_stream_at((uint32_t)(witness - witnesses)), connection);
    queue_check(connection);
    deadlines_check(witness, connection, returned_ns);
    if (queued || (paused && connection->state != IOCPD_ARRIVING) || connection->over_soft_ns) witness->causes |= CAUSE_SLOW;
    if (connection->state > IOCPD_OPEN) patience_check(witness, sim_stream_at((uint32_t)(witness - witnesses)), connection);
    if (connection->state == IOCPD_CLOSING_STATE) {
        const struct sim_stream *stream = sim_stream_at((uint32_t)(witness - witnesses));
        if (!receives && !sends && !(connection->flags & CONNECTION_LEAVING))
            sim_fail("connection %llx is closing, and nothing will end it", (unsigned long long)token);
        if ((receives && !stream->receive.cancelled) || (sends && !stream->send.cancelled))
            sim_fail("connection %llx is closing, and an operation was not cancelled", (unsigned long long)token);
        return;
    }
    held_check(witness, connection);
    if (!sends) counts_check(witness, connection);
    if (queued != sends)
        sim_fail("connection %llx has %s, but %s send", (unsigned long long)token, queued ? "bytes" : "none", sends ? "a" : "no");
    if (connection->flags & CONNECTION_PAUSED && !queued && connection->state == IOCPD_OPEN)
        sim_fail("connection %llx is paused, and nothing is queued", (unsigned long long)token);
    if (connection->state == IOCPD_OPEN && !paused && !receives)
        sim_fail("connection %llx is open and does not receive", (unsigned long long)token);
    if (connection->state != IOCPD_DRAINING) return;
    bool answers = connection->flags & CONNECTION_ANSWERS, through = connection->flags & CONNECTION_END_SEEN;
    if (!through && !receives) sim_fail("connection %llx drains and does not receive", (unsigned long long)token);
    if (!queued && !answers && through) sim_fail("connection %llx is through and not closed", (unsigned long long)token);
    if (!queued && !answers && !(connection->flags & CONNECTION_END_SENT))
        sim_fail("connection %llx has sent all and no end of file", (unsigned long long)token);
    if (!connection->timer && (queued || !answers || connection->deadline_ns))
        sim_fail("connection %llx drains without a timer", (unsigned long long)token);
}

static void timers_check(const struct worker *worker) {
    const struct timers *timers = &worker->timers;
    for (uint32_t i = 0; i < timers->count; i++) {
        if (timers->heap[i].connection->timer != i + 1) sim_fail("worker %u: a timer has lost its connection", worker->number);
        if (i && timers->heap[(i - 1) / 2].at_ns > timers->heap[i].at_ns)
            sim_fail("worker %u: the timers are not in order", worker->number);
    }
}

static uint32_t commands_in(const struct message *message) {
    uint32_t count = 0;
    for (; message; message = message->next) count += message->kind >= MESSAGE_SEND && message->kind != MESSAGE_BARRIER;
    return count;
}

static void inbox_check(const struct worker *worker) {
    uint32_t count = commands_in(worker->inbox) + commands_in(worker->backlog), most = world.config.inbox_capacity;
    if (count > most) sim_fail("worker %u: %u commands in its inbox, and %u is the most", worker->number, count, most);
}

/* A connection that is here when the room ends may bring a receive more, or some when a cancel has lost its race. One that comes
 * later brings nothing but the word that it was here. */
static void services_check(struct iocpd_engine *engine) {
    for (uint32_t i = 0; i < engine->service_thread_count; i++) {
        iocpd_service_stats stats;
        iocpd_service_read(engine, i, &stats);
        const iocpd_listener_config *config = &world.listeners[stats.listener];
        uint64_t losses = world.faults & FAULT_CANCEL ? LOSSES : 1, connections = 0, here;
        for (uint32_t j = 0; j < sim_stream_count(); j++)
            connections += witnesses[j].attached && sim_stream_at(j)->listener == stats.listener;
        here = limits.largest.max_connections < connections ? limits.largest.max_connections : connections;
        uint64_t receive = world.config.receive_buffer_bytes + config->framing.max_bytes + LETTER_BYTES;
        if (stats.waiting_bytes > config->inbox_bytes + here * losses * receive + connections * SESSION_BYTES)
            sim_fail("%llu bytes wait for a service, and %u is the most", (unsigned long long)stats.waiting_bytes,
                     config->inbox_bytes);
    }
}

/* What waits at a worker is far less here than one turn does, but while connections end, and but for a service's answers: of them
 * some more are done in each turn. */
static void waiting_check(const struct worker *worker) {
    struct waiting *waits = &waiting[worker->number];
    const void *fanout = worker->fanouts.first, *leaving = worker->leaving.first;
    const struct message *message = worker->backlog;
    const struct replies *replies = message && message->kind == MESSAGE_REPLIES ? (const struct replies *)message : NULL;
    uint32_t replies_at = replies ? replies->at : 0;
    bool answers = replies_at > (replies == waits->replies ? waits->replies_at : 0);
    waits->replies = replies;
    waits->replies_at = replies_at;
    if (!message || answers) waits->backlog_turns = 0;
    else if (worker->closing_count == 0) waits->backlog_turns++;
    waits->fanout_turns = fanout && fanout == waits->fanout ? waits->fanout_turns + 1 : 0;
    waits->fanout = fanout;
    waits->leaving_turns = leaving && leaving == waits->leaving ? waits->leaving_turns + 1 : 0;
    waits->leaving = leaving;
    if (waits->backlog_turns > WAITING_TURNS || waits->fanout_turns > WAITING_TURNS || waits->leaving_turns > WAITING_TURNS)
        sim_fail("worker %u: what waits for it is not done for %u turns", worker->number, WAITING_TURNS);
}

/* Who arrives keeps what he has sent behind his header in its buffers until worker 0 has said whether he comes in, and that one
 * may just be left standing where it is. */
static bool buffers_wait_for_worker_0(const struct worker *worker) {
    for (uint32_t i = 0; i < sim_stream_count() && buffer_available(&worker->pool) == 0; i++) {
        const struct witness *witness = &witnesses[i];
        if (witness->attached && !witness->released && witness->worker == worker->number && witness->header.behind_count &&
            connection_of(sim_stream_at(i))->flags & CONNECTION_ENTERING)
            return true;
    }
    return false;
}

void oracle_not_served(struct sim_stream *stream, uint32_t turns) {
    const struct port_socket *socket = stream ? stream->socket : NULL;
    bool receives = socket && socket->receive.outstanding && !stream->receive.cancelled;
    /* Without memory for a copy, who does not read keeps his buffers until he is ended as slow. */
    if (receives && memory_has_failed()) return;
    if (receives && buffers_wait_for_worker_0(connection_of(stream)->worker)) {
        stream->receive.turns = 0;
        return;
    }
    if (stream) sim_fail("connection %u is ready, and for %u turns of its worker it has not been served", stream->number, turns);
    sim_fail("a client waits to be accepted, and for %u turns it has not been", turns);
}

void oracle_settled(const struct port *port, int64_t timeout_ns) {
    const struct worker *worker = CONTAINER_OF(port->pool, struct worker, pool);
    uint32_t open = 0, closing = 0, used = 0, pending = 0, leaving = 0;
    uint64_t pending_bytes = 0;
    if (!worker->port) return; /* it is just being opened */
    world.begun = worker->engine;
    admission_between();
    sim_still(true); /* what is read here has atomic operations too */
    waiting_check(worker);
    for (uint32_t slot = 0; slot < worker->table.high; slot++) {
        const struct connection *connection = &worker->table.chunks[slot / TABLE_CHUNK][slot % TABLE_CHUNK];
        if (connection->state == IOCPD_FREE) continue;
        connection_check(connection, sim_port_returned_ns(port));
        used++;
        open += connection->state == IOCPD_OPEN || connection->state == IOCPD_ARRIVING;
        closing += connection->state == IOCPD_CLOSING_STATE;
        leaving += connection->flags & CONNECTION_LEAVING ? 1 : 0;
        pending += connection->socket.receive.outstanding + connection->socket.send.outstanding;
        pending_bytes += connection->pending_bytes;
    }
    for (uint32_t i = 0; worker->number == 0 && i < worker->engine->listener_count; i++)
        pending += worker->engine->listeners[i].port.accept.outstanding;
    if (worker->dirty) sim_fail("worker %u goes to wait with dirty connections", worker->number);
    for (const struct connection *over = worker->leaving.first; over; over = over->next) leaving--;
    if (leaving) sim_fail("worker %u has lost connections that are over", worker->number);
    if (worker->leaving.first && timeout_ns != 0)
        sim_fail("worker %u goes to wait for something, and connections that are over wait for it", worker->number);
    if (worker->table.used != used || worker->open_count != open || worker->closing_count != closing)
        sim_fail("worker %u counts %u connections, %u open, %u closing; there are %u, %u, %u", worker->number, worker->table.used,
                 worker->open_count, worker->closing_count, used, open, closing);
    if (port->pending != pending)
        sim_fail("worker %u: %u operations are outstanding, and %u are counted", worker->number, pending, port->pending);
    if (worker->pending_bytes != pending_bytes) sim_fail("worker %u: pending_bytes is wrong", worker->number);
    if (worker->engine->relay_waiting > world.config.relay_capacity + LOSSES * (uint64_t)sim_stream_count())
        sim_fail("%llu relayed messages wait", (unsigned long long)worker->engine->relay_waiting);
    if (worker->engine->gate.ban_count > world.config.max_bans)
        sim_fail("%u bans, and %u is the most", worker->engine->gate.ban_count, world.config.max_bans);
    if (worker->pool.count > world.config.receive_buffers)
        sim_fail("worker %u: %u receive buffers, and %u is the most", worker->number, worker->pool.count,
                 world.config.receive_buffers);
    services_check(worker->engine);
    timers_check(worker);
    sim_still(false);
}

/* ---- after each step ------------------------------------------------------------------------------------------------------------ */

void oracle_step(void) {
    const iocpd_engine *engine = world.engine;
    if (!engine || engine->joined) return;
    admission_between();
    for (uint32_t i = 0; i < engine->worker_count; i++) {
        const struct worker *worker = &engine->workers[i];
        bool asleep = worker->port && !worker->exit && sim_port_asleep(worker->port);
        if (asleep && worker->inbox && worker->posters == 0) sim_fail("worker %u sleeps over its inbox", i);
        if (!asleep || !worker->attention) attention_ns[i] = 0;
        else if (!attention_ns[i]) attention_ns[i] = world.now_ns - world.jumped_ns;
        else if (world.now_ns - world.jumped_ns > attention_ns[i] + PATIENCE_NS)
            sim_fail("worker %u sleeps though it is asked for attention", i);
        inbox_check(worker);
    }
}

bool oracle_is_open(uint32_t number) {
    const struct witness *witness = &witnesses[number];
    return witness->attached && !witness->released && connection_of(sim_stream_at(number))->state == IOCPD_OPEN;
}

/* ---- the calm after the storm ----------------------------------------------------------------------------------------------------- */

/* NULL when everybody has what he is owed; otherwise what is missing. */
static const char *owed(uint32_t *who) {
    const iocpd_engine *engine = world.engine;
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        const struct sim_stream *stream = sim_stream_at(i);
        const struct witness *witness = &witnesses[i];
        *who = i;
        if (!witness->attached || witness->released) continue;
        const struct connection *connection = connection_of(stream);
        if (connection->state == IOCPD_CLOSING_STATE) return "closing";
        if (connection->pending_bytes) return "sent what is queued";
        if (connection->state == IOCPD_ARRIVING && !stream->client_ended) return "let in";
        if (connection->state != IOCPD_OPEN || stream->client_ended || stream->client_reset || stream->broken) return "ended";
        if (connection->flags & CONNECTION_PAUSES) return "allowed to go on";
        bool part = stream->whole_messages && stream->unread_bytes < stream->message_bytes;
        if (stream->unread_bytes && !part) return "read";
        if (echoes(witness->reader.listener) && !is_answered(stream, witness)) return "answered";
    }
    for (uint32_t i = 0; i < engine->listener_count && engine->drain.phase == IOCPD_PHASE_NONE; i++) {
        *who = i;
        if (!engine->listeners[i].port.accept.outstanding) return "listening (it is a listener)";
    }
    *who = (uint32_t)(engine->relay_waiting + engine->broadcasts);
    if (*who) return "sent on (so many messages are not)";
    return NULL;
}

bool oracle_is_calm(bool must) {
    uint32_t who;
    const char *missing = owed(&who);
    if (missing && must) sim_fail("in the calm, %u is never %s", who, missing);
    return !missing;
}

void oracle_calm(void) {
    for (uint32_t to = 0; to < sim_stream_count(); to++) {
        const struct witness *receiver = &witnesses[to];
        if (!receiver->attached || receiver->released || receiver->reader.listener->service != IOCPD_RELAY) continue;
        if (connection_of(sim_stream_at(to))->state != IOCPD_OPEN) continue;
        for (uint32_t from = 0; from < sim_stream_count(); from++) {
            const struct witness *sender = &witnesses[from];
            if (from == to || !sender->attached || sender->released || sender->writer.listener != receiver->reader.listener)
                continue;
            if (connection_of(sim_stream_at(from))->state != IOCPD_OPEN || sim_stream_at(from)->unread_bytes) continue;
            uint32_t whole = sender->writer.messages - (sender->writer.frame_at < sender->writer.frame_bytes);
            if (receiver->reader.last[from] && receiver->reader.last[from] != whole)
                sim_fail("connection %u has %u of %u messages of connection %u", to, receiver->reader.last[from], whole, from);
        }
    }
}

/* ---- the end ----------------------------------------------------------------------------------------------------------------------- */

void oracle_stopped(void) {
    for (uint32_t i = 0; i < sim_stream_count(); i++)
        if (witnesses[i].attached && !witnesses[i].released)
            sim_fail("the engine has stopped, and connection %u has not ended", i);
    counts_stopped();
}

void oracle_freed(void) {
    if (memory_blocks()) sim_fail("%llu blocks of memory are not freed", (unsigned long long)memory_blocks());
    if (sim_handles_open()) sim_fail("%u handles are not closed", sim_handles_open());
}

/* ---- what the engine tells of it ---------------------------------------------------------------------------------------------------- */

void oracle_events(const iocpd_event *events, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const iocpd_event *event = &events[i];
        if (event->kind != IOCPD_EVENT_CONNECTED && event->kind != IOCPD_EVENT_DISCONNECTED) continue;
        struct witness *witness = witness_of(event->token);
        if (!witness) { /* its CONNECTED comes before it is attached */
            if (event->kind == IOCPD_EVENT_CONNECTED && early_count < EARLY_MAX) early[early_count++] = event->token;
            if (event->kind == IOCPD_EVENT_DISCONNECTED)
                sim_fail("%llx has ended, which never was", (unsigned long long)event->token);
            continue;
        }
        bool end = event->kind == IOCPD_EVENT_DISCONNECTED;
        if (++*(end ? &witness->disconnected_events : &witness->connected_events) > 1)
            sim_fail("%llx has two events of one kind", (unsigned long long)event->token);
        if (end && !witness->released) sim_fail("%llx has ended by its event, and has not", (unsigned long long)event->token);
        if (end && event->reason != witness->reason)
            sim_fail("%llx: its event has another reason", (unsigned long long)event->token);
        arrival_told(witness, &(struct told){event->ip, event->via_ip, event->port, event->via_port},
                     end ? TOLD_ENDED : TOLD_OPEN);
        bool remembered = world.config.closed_capacity >= SIM_STREAMS_MAX; /* they stand in the closed record */
        if (end && remembered &&
            (event->bytes_in != witness->counted.bytes || event->messages_in != witness->counted.messages ||
             event->messages_out != witness->messages_out))
            sim_fail("%llx: its event has other counts", (unsigned long long)event->token);
    }
}

void oracle_closed(const iocpd_closed *rows, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const iocpd_closed *row = &rows[i];
        uint64_t token = row->connection.token;
        const struct witness *witness = witness_of(token);
        if (!witness || !witness->released) sim_fail("%llx is listed as closed, and is not", (unsigned long long)token);
        const struct sim_stream *stream = sim_stream_at((uint32_t)(witness - witnesses));
        if (row->connection.reason != witness->reason)
            sim_fail("%llx: its closed record has another reason", (unsigned long long)token);
        os_error_check(witness, witness->reason, row->os_error);
        if (row->connection.bytes_out != stream->sent || row->connection.bytes_in != witness->counted.bytes ||
            row->connection.messages_in != witness->counted.messages || row->connection.messages_out != witness->messages_out)
            sim_fail("%llx: its closed record has other counts", (unsigned long long)token);
        const iocpd_connection *who = &row->connection;
        arrival_told(witness, &(struct told){who->peer_ip, who->via_ip, who->peer_port, who->via_port}, TOLD_ENDED);
        if (i && row->closed_serial >= rows[i - 1].closed_serial) sim_fail("closed records are out of order");
        if (row->connection.listener != stream->listener)
            sim_fail("%llx: its closed record has another listener", (unsigned long long)token);
    }
}
