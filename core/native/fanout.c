/* fanout.c: see fanout.h. */
#include "fanout.h"

#include "internal.h"

enum { SLICE = 512 }; /* slots or targets that one turn looks at */

struct fanout_part {
    struct message message; /* first */
    struct fanout *fanout;
    struct fanout_part *next;
};

struct fanout {
    struct iocpd_engine *engine;
    iocpd_filter filter;
    const uint64_t *targets; /* those alone; NULL: all that the filter matches */
    const uint64_t *exclude; /* ascending */
    uint32_t target_count, exclude_count;
    bool disconnect_slow;
    uint64_t last_serial; /* who came later is not meant */
    struct payload *payload;
    struct iocpd_ticket *ticket; /* NULL: a relay */
    uint32_t parts_left;         /* atomic */
    struct fanout_part parts[];
};

/* A relay with few messages waiting lets those go on that it had paused. */
static void relay_done(struct iocpd_engine *engine) {
    uint64_t waiting = u64_add(&engine->relay_waiting, (uint64_t)-1) - 1;
    if (waiting <= engine->config.relay_capacity / 2 && u32_load_ordered(&engine->relay_blocked) &&
        u32_exchange(&engine->relay_blocked, 0))
        engine_wake_all(engine);
}

static void part_done(struct fanout_part *part) {
    struct fanout *fanout = part->fanout;
    if (u32_add(&fanout->parts_left, (uint32_t)-1) != 1) return;
    payload_drop(fanout->payload);
    if (fanout->ticket) {
        u64_add(&fanout->engine->broadcasts, (uint64_t)-1);
        ticket_close(fanout->ticket);
    } else {
        relay_done(fanout->engine);
    }
    memory_free(fanout);
}

/* Behind the parts stand the lists, and then the labels that the filter asks for. */
static void lists_copy(struct fanout *fanout, const iocpd_broadcast_config *config) {
    uint64_t *lists = (uint64_t *)(void *)(fanout->parts + fanout->engine->worker_count);
    uint8_t *labels = (uint8_t *)(lists + config->target_count + config->exclude_count);
    if (config->targets) fanout->targets = memcpy(lists, config->targets, config->target_count * sizeof *lists);
    fanout->target_count = config->target_count;
    lists += config->target_count;
    if (config->exclude_count) fanout->exclude = memcpy(lists, config->exclude, config->exclude_count * sizeof *lists);
    fanout->exclude_count = config->exclude_count;
    if (config->filter->label_bytes) fanout->filter.labels = memcpy(labels, config->filter->labels, config->filter->label_bytes);
}

bool fanout_start(struct iocpd_engine *engine, const iocpd_broadcast_config *config, struct payload *payload,
                  struct iocpd_ticket *ticket) {
    size_t lists = (size_t)(config->target_count + config->exclude_count) * sizeof(uint64_t) + config->filter->label_bytes;
    struct fanout *fanout = memory_new(sizeof *fanout + engine->worker_count * sizeof *fanout->parts + lists);
    if (!fanout) return false;
    fanout->engine = engine;
    fanout->filter = *config->filter;
    fanout->disconnect_slow = config->disconnect_slow != 0;
    lists_copy(fanout, config);
    fanout->last_serial = u64_load_acquire(&engine->last_serial);
    fanout->payload = payload;
    fanout->ticket = ticket;
    fanout->parts_left = engine->worker_count;
    u64_add(ticket ? &engine->broadcasts : &engine->relay_waiting, 1);
    for (uint32_t i = 0, count = engine->worker_count; i < count; i++) {
        struct fanout_part *part = &fanout->parts[i];
        part->message.kind = MESSAGE_FANOUT;
        part->fanout = fanout;
        /* After the last post, `fanout` may be gone: nothing of it is read then. */
        if (!worker_post(&engine->workers[i], &part->message)) part_done(part);
    }
    return true;
}

