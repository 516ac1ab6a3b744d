/* python.c: see python.h. */
#include "python.h"

#include "internal.h"

#include <stdio.h>

enum {
    RECORDS_MAX = 4096, /* in one batch */
    MESSAGES_MAX = 4096,
    OPENS_MAX = 1024,
    BATCH_BYTES = 256 * 1024,    /* of messages in one batch; one that is larger comes alone */
    REPLIES_MAX = 256,           /* in one message to a worker */
    REPLY_BYTES = 1024 * 1024,   /* of answers to one connection in one piece */
    REPLIES_BYTES_MAX = 4194304, /* of answers that workers have not queued yet: then the service waits */
    SHARE = 16,                  /* of the inbox is for one connection */
    SESSIONS_MIN = 64,
    WAIT_MS = 100,
};

/* Something that a thread is told. */
struct parcel {
    struct parcel *next;
    struct session *session;
    uint32_t kind;  /* enum iocpd_service_kind */
    uint32_t bytes; /* MESSAGES: of frames */
    uint32_t at;    /* MESSAGES: taken so far */
    uint32_t count; /* MESSAGES: how many */
    uint32_t detail;
};

struct letter { /* a parcel of MESSAGES */
    struct parcel parcel;
    uint8_t frames[];
};

struct session {
    struct parcel open, end, close;
    struct python_thread *thread;
    iocpd_service_open who;
    uint64_t waiting; /* atomic: bytes that are not handled */
    uint32_t broken;  /* atomic: the thread had no memory for it, so its stream has a hole; see session_break */
    uint32_t number;  /* the thread's; NUMBER_NONE: it does not know it */
    /* The worker's. */
    struct payload *farewell, *kick_text;
};

#define NUMBER_NONE UINT32_MAX

struct python_thread {
    struct iocpd_engine *engine;
    uint32_t listener;
    const iocpd_framing *framing;
    bool concurrent;
    uint64_t limit_bytes, share_bytes;

    void *inbox;          /* atomic: stack of parcels */
    uint64_t waiting;     /* atomic: bytes that are not handled */
    uint32_t blocked;     /* atomic: some connection is paused until it is less */
    uint32_t sleeping;    /* atomic: who pushes must set the event */
    uint64_t unqueued;    /* atomic: bytes of answers on their way to workers */
    uint32_t reply_waits; /* atomic: who makes it less must set the event */
    uint64_t paused;      /* atomic: connections */
    uint64_t pauses;      /* atomic */
    platform_event event, reply_event;
    int events; /* how many of the two are open */

    platform_mutex mutex; /* of what follows: a take and a reply may overlap. Workers never lock it. */
    struct parcel *backlog;
    struct session **sessions; /* by number */
    uint32_t *free_numbers;
    uint32_t session_high, session_capacity, free_count;
    struct replies *replies[IOCPD_WORKERS_MAX]; /* being filled */
    iocpd_service_batch batch;
    iocpd_service_record *records;
    iocpd_service_open *opens;
    uint32_t *lengths;
    uint8_t *data;
    uint32_t data_capacity;
    /* Read by anyone. */
    uint64_t connections, messages_in, messages_out, batches;
};

struct reply {
    uint64_t token;
    struct payload *payload;
    uint32_t kind;
};

struct replies {
    struct message message; /* first */
    struct python_thread *thread;
    uint64_t bytes;
    uint32_t count;
    struct reply list[REPLIES_MAX];
};

/* ---- life ------------------------------------------------------------------------------------------------------------ */

static int thread_init(struct python_thread *thread, struct iocpd_engine *engine, const struct listener *listener) {
    const iocpd_listener_config *config = &listener->config;
    thread->engine = engine;
    thread->listener = listener->number;
    thread->framing = &listener->config.framing;
    thread->concurrent = config->concurrent != 0;
    thread->limit_bytes = config->inbox_bytes;
    thread->share_bytes = config->inbox_bytes / SHARE;
    thread->records = memory_new(RECORDS_MAX * sizeof *thread->records);
    thread->opens = memory_new(OPENS_MAX * sizeof *thread->opens);
    thread->lengths = memory_new(MESSAGES_MAX * sizeof *thread->lengths);
    thread->data = memory_new(BATCH_BYTES);
    thread->data_capacity = BATCH_BYTES;
    if (!thread->records || !thread->opens || !thread->lengths || !thread->data) return -1;
    int error = platform_event_open(&thread->event);
    if (error) return error;
    thread->events = 1;
    error = platform_event_open(&thread->reply_event);
    if (error) return error;
    thread->events = 2;
    platform_mutex_init(&thread->mutex);
    return 0;
}

