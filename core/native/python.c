/* python.c: services in Python: their threads' life, and the workers' end. See python.h. */
#include "python_thread.h"

#include <stdio.h>

enum {
    SHARE = 16,          /* of the inbox is for one connection */
    LOOKS_PER_TURN = 64, /* at paused senders */
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
    if (!batch_init(thread)) return -1;
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

static void thread_destroy(struct python_thread *thread) {
    /* Every connection has ended, so each session's CLOSE is here, or was taken and not handled. */
    for (struct parcel *parcel; (parcel = parcel_oldest(thread));) {
        thread->backlog = parcel->next;
        if (parcel->kind == IOCPD_SERVICE_MESSAGES) memory_free(parcel);
        if (parcel->kind != IOCPD_SERVICE_CLOSE) continue;
        if (parcel->session->number != NUMBER_NONE) thread->sessions[parcel->session->number] = NULL;
        memory_free(parcel->session);
    }
    for (uint32_t i = 0; i < thread->session_high; i++) memory_free(thread->sessions[i]);
    memory_free(thread->sessions);
    memory_free(thread->free_numbers);
    batch_free(thread);
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

static bool too_much(struct session *session) {
    struct python_thread *thread = session->thread;
    return u64_add(&thread->waiting, 0) >= thread->limit_bytes || u64_add(&session->waiting, 0) >= thread->share_bytes;
}

static void pause_if_too_much(struct connection *connection) {
    struct session *session = connection->session;
    struct python_thread *thread = session->thread;
    if (!too_much(session)) return;
    u32_exchange(&thread->blocked, 1); /* whoever makes it less from here on wakes us */
    if (!too_much(session)) return;
    if (connection->flags & CONNECTION_PYTHON_PAUSED) return;
    u64_add(&thread->paused, 1);
    u64_add(&thread->pauses, 1);
    connection_python_pause(connection);
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
    memcpy(session->who.via_ip, connection->via_ip, 16);
    session->who.via_port = (uint16_t)connection->via_port;
    connection->session = session;
    push(connection->worker, &session->open);
    pause_if_too_much(connection); /* or clients that come and go would bring more and more */
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
    pause_if_too_much(connection);
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

/* Who is to wait on goes to the end of the list. */
static bool resume_turn(struct worker *worker) {
    struct paused *paused = &worker->python_paused;
    uint32_t resumes = 0;
    for (uint32_t i = 0; i < LOOKS_PER_TURN && resumes < RESUMES_PER_TURN && worker->python_looks > 0; i++) {
        struct connection *connection = paused_first(paused, &worker->table);
        if (!connection) break;
        struct session *session = connection->session;
        worker->python_looks--;
        u32_exchange(&session->thread->blocked, 1); /* before the look, as above */
        if (little_enough(session)) {
            resumes++;
            u64_add(&session->thread->paused, (uint64_t)-1);
            connection_python_resume(connection);
        } else {
            paused_remove(paused, connection);
            paused_add(paused, connection);
        }
    }
    if (!paused->count) worker->python_looks = 0;
    return worker->python_looks > 0;
}

bool python_turn(struct worker *worker) {
    if (u32_load(&worker->python_broken)) broken_turn(worker);
    if (u32_load(&worker->python_resume)) {
        u32_exchange(&worker->python_resume, 0);
        worker->python_looks = worker->python_paused.count;
    }
    return resume_turn(worker);
}

bool python_waiting(const struct connection *connection) {
    return connection->flags & CONNECTION_PYTHON_PAUSED || (connection->session && u64_load(&connection->session->waiting) > 0);
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
    u64_add(&session->thread->waiting, sizeof *session); /* until it is forgotten */
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

bool python_replies(struct worker *worker, struct message *message, uint32_t *left) {
    struct replies *replies = (struct replies *)message;
    for (; replies->at < replies->count && *left > 0; *left = worker_ends_enough(worker) ? 0 : *left - 1)
        reply_do(worker, &replies->list[replies->at++]);
    if (replies->at < replies->count) return false;
    replies_done(replies);
    return true;
}

void python_replies_abandon(struct message *message) {
    struct replies *replies = (struct replies *)message;
    for (uint32_t i = replies->at; i < replies->count; i++)
        if (replies->list[i].payload) payload_drop(replies->list[i].payload);
    replies_done(replies);
}
