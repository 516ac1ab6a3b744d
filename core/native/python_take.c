/* python_take.c: from a service's inbox to batches; see python.h. */
#include "python_thread.h"

enum {
    RECORDS_MAX = 4096, /* in one batch */
    MESSAGES_MAX = 4096,
    OPENS_MAX = 1024,
    BATCH_BYTES = 256 * 1024, /* of messages in one batch; one that is larger comes alone */
    SESSIONS_MIN = 64,
};

/* ---- life ------------------------------------------------------------------------------------------------------------ */

bool batch_init(struct python_thread *thread) {
    thread->records = memory_new(RECORDS_MAX * sizeof *thread->records);
    thread->opens = memory_new(OPENS_MAX * sizeof *thread->opens);
    thread->lengths = memory_new(MESSAGES_MAX * sizeof *thread->lengths);
    thread->data = memory_new(BATCH_BYTES);
    thread->data_capacity = BATCH_BYTES;
    return thread->records && thread->opens && thread->lengths && thread->data;
}

void batch_free(struct python_thread *thread) {
    memory_free(thread->records);
    memory_free(thread->opens);
    memory_free(thread->lengths);
    memory_free(thread->data);
}

/* ---- sessions -------------------------------------------------------------------------------------------------------- */

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

/* ---- a batch --------------------------------------------------------------------------------------------------------- */

struct parcel *parcel_oldest(struct python_thread *thread) {
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
    session_handled(thread, parcel->session, sizeof(struct letter) + parcel->bytes - parcel->at);
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
            session_free(thread, session);
            return true;
        }
        record = record_add(thread, session, IOCPD_SERVICE_CLOSE);
        if (record) record->count = parcel->detail;
        return record != NULL;
    }
}

static void batch_fill(struct python_thread *thread) {
    for (struct parcel *parcel; (parcel = parcel_oldest(thread));) {
        struct parcel *next = parcel->next;
        if (!parcel_take(thread, parcel)) break;
        thread->backlog = next;
    }
    replies_post_all(thread);
    thread_resume(thread); /* what nobody will see is handled with that */
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

/* ---- for the thread -------------------------------------------------------------------------------------------------- */

/* What was in the last batch is handled, since the service comes for the next one. */
static void batch_handled(struct python_thread *thread) {
    for (uint32_t i = 0; i < thread->batch.record_count; i++) {
        const iocpd_service_record *record = &thread->records[i];
        struct session *session = thread->sessions[record->session];
        if (record->kind == IOCPD_SERVICE_MESSAGES) session_handled(thread, session, record->bytes);
        else if (record->kind == IOCPD_SERVICE_END) reply_add(thread, session, IOCPD_OP_ANSWERED, NULL);
        else if (record->kind == IOCPD_SERVICE_CLOSE) session_forget(thread, session);
    }
    thread->batch.record_count = 0;
    replies_post_all(thread);
    thread_resume(thread);
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
    stats->broadcasts_dropped = u64_load(&thread->broadcasts_dropped);
    stats->batches = u64_load(&thread->batches);
    stats->waiting_bytes = u64_load(&thread->waiting);
    stats->paused = u64_load(&thread->paused);
    stats->pauses = u64_load(&thread->pauses);
}