int python_init(struct iocpd_engine *engine) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < engine->listener_count; i++) count += engine->listeners[i].config.threads;
    engine->service_threads = memory_new((count + 1) * sizeof *engine->service_threads);
    if (!engine->service_threads) return -1;
    for (uint32_t i = 0; i < engine->listener_count; i++) {
        struct listener *listener = &engine->listeners[i];
        listener->first_thread = engine->service_thread_count;
        for (uint32_t j = 0; j < listener->config.threads; j++) {
            int error = thread_init(&engine->service_threads[engine->service_thread_count++], engine, listener);
            if (error) return error;
        }
    }
    return 0;
}

static struct parcel *parcel_pop(struct python_thread *thread) {
    if (!thread->backlog) {
        struct parcel *newest = pointer_exchange(&thread->inbox, NULL), *oldest = NULL;
        while (newest) {
            struct parcel *next = newest->next;
            newest->next = oldest;
            oldest = newest;
            newest = next;
        }
        thread->backlog = oldest;
    }
    return thread->backlog;
}

static void thread_destroy(struct python_thread *thread) {
    /* Every connection has ended, so each session's CLOSE is here, or was taken and not handled. */
    for (struct parcel *parcel; (parcel = parcel_pop(thread));) {
        thread->backlog = parcel->next;
        if (parcel->kind == IOCPD_SERVICE_MESSAGES) memory_free(parcel);
        if (parcel->kind != IOCPD_SERVICE_CLOSE) continue;
        if (parcel->session->number != NUMBER_NONE) thread->sessions[parcel->session->number] = NULL;
        memory_free(parcel->session);
    }
    for (uint32_t i = 0; i < thread->session_high; i++) memory_free(thread->sessions[i]);
    memory_free(thread->sessions);
    memory_free(thread->free_numbers);
    memory_free(thread->records);
    memory_free(thread->opens);
    memory_free(thread->lengths);
    memory_free(thread->data);
    if (thread->events > 0) platform_event_close(thread->event);
    if (thread->events < 2) return;
    platform_event_close(thread->reply_event);
    platform_mutex_destroy(&thread->mutex);
}

void python_destroy(struct iocpd_engine *engine) {
    for (uint32_t i = 0; i < engine->service_thread_count; i++) thread_destroy(&engine->service_threads[i]);
    memory_free(engine->service_threads);
}

/* ---- the worker's end: what is received --------------------------------------------------------------------------------- */

/* python_wake follows in the same turn. */
static void push(struct worker *worker, struct parcel *parcel) {
    struct python_thread *thread = parcel->session->thread;
    void *head;
    do {
        head = pointer_load_acquire(&thread->inbox);
        parcel->next = head;
    } while (!pointer_swap_if(&thread->inbox, head, parcel));
    worker->python_pushed = true;
}

void python_wake(struct worker *worker) {
    struct iocpd_engine *engine = worker->engine;
    worker->python_pushed = false;
    for (uint32_t i = 0; i < engine->service_thread_count; i++) {
        struct python_thread *thread = &engine->service_threads[i];
        if (!pointer_load_acquire(&thread->inbox)) continue;
        /* Pushed first, asked then: the thread says that it sleeps and then looks. */
        if (u32_load_ordered(&thread->sleeping) && u32_exchange(&thread->sleeping, 0)) platform_event_set(thread->event);
    }
}

