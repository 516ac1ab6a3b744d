/* python_reply.c: what a service asks for, on its way to the workers; see python.h. */
#include "python_thread.h"

enum {
    REPLY_BYTES = 1024 * 1024,   /* of answers to one connection in one piece */
    REPLIES_BYTES_MAX = 4194304, /* of answers that workers have not queued yet: then the service waits */
    WAIT_MS = 100,
};

/* ---- sessions -------------------------------------------------------------------------------------------------------- */

void session_break(struct python_thread *thread, struct session *session) {
    struct worker *worker = &thread->engine->workers[token_worker(session->who.token)];
    u32_store_release(&session->broken, 1);
    u32_exchange(&worker->python_broken, 1);
    worker_wake(worker);
}

void session_free(struct python_thread *thread, struct session *session) {
    u64_add(&thread->waiting, 0 - (uint64_t)sizeof *session);
    memory_free(session);
}

void session_forget(struct python_thread *thread, struct session *session) {
    thread->sessions[session->number] = NULL;
    thread->free_numbers[thread->free_count++] = session->number;
    u64_bump(&thread->connections, (uint64_t)-1);
    session_free(thread, session);
}

struct session *session_at(const struct python_thread *thread, uint32_t number) {
    return number < thread->session_high ? thread->sessions[number] : NULL;
}

void session_handled(struct python_thread *thread, struct session *session, uint64_t bytes) {
    u64_add(&session->waiting, 0 - bytes);
    u64_add(&thread->waiting, 0 - bytes);
}

void thread_resume(struct python_thread *thread) {
    struct iocpd_engine *engine = thread->engine;
    if (u64_add(&thread->waiting, 0) > thread->limit_bytes / 2) return;
    if (!u32_load_ordered(&thread->blocked) || !u32_exchange(&thread->blocked, 0)) return;
    for (uint32_t i = 0; i < engine->worker_count; i++) {
        u32_exchange(&engine->workers[i].python_resume, 1);
        worker_wake(&engine->workers[i]);
    }
}

/* ---- answers --------------------------------------------------------------------------------------------------------- */

static void replies_post(struct python_thread *thread, uint32_t worker) {
    struct replies *replies = thread->replies[worker];
    thread->replies[worker] = NULL;
    if (!replies) return;
    u64_add(&thread->unqueued, replies->bytes);
    if (!worker_post(&thread->engine->workers[worker], &replies->message)) python_replies_abandon(&replies->message);
}

void replies_post_all(struct python_thread *thread) {
    for (uint32_t i = 0; i < thread->engine->worker_count; i++) replies_post(thread, i);
}

void reply_add(struct python_thread *thread, struct session *session, uint32_t kind, struct payload *payload) {
    uint32_t worker = token_worker(session->who.token);
    struct replies *replies = thread->replies[worker];
    bool broken = u32_load(&session->broken) != 0;
    if (!broken && !replies) {
        replies = thread->replies[worker] = memory_new(sizeof *replies);
        if (!replies) session_break(thread, session);
    }
    if (broken || !replies) {
        if (payload) payload_drop(payload);
        return;
    }
    if (replies->count == 0) {
        replies->message.kind = MESSAGE_REPLIES;
        replies->thread = thread;
    }
    replies->list[replies->count++] = (struct reply){.token = session->who.token, .payload = payload, .kind = kind};
    if (payload) replies->bytes += payload->bytes;
    if (replies->count == REPLIES_MAX) replies_post(thread, worker);
}

/* ---- operations ------------------------------------------------------------------------------------------------------ */

/* Where a reply stands. */
struct script {
    const uint32_t *lengths; /* of the next messages */
    const uint8_t *data;
    /* Of the next broadcast. */
    const uint8_t *labels;
    uint32_t label_bytes, except;
};

static uint32_t op_session(uint64_t op) { return (uint32_t)op; }
static uint32_t op_kind(uint64_t op) { return (uint32_t)(op >> 60); }
static uint32_t op_amount(uint64_t op) { return (uint32_t)(op >> 32) & 0x0fffffff; }

static struct payload *payload_of(const uint8_t *data, uint32_t bytes) {
    struct payload *payload = bytes ? payload_new(bytes) : NULL;
    if (payload) memcpy(payload->data, data, bytes);
    return payload;
}

/* Takes the next message of a SEND. */
static struct frame message_next(const struct python_thread *thread, struct script *script, const uint8_t *end) {
    struct frame message = {.message = script->data};
    if (thread->framing->kind == IOCPD_LINES) {
        const uint8_t *lf = memchr(script->data, '\n', (size_t)(end - script->data));
        message.message_bytes = (uint32_t)(lf - script->data);
        script->data = lf + 1;
    } else {
        message.message_bytes = *script->lengths++;
        script->data += message.message_bytes;
    }
    message.bytes = framing_encoded_bytes(thread->framing, message.message_bytes);
    return message;
}

/* Up to `count` messages in one piece; returns how many. */
static uint32_t piece_send(struct python_thread *thread, struct script *script, struct session *session, uint32_t count,
                           const uint8_t *end) {
    struct script ahead = *script;
    uint32_t messages = 0, bytes = 0;
    for (; messages < count && bytes < REPLY_BYTES; messages++) bytes += message_next(thread, &ahead, end).bytes;
    struct payload *payload = session && bytes ? payload_new(bytes) : NULL;
    if (payload) {
        uint8_t *out = payload->data;
        for (uint32_t i = 0; i < messages; i++) {
            struct frame message = message_next(thread, script, end);
            framing_encode(thread->framing, message.message, message.message_bytes, out);
            out += message.bytes;
        }
        payload->messages = messages;
        u64_bump(&thread->messages_out, messages);
    }
    *script = ahead;
    if (session && bytes && payload) reply_add(thread, session, IOCPD_OP_SEND, payload);
    else if (session && bytes) session_break(thread, session);
    return messages;
}