void fanout_enqueue(struct worker *worker, struct message *message) {
    struct fanout_part *part = (struct fanout_part *)message;
    part->next = NULL;
    if (worker->fanouts.last) worker->fanouts.last->next = part;
    else worker->fanouts.first = part;
    worker->fanouts.last = part;
}

void fanout_abandon(struct message *message) {
    struct fanout_part *part = (struct fanout_part *)message;
    part_done(part);
}

/* What a turn has for it is counted in looks at a slot or a target. A send costs as much as so many of them, and a copy of so
 * many bytes as one: then a turn takes some 0.1 ms, whatever is sent to however many, and that is how long others wait. Nor are
 * more ended in a turn than may be ending at a time. */
enum { SEND_COST = 16, COST_BYTES = 128, END_COST = SLICE / CLOSING_ENOUGH };

/* What it has cost. */
static uint32_t fanout_one(struct connection *connection, struct fanout *fanout) {
    struct iocpd_ticket *ticket = fanout->ticket;
    if (ticket) u64_add(&ticket->matched, 1);
    switch (connection_queue_payload(connection, fanout->payload, ticket)) {
    case QUEUED: return SEND_COST + fanout->payload->bytes / COST_BYTES;
    case QUEUE_CLOSING: break; /* not reached: only OPEN connections are asked */
    case QUEUE_FULL:
        if (ticket) u64_add(&ticket->skipped_slow, 1);
        if (!fanout->disconnect_slow) break;
        connection_terminate(connection, IOCPD_SLOW_CONSUMER, true);
        return END_COST;
    case QUEUE_NO_MEMORY:
        if (ticket) u64_add(&ticket->failed, 1);
        else connection_terminate(connection, IOCPD_OUT_OF_MEMORY, true);
        return END_COST;
    }
    return 0;
}

static bool excluded(const struct fanout *fanout, uint64_t token) {
    uint32_t low = 0, high = fanout->exclude_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (fanout->exclude[middle] == token) return true;
        if (fanout->exclude[middle] < token) low = middle + 1;
        else high = middle;
    }
    return false;
}

static bool fanout_meant(const struct worker *worker, const struct fanout *fanout, struct connection *connection) {
    if (connection->state != IOCPD_OPEN || connection->serial > fanout->last_serial) return false;
    if (fanout->exclude_count && excluded(fanout, connection_token(connection))) return false;
    if (fanout->filter.fields == 0) return true;
    if (fanout->filter.fields == IOCPD_BY_LISTENER) return connection->listener == fanout->filter.listener;
    iocpd_connection row;
    return table_read(&worker->table, connection->slot, &row) &&
           filter_matches(&fanout->filter, &row, engine_wall_us(worker->engine, worker->now_ns));
}

/* NULL: a target that is another worker's, or has ended. */
static struct connection *candidate(struct worker *worker, const struct fanout *fanout, uint32_t at) {
    if (!fanout->targets) return table_at(&worker->table, at);
    uint64_t token = fanout->targets[at];
    return token_worker(token) == worker->number ? table_find(&worker->table, token) : NULL;
}

bool fanout_turn(struct worker *worker) {
    struct fanout_queue *queue = &worker->fanouts;
    int64_t budget = SLICE;
    while (queue->first && budget > 0) {
        struct fanout_part *part = queue->first;
        uint32_t end = part->fanout->targets ? part->fanout->target_count : worker->table.high;
        for (; queue->at < end && budget > 0; queue->at++, budget--) {
            struct connection *connection = candidate(worker, part->fanout, queue->at);
            if (connection && fanout_meant(worker, part->fanout, connection)) budget -= fanout_one(connection, part->fanout);
        }
        if (queue->at < end) break;
        queue->at = 0;
        queue->first = part->next;
        if (!queue->first) queue->last = NULL;
        part_done(part);
        if (budget > 0) budget--; /* also an empty table costs something */
    }
    return queue->first != NULL;
}