void python_open(struct connection *connection) {
    struct iocpd_engine *engine = connection->worker->engine;
    const struct listener *listener = &engine->listeners[connection->listener];
    struct session *session = memory_new(sizeof *session);
    if (!session) {
        connection_terminate(connection, IOCPD_OUT_OF_MEMORY, true);
        return;
    }
    session->thread =
        &engine->service_threads[listener->first_thread + (uint32_t)(connection->serial % listener->config.threads)];
    session->number = NUMBER_NONE;
    session->open = (struct parcel){.session = session, .kind = IOCPD_SERVICE_OPEN};
    session->end = (struct parcel){.session = session, .kind = IOCPD_SERVICE_END};
    session->close = (struct parcel){.session = session, .kind = IOCPD_SERVICE_CLOSE};
    session->who.token = connection_token(connection);
    memcpy(session->who.peer_ip, connection->peer_ip, 16);
    memcpy(session->who.local_ip, connection->local_ip, 16);
    session->who.peer_port = (uint16_t)(connection->ports >> 16);
    session->who.local_port = (uint16_t)connection->ports;
    connection->session = session;
    push(connection->worker, &session->open);
}

static bool too_much(struct session *session) {
    struct python_thread *thread = session->thread;
    return u64_add(&thread->waiting, 0) >= thread->limit_bytes || u64_add(&session->waiting, 0) >= thread->share_bytes;
}

static bool little_enough(struct session *session) {
    struct python_thread *thread = session->thread;
    return u64_add(&thread->waiting, 0) <= thread->limit_bytes / 2 && u64_add(&session->waiting, 0) <= thread->share_bytes / 2;
}

void python_whole(struct connection *connection, const struct frames *frames) {
    struct session *session = connection->session;
    uint32_t bytes = frames->rest_bytes + frames->bytes;
    struct letter *letter = session && !u32_load(&session->broken) ? memory_new(sizeof *letter + bytes) : NULL;
    if (!letter) {
        connection_terminate(connection, IOCPD_OUT_OF_MEMORY, true);
        return;
    }
    struct python_thread *thread = session->thread;
    letter->parcel = (struct parcel){.session = session, .kind = IOCPD_SERVICE_MESSAGES, .bytes = bytes, .count = frames->count};
    frames_copy(frames, letter->frames);
    u64_add(&session->waiting, sizeof *letter + bytes);
    u64_add(&thread->waiting, sizeof *letter + bytes);
    push(connection->worker, &letter->parcel);
    if (!too_much(session)) return;
    u32_exchange(&thread->blocked, 1); /* whoever makes it less from here on wakes us */
    if (!too_much(session)) return;
    if (connection->flags & CONNECTION_PYTHON_PAUSED) return;
    u64_add(&thread->paused, 1);
    u64_add(&thread->pauses, 1);
    connection_python_pause(connection);
}

/* All of the table, since this needs no memory and is rare. */
static void broken_turn(struct worker *worker) {
    u32_exchange(&worker->python_broken, 0); /* before the look */
    for (uint32_t slot = 0; slot < worker->table.high; slot++) {
        struct connection *connection = table_at(&worker->table, slot);
        if (connection->session && u32_load_acquire(&connection->session->broken))
            connection_terminate(connection, IOCPD_OUT_OF_MEMORY, true);
    }
}

void python_turn(struct worker *worker) {
    if (u32_load(&worker->python_broken)) broken_turn(worker);
    if (!u32_load(&worker->python_resume)) return;
    u32_exchange(&worker->python_resume, 0);
    for (struct connection **at = &worker->python_paused; *at;) {
        struct connection *connection = *at;
        struct session *session = connection->session;
        u32_exchange(&session->thread->blocked, 1); /* before the look, as above */
        if (little_enough(session)) {
            *at = connection->next_paused;
            u64_add(&session->thread->paused, (uint64_t)-1);
            connection_python_resume(connection);
        } else {
            at = &connection->next_paused;
        }
    }
}

bool python_waiting(const struct connection *connection) {
    return connection->session && u64_load(&connection->session->waiting) > 0;
}

bool python_answers(enum iocpd_reason reason) {
    switch (reason) {
    case IOCPD_CLIENT_CLOSED:
    case IOCPD_DRAINED:
    case IOCPD_SHUTDOWN:
    case IOCPD_FRAME_TOO_LARGE: return true;
    default: return false;
    }
}

void python_end(struct connection *connection, struct payload *farewell) {
    struct session *session = connection->session;
    if (farewell) payload_hold(farewell);
    session->farewell = farewell;
    push(connection->worker, &session->end);
}