/* Whether messages stand in `data` as they go out, and can go in one piece. */
static bool sent_as_they_are(const iocpd_framing *framing, uint32_t bytes) {
    bool bare = framing->kind == IOCPD_RAW || framing->kind == IOCPD_FIXED || (framing->kind == IOCPD_LINES && !framing->crlf);
    return bare && bytes <= REPLY_BYTES;
}

static void block_send(struct python_thread *thread, struct script *script, struct session *session, uint32_t count,
                       uint32_t bytes) {
    struct payload *payload = session ? payload_of(script->data, bytes) : NULL;
    if (payload) {
        payload->messages = count;
        u64_bump(&thread->messages_out, count);
        reply_add(thread, session, IOCPD_OP_SEND, payload);
    } else if (session && bytes) {
        session_break(thread, session);
    }
    if (thread->framing->kind != IOCPD_LINES) script->lengths += count;
}

/* A broadcast, or an answer, may have to wait for workers. Others may use the thread meanwhile. */
static void wait_for_workers(struct python_thread *thread, bool broadcast) {
    struct iocpd_engine *engine = thread->engine;
    platform_mutex_unlock(&thread->mutex);
    while (engine_phase(engine) < IOCPD_PHASE_EXITING) {
        u32_exchange(&thread->reply_waits, 1);
        bool much = broadcast ? u64_add(&engine->relay_waiting, 0) >= engine->config.relay_capacity
                              : u64_add(&thread->unqueued, 0) >= REPLIES_BYTES_MAX;
        if (!much) break;
        platform_event_wait(thread->reply_event, broadcast ? 1 : WAIT_MS);
    }
    u32_exchange(&thread->reply_waits, 0);
    platform_mutex_lock(&thread->mutex);
}

static void broadcast_do(struct python_thread *thread, struct script *script, uint32_t bytes) {
    struct iocpd_engine *engine = thread->engine;
    struct session *except = session_at(thread, script->except);
    struct payload *payload = payload_new(framing_encoded_bytes(thread->framing, bytes));
    iocpd_filter filter = {.fields = IOCPD_BY_LISTENER, .listener = thread->listener};
    if (script->label_bytes) {
        filter.fields |= IOCPD_BY_ANY_LABEL;
        filter.labels = script->labels;
        filter.label_bytes = script->label_bytes;
    }
    iocpd_broadcast_config to = {.filter = &filter, .disconnect_slow = 1};
    if (except) {
        to.exclude = &except->who.token;
        to.exclude_count = 1;
    }
    script->label_bytes = 0;
    script->except = NUMBER_NONE;
    replies_post_all(thread); /* what was sent before comes before */
    if (payload) framing_encode(thread->framing, script->data, bytes, payload->data);
    if (!payload || !fanout_start(engine, &to, payload, NULL)) {
        if (payload) payload_drop(payload);
        u64_bump(&thread->broadcasts_dropped, 1);
        return;
    }
    u64_bump(&thread->messages_out, 1);
    if (u64_load(&engine->relay_waiting) >= engine->config.relay_capacity) wait_for_workers(thread, true);
}

static void op_do(struct python_thread *thread, struct script *script, uint64_t op, uint32_t bytes) {
    struct session *session = session_at(thread, op_session(op));
    uint32_t kind = op_kind(op), amount = op_amount(op);
    const uint8_t *end = script->data + bytes;
    switch (kind) {
    case IOCPD_OP_SEND:
        if (sent_as_they_are(thread->framing, bytes)) block_send(thread, script, session, amount, bytes);
        else
            while (amount > 0) amount -= piece_send(thread, script, session, amount, end);
        break;
    case IOCPD_OP_TO:
        script->labels = script->data;
        script->label_bytes = bytes;
        script->except = op_session(op);
        break;
    case IOCPD_OP_BROADCAST: broadcast_do(thread, script, bytes); break;
    case IOCPD_OP_HANDLED:
        if (session) session_handled(thread, session, amount);
        break;
    case IOCPD_OP_FORGET:
        if (session) session_forget(thread, session);
        break;
    default:
        if (session) reply_add(thread, session, kind, payload_of(script->data, bytes));
        break;
    }
    script->data = end;
}

void iocpd_service_reply(iocpd_engine *engine, uint32_t number, const uint64_t *ops, const uint32_t *sizes, uint32_t count,
                         const uint32_t *lengths, const uint8_t *data) {
    struct python_thread *thread = &engine->service_threads[number];
    struct script script = {.lengths = lengths, .data = data, .except = NUMBER_NONE};
    platform_mutex_lock(&thread->mutex);
    for (uint32_t i = 0; i < count; i++) op_do(thread, &script, ops[i], sizes[i]);
    replies_post_all(thread);
    if (thread->concurrent) thread_resume(thread);
    if (u64_load(&thread->unqueued) >= REPLIES_BYTES_MAX) wait_for_workers(thread, false);
    platform_mutex_unlock(&thread->mutex);
}