struct payload *python_farewell(struct connection *connection) {
    struct payload *farewell = connection->session->farewell;
    connection->session->farewell = NULL;
    return farewell;
}

void python_kick_text(const struct connection *connection, char *text, size_t bytes) {
    const struct payload *said = connection->session->kick_text;
    if (said) snprintf(text, bytes, "%.*s", (int)said->bytes, (const char *)said->data);
}

void python_closed(struct connection *connection) {
    struct session *session = connection->session;
    connection->session = NULL;
    if (connection->flags & CONNECTION_PYTHON_PAUSED) u64_add(&session->thread->paused, (uint64_t)-1);
    if (session->farewell) payload_drop(session->farewell);
    if (session->kick_text) payload_drop(session->kick_text);
    session->farewell = session->kick_text = NULL;
    session->close.detail = connection->reason;
    push(connection->worker, &session->close);
}

/* ---- the worker's end: what the service does ------------------------------------------------------------------------------ */

static void kick(struct connection *connection, struct reply *reply) {
    struct session *session = connection->session;
    if (session && !session->kick_text) {
        session->kick_text = reply->payload;
        reply->payload = NULL;
    }
    if (reply->kind == IOCPD_OP_RESET) connection_terminate(connection, IOCPD_KICKED, true);
}

static void reply_do(struct worker *worker, struct reply *reply) {
    struct connection *connection = table_find(&worker->table, reply->token);
    int64_t patience_ns = worker->now_ns + (int64_t)u32_load(&worker->engine->config.send_soft_ms) * 1000000;
    if (connection) {
        switch (reply->kind) {
        case IOCPD_OP_SEND:
            connection_answer(connection, reply->payload, true);
            reply->payload = NULL;
            break;
        case IOCPD_OP_CLOSE: connection_drain(connection, IOCPD_SERVICE_CLOSED, NULL, patience_ns); break;
        case IOCPD_OP_FAIL: connection_drain(connection, IOCPD_SERVICE_ERROR, NULL, patience_ns); break;
        case IOCPD_OP_KICK:
            kick(connection, reply);
            connection_drain(connection, IOCPD_KICKED, NULL, patience_ns);
            break;
        case IOCPD_OP_RESET: kick(connection, reply); break;
        default: connection_answered(connection); break;
        }
    }
    if (reply->payload) payload_drop(reply->payload);
}

/* The answers are in their connections' queues, which have bounds of their own, or nowhere. */
static void replies_done(struct replies *replies) {
    struct python_thread *thread = replies->thread;
    u64_add(&thread->unqueued, 0 - replies->bytes);
    memory_free(replies);
    if (u32_load_ordered(&thread->reply_waits) && u32_exchange(&thread->reply_waits, 0)) platform_event_set(thread->reply_event);
}

void python_replies(struct worker *worker, struct message *message) {
    struct replies *replies = (struct replies *)message;
    for (uint32_t i = 0; i < replies->count; i++) reply_do(worker, &replies->list[i]);
    replies_done(replies);
}

void python_replies_abandon(struct message *message) {
    struct replies *replies = (struct replies *)message;
    for (uint32_t i = 0; i < replies->count; i++)
        if (replies->list[i].payload) payload_drop(replies->list[i].payload);
    replies_done(replies);
}

/* ---- the thread's end: sessions -------------------------------------------------------------------------------------------- */

static bool sessions_grow(struct python_thread *thread) {
    uint32_t before = thread->session_capacity, capacity = before ? before * 2 : SESSIONS_MIN;
    struct session **sessions = memory_new(capacity * sizeof *sessions);
    uint32_t *numbers = memory_new(capacity * sizeof *numbers);
    if (!sessions || !numbers) {
        memory_free(sessions);
        memory_free(numbers);
        return false;
    }
    if (before) memcpy(sessions, thread->sessions, before * sizeof *sessions);
    if (thread->free_count) memcpy(numbers, thread->free_numbers, thread->free_count * sizeof *numbers);
    memory_free(thread->sessions);
    memory_free(thread->free_numbers);
    thread->sessions = sessions;
    thread->free_numbers = numbers;
    thread->session_capacity = capacity;
    return true;
}

/* Something that was for this connection, or its answer, is lost for want of memory. Nothing may follow the hole: its worker ends
 * it, which needs none. */
static void session_break(struct python_thread *thread, struct session *session) {
    struct worker *worker = &thread->engine->workers[token_worker(session->who.token)];
    u32_store_release(&session->broken, 1);
    u32_exchange(&worker->python_broken, 1);
    worker_wake(worker);
}

static void session_number(struct python_thread *thread, struct session *session) {
    if (thread->free_count) {
        session->number = thread->free_numbers[--thread->free_count];
    } else if (thread->session_high < thread->session_capacity || sessions_grow(thread)) {
        session->number = thread->session_high++;
    } else {
        session_break(thread, session);
        return;
    }
    thread->sessions[session->number] = session;
    u64_bump(&thread->connections, 1);
}

static void session_forget(struct python_thread *thread, struct session *session) {
    thread->sessions[session->number] = NULL;
    thread->free_numbers[thread->free_count++] = session->number;
    u64_bump(&thread->connections, (uint64_t)-1);
    memory_free(session);
}

static struct session *session_at(const struct python_thread *thread, uint32_t number) {
    return number < thread->session_high ? thread->sessions[number] : NULL;
}

static void give_back(struct python_thread *thread, struct session *session, uint64_t bytes) {
    u64_add(&session->waiting, 0 - bytes);
    u64_add(&thread->waiting, 0 - bytes);
}

static void resume_others(struct python_thread *thread) {
    struct iocpd_engine *engine = thread->engine;
    if (u64_add(&thread->waiting, 0) > thread->limit_bytes / 2) return;
    if (!u32_load_ordered(&thread->blocked) || !u32_exchange(&thread->blocked, 0)) return;
    for (uint32_t i = 0; i < engine->worker_count; i++) {
        u32_exchange(&engine->workers[i].python_resume, 1);
        worker_wake(&engine->workers[i]);
    }
}

/* ---- the thread's end: answers --------------------------------------------------------------------------------------------- */

static void replies_post(struct python_thread *thread, uint32_t worker) {
    struct replies *replies = thread->replies[worker];
    thread->replies[worker] = NULL;
    if (!replies) return;
    u64_add(&thread->unqueued, replies->bytes);
    if (!worker_post(&thread->engine->workers[worker], &replies->message)) python_replies_abandon(&replies->message);
}

static void replies_post_all(struct python_thread *thread) {
    for (uint32_t i = 0; i < thread->engine->worker_count; i++) replies_post(thread, i);
}

/* Takes the payload over. */
static void reply_add(struct python_thread *thread, struct session *session, uint32_t kind, struct payload *payload) {
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

/* What was in the last batch is handled, since the service comes for the next one. */
static void batch_handled(struct python_thread *thread) {
    for (uint32_t i = 0; i < thread->batch.record_count; i++) {
        const iocpd_service_record *record = &thread->records[i];
        struct session *session = thread->sessions[record->session];
        if (record->kind == IOCPD_SERVICE_MESSAGES) give_back(thread, session, record->bytes);
        else if (record->kind == IOCPD_SERVICE_END) reply_add(thread, session, IOCPD_OP_ANSWERED, NULL);
        else if (record->kind == IOCPD_SERVICE_CLOSE) session_forget(thread, session);
    }
    thread->batch.record_count = 0;
    replies_post_all(thread);
    resume_others(thread);
}

/* ---- the thread's end: a batch ----------------------------------------------------------------------------------------------- */

static bool data_room(struct python_thread *thread, uint32_t bytes) {
    uint32_t used = thread->batch.bytes;
    if (bytes <= thread->data_capacity - used) return true;
    if (used > 0) return false; /* in the next batch */
    uint8_t *larger = memory_new(bytes);
    if (!larger) return false;
    memory_free(thread->data);
    thread->data = larger;
    thread->data_capacity = bytes;
    return true;
}

static void batch_begin(struct python_thread *thread) {
    memset(&thread->batch, 0, sizeof thread->batch);
    if (thread->data_capacity == BATCH_BYTES) return;
    uint8_t *usual = memory_new(BATCH_BYTES);
    if (!usual) return;
    memory_free(thread->data);
    thread->data = usual;
    thread->data_capacity = BATCH_BYTES;
}

static iocpd_service_record *record_add(struct python_thread *thread, struct session *session, uint32_t kind) {
    iocpd_service_batch *batch = &thread->batch;
    iocpd_service_record *last = batch->record_count ? &thread->records[batch->record_count - 1] : NULL;
    if (kind == IOCPD_SERVICE_MESSAGES && last && last->kind == kind && last->session == session->number) return last;
    if (batch->record_count == RECORDS_MAX) return NULL;
    iocpd_service_record *record = &thread->records[batch->record_count++];
    *record = (iocpd_service_record){.session = session->number, .kind = kind};
    return record;
}

/* The next message of the parcel; false when there is no room for it. */
static bool message_take(struct python_thread *thread, struct letter *letter, iocpd_service_record *record) {
    struct parcel *parcel = &letter->parcel;
    iocpd_service_batch *batch = &thread->batch;
    struct frame frame = framing_next(thread->framing, letter->frames + parcel->at, parcel->bytes - parcel->at);
    if (batch->message_count == MESSAGES_MAX || !data_room(thread, frame.message_bytes)) return false;
    memcpy(thread->data + batch->bytes, frame.message, frame.message_bytes);
    batch->bytes += frame.message_bytes;
    record->data_bytes += frame.message_bytes;
    thread->lengths[batch->message_count++] = frame.message_bytes;
    parcel->at += frame.bytes;
    record->count++;
    record->bytes += frame.bytes;
    return true;
}

/* Lines are as they came, but for a CR before LF. Returns how many bytes they have become. */
static uint32_t lines_copy(uint8_t *to, const uint8_t *frames, uint32_t bytes) {
    const uint8_t *end = frames + bytes;
    uint8_t *out = to;
    for (const uint8_t *cr; (cr = memchr(frames, '\r', (size_t)(end - frames)));) {
        size_t share = (size_t)(cr - frames) + (cr[1] != '\n'); /* the last byte is an LF */
        memcpy(out, frames, share);
        out += share;
        frames = cr + 1;
    }
    memcpy(out, frames, (size_t)(end - frames));
    return (uint32_t)(out + (end - frames) - to);
}

/* All of a parcel at once: what a receive has brought, so its lines are no more than its bytes. */
static bool lines_take(struct python_thread *thread, struct letter *letter, iocpd_service_record *record) {
    struct parcel *parcel = &letter->parcel;
    iocpd_service_batch *batch = &thread->batch;
    if (batch->message_count >= MESSAGES_MAX || !data_room(thread, parcel->bytes)) return false;
    uint32_t bytes = lines_copy(thread->data + batch->bytes, letter->frames, parcel->bytes);
    batch->bytes += bytes;
    batch->message_count += parcel->count;
    record->data_bytes += bytes;
    record->count += parcel->count;
    record->bytes += parcel->bytes;
    parcel->at = parcel->bytes;
    return true;
}

/* Nobody will see it. */
static void messages_drop(struct python_thread *thread, struct parcel *parcel) {
    give_back(thread, parcel->session, sizeof(struct letter) + parcel->bytes - parcel->at);
    memory_free(parcel);
}

static bool messages_take(struct python_thread *thread, struct parcel *parcel) {
    struct letter *letter = (struct letter *)parcel;
    struct session *session = parcel->session;
    bool lines = thread->framing->kind == IOCPD_LINES;
    if (session->number == NUMBER_NONE || u32_load(&session->broken)) {
        messages_drop(thread, parcel);
        return true;
    }
    iocpd_service_record *record = record_add(thread, session, IOCPD_SERVICE_MESSAGES);
    if (!record) return false;
    while (parcel->at < parcel->bytes) {
        if (lines ? lines_take(thread, letter, record) : message_take(thread, letter, record)) continue;
        if (record->count == 0) thread->batch.record_count--; /* an empty one is always the last */
        if (thread->batch.record_count > 0) return false;
        session_break(thread, session); /* no memory for this alone */
        messages_drop(thread, parcel);
        return true;
    }
    record->bytes += sizeof *letter;
    memory_free(letter);
    return true;
}

static bool parcel_take(struct python_thread *thread, struct parcel *parcel) {
    struct session *session = parcel->session;
    iocpd_service_record *record;
    switch (parcel->kind) {
    case IOCPD_SERVICE_MESSAGES: return messages_take(thread, parcel);
    case IOCPD_SERVICE_OPEN:
        if (thread->batch.open_count == OPENS_MAX || thread->batch.record_count == RECORDS_MAX) return false;
        session_number(thread, session);
        if (session->number == NUMBER_NONE) return true;
        record = record_add(thread, session, IOCPD_SERVICE_OPEN);
        record->count = thread->batch.open_count;
        thread->opens[thread->batch.open_count++] = session->who;
        return true;
    case IOCPD_SERVICE_END: return session->number == NUMBER_NONE || record_add(thread, session, IOCPD_SERVICE_END) != NULL;
    default:
        if (session->number == NUMBER_NONE) {
            memory_free(session);
            return true;
        }
        record = record_add(thread, session, IOCPD_SERVICE_CLOSE);
        if (record) record->count = parcel->detail;
        return record != NULL;
    }
}

static void batch_fill(struct python_thread *thread) {
    for (struct parcel *parcel; (parcel = parcel_pop(thread));) {
        struct parcel *next = parcel->next;
        if (!parcel_take(thread, parcel)) break;
        thread->backlog = next;
    }
    replies_post_all(thread);
    if (!thread->batch.record_count) return;
    u64_bump(&thread->batches, 1);
    u64_bump(&thread->messages_in, thread->batch.message_count);
    thread->batch.records = thread->records;
    thread->batch.opens = thread->opens;
    thread->batch.lengths = thread->lengths;
    thread->batch.data = thread->data;
}

static bool batch_take(struct python_thread *thread, iocpd_service_batch *out) {
    platform_mutex_lock(&thread->mutex);
    batch_begin(thread);
    batch_fill(thread);
    *out = thread->batch;
    platform_mutex_unlock(&thread->mutex);
    return out->record_count > 0;
}

int32_t iocpd_service_take(iocpd_engine *engine, uint32_t number, uint32_t timeout_ms, iocpd_service_batch *batch) {
    struct python_thread *thread = &engine->service_threads[number];
    platform_mutex_lock(&thread->mutex);
    if (!thread->concurrent) batch_handled(thread);
    platform_mutex_unlock(&thread->mutex);
    if (batch_take(thread, batch) || timeout_ms == 0) return IOCPD_OK;
    bool stopped = engine_phase(engine) == IOCPD_PHASE_STOPPED; /* asked before the last look: nothing is pushed after it */
    u32_exchange(&thread->sleeping, 1);
    if (!batch_take(thread, batch)) {
        if (stopped) return IOCPD_STOPPED;
        platform_event_wait(thread->event, timeout_ms);
        batch_take(thread, batch);
    }
    u32_exchange(&thread->sleeping, 0);
    return IOCPD_OK;
}

void iocpd_service_wake(iocpd_engine *engine, uint32_t thread) { platform_event_set(engine->service_threads[thread].event); }

void iocpd_service_read(iocpd_engine *engine, uint32_t number, iocpd_service_stats *stats) {
    const struct python_thread *thread = &engine->service_threads[number];
    stats->listener = thread->listener;
    stats->connections = u64_load(&thread->connections);
    stats->messages_in = u64_load(&thread->messages_in);
    stats->messages_out = u64_load(&thread->messages_out);
    stats->batches = u64_load(&thread->batches);
    stats->waiting_bytes = u64_load(&thread->waiting);
    stats->paused = u64_load(&thread->paused);
    stats->pauses = u64_load(&thread->pauses);
}

/* ---- the thread's end: what it asks for ----------------------------------------------------------------------------------------- */

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
    if (!payload) return;
    framing_encode(thread->framing, script->data, bytes, payload->data);
    replies_post_all(thread); /* what was sent before comes before */
    if (!fanout_start(engine, &to, payload, NULL)) payload_drop(payload);
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
        if (session) give_back(thread, session, amount);
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
    if (thread->concurrent) resume_others(thread);
    if (u64_load(&thread->unqueued) >= REPLIES_BYTES_MAX) wait_for_workers(thread, false);
    platform_mutex_unlock(&thread->mutex);
}
