/* snapshot.c: what is read while the workers run: rows, counts, the recently closed, statistics. Nothing here stops a worker. */
#include "engine.h"
#include "internal.h"

bool filter_matches(const iocpd_filter *filter, const iocpd_connection *row, int64_t now_us) {
    uint32_t fields = filter->fields;
    if (fields & IOCPD_BY_NETWORK && !in_network(row->peer_ip, filter->network, filter->prefix)) return false;
    if (fields & IOCPD_BY_LISTENER && row->listener != filter->listener) return false;
    if (fields & IOCPD_BY_STATE && row->state != filter->state) return false;
    if (fields & IOCPD_BY_AGE && now_us - row->connected_at_us < filter->older_than_us) return false;
    if (fields & IOCPD_BY_IDLE && now_us - row->last_activity_at_us < filter->idle_for_us) return false;
    if (fields & IOCPD_BY_PENDING && row->pending_bytes < filter->min_pending_bytes) return false;
    if (fields & IOCPD_BY_BYTES_IN && row->bytes_in < filter->min_bytes_in) return false;
    if (fields & IOCPD_BY_BYTES_OUT && row->bytes_out < filter->min_bytes_out) return false;
    if (fields & (IOCPD_BY_LABELS | IOCPD_BY_ANY_LABEL))
        return labels_match((const struct labels *)(uintptr_t)row->labels, filter->labels, filter->label_bytes,
                            (fields & IOCPD_BY_ANY_LABEL) != 0);
    return true;
}

static int64_t now_us(const iocpd_engine *engine) { return engine_wall_us(engine, platform_monotonic_ns()); }

int32_t iocpd_get(iocpd_engine *engine, uint64_t token, iocpd_connection *row) {
    if (token >> 53 || token_worker(token) >= engine->worker_count) return IOCPD_UNKNOWN;
    return table_get(&engine->workers[token_worker(token)].table, token, row);
}

/* ---- listing: with the labels locked, since a filter or a row's JSON may ask for them ------------------------------------ */

uint32_t snapshot_list(iocpd_engine *engine, const iocpd_filter *filter, iocpd_cursor *cursor, iocpd_connection *rows,
                       uint32_t capacity) {
    int64_t now = now_us(engine);
    uint32_t count = 0;
    if (cursor->last_serial == 0) cursor->last_serial = u64_load_acquire(&engine->last_serial);
    for (; cursor->worker < engine->worker_count; cursor->worker++, cursor->slot = 0) {
        const struct table *table = &engine->workers[cursor->worker].table;
        for (uint32_t high = u32_load_acquire(&table->high); cursor->slot < high; cursor->slot++) {
            if (count == capacity) return count;
            iocpd_connection *row = &rows[count];
            if (!table_read(table, cursor->slot, row) || row->serial > cursor->last_serial) continue;
            if (filter_matches(filter, row, now)) count++;
        }
    }
    return count;
}

uint32_t iocpd_list(iocpd_engine *engine, const iocpd_filter *filter, iocpd_cursor *cursor, iocpd_connection *rows,
                    uint32_t capacity) {
    labels_lock(engine);
    uint32_t count = snapshot_list(engine, filter, cursor, rows, capacity);
    labels_unlock(engine);
    return count;
}

uint32_t iocpd_match(iocpd_engine *engine, const iocpd_filter *filter, uint64_t *tokens, uint32_t capacity) {
    iocpd_cursor cursor = {0};
    iocpd_connection row;
    uint32_t count = 0;
    labels_lock(engine);
    for (; count < capacity && snapshot_list(engine, filter, &cursor, &row, 1) == 1; count++) tokens[count] = row.token;
    labels_unlock(engine);
    return count;
}

uint64_t iocpd_count(iocpd_engine *engine, const iocpd_filter *filter) {
    int64_t now = now_us(engine);
    uint64_t count = 0;
    iocpd_connection row;
    labels_lock(engine);
    for (uint32_t i = 0; i < engine->worker_count; i++) {
        const struct table *table = &engine->workers[i].table;
        for (uint32_t slot = 0, high = u32_load_acquire(&table->high); slot < high; slot++)
            count += table_read(table, slot, &row) && filter_matches(filter, &row, now);
    }
    labels_unlock(engine);
    return count;
}

/* ---- sorted ---------------------------------------------------------------------------------------------------------------- */

static uint64_t key_of(const iocpd_connection *row, int32_t key) {
    switch (key) {
    case IOCPD_KEY_LAST_ACTIVITY_AT: return (uint64_t)row->last_activity_at_us;
    case IOCPD_KEY_BYTES_IN: return row->bytes_in;
    case IOCPD_KEY_BYTES_OUT: return row->bytes_out;
    case IOCPD_KEY_MESSAGES_IN: return row->messages_in;
    case IOCPD_KEY_MESSAGES_OUT: return row->messages_out;
    case IOCPD_KEY_PENDING_BYTES: return row->pending_bytes;
    default: return (uint64_t)row->connected_at_us;
    }
}

static int by_serial(const iocpd_sorted *a, const iocpd_sorted *b) { return (a->serial > b->serial) - (a->serial < b->serial); }

static int ascending(const void *left, const void *right) {
    const iocpd_sorted *a = left, *b = right;
    return a->key != b->key ? (a->key > b->key ? 1 : -1) : by_serial(a, b);
}

static int descending_keys(const void *left, const void *right) {
    const iocpd_sorted *a = left, *b = right;
    return a->key != b->key ? (a->key < b->key ? 1 : -1) : by_serial(a, b);
}

uint32_t iocpd_sort(iocpd_engine *engine, const iocpd_filter *filter, int32_t key, int32_t descending, iocpd_sorted *out,
                    uint32_t capacity) {
    iocpd_cursor cursor = {0};
    iocpd_connection row;
    uint32_t count = 0;
    labels_lock(engine);
    for (; snapshot_list(engine, filter, &cursor, &row, 1) == 1; count++)
        if (count < capacity) out[count] = (iocpd_sorted){.key = key_of(&row, key), .serial = row.serial, .token = row.token};
    labels_unlock(engine);
    qsort(out, count < capacity ? count : capacity, sizeof *out, descending ? descending_keys : ascending);
    return count;
}

/* ---- the recently closed: each worker's ring is in the order of its ends, so the newest of all is at one of their heads ----- */

struct closed_head {
    const struct ring *ring;
    uint64_t next; /* 1 + the number of the record in `row`; 0: nothing is left */
    iocpd_closed row;
};

/* To the newest record below `next` that is still there and older than `before`. */
static void head_step(struct closed_head *head, uint64_t before) {
    while (head->next > 0) {
        if (!ring_read(head->ring, head->next - 1, &head->row, sizeof head->row)) {
            head->next = 0; /* overwritten, and so is what came before it */
        } else if (before == 0 || head->row.closed_serial < before) {
            return;
        } else {
            head->next--;
        }
    }
}

uint32_t iocpd_closed_list(iocpd_engine *engine, uint64_t before, iocpd_closed *rows, uint32_t capacity) {
    struct closed_head *heads = memory_new(engine->worker_count * sizeof *heads);
    if (!heads) return 0;
    for (uint32_t i = 0; i < engine->worker_count; i++) {
        heads[i].ring = &engine->workers[i].closed;
        heads[i].next = u64_load_acquire(&heads[i].ring->written);
        head_step(&heads[i], before);
    }
    uint32_t count = 0;
    while (count < capacity) {
        struct closed_head *newest = NULL;
        for (uint32_t i = 0; i < engine->worker_count; i++)
            if (heads[i].next && (!newest || heads[i].row.closed_serial > newest->row.closed_serial)) newest = &heads[i];
        if (!newest) break;
        rows[count++] = newest->row;
        newest->next--;
        head_step(newest, before);
    }
    memory_free(heads);
    return count;
}

int32_t iocpd_closed_get(iocpd_engine *engine, uint64_t token, iocpd_closed *row) {
    if (token >> 53 || token_worker(token) >= engine->worker_count) return IOCPD_UNKNOWN;
    const struct ring *ring = &engine->workers[token_worker(token)].closed;
    for (uint64_t next = u64_load_acquire(&ring->written); next > 0; next--) {
        if (!ring_read(ring, next - 1, row, sizeof *row)) break;
        if (row->connection.token == token) return IOCPD_OK;
    }
    return IOCPD_UNKNOWN;
}

/* ---- labels ---------------------------------------------------------------------------------------------------------------- */

static void labels_copy(uint64_t from, char *json, uint32_t *bytes, uint64_t *version) {
    const struct labels *labels = (const struct labels *)(uintptr_t)from;
    *bytes = labels ? labels->json_bytes : 0;
    *version = labels ? labels->version : 0;
    if (labels) memcpy(json, labels->data + labels->label_bytes, labels->json_bytes);
}

int32_t iocpd_labels_read(iocpd_engine *engine, uint64_t token, char *json, uint32_t *bytes, uint64_t *version) {
    iocpd_connection row = {0};
    labels_lock(engine);
    int32_t status = iocpd_get(engine, token, &row);
    labels_copy(status == IOCPD_OK ? row.labels : 0, json, bytes, version);
    labels_unlock(engine);
    return status;
}

void iocpd_closed_labels_read(iocpd_engine *engine, const iocpd_closed *row, char *json, uint32_t *bytes) {
    iocpd_closed now = {0};
    uint64_t version;
    labels_lock(engine);
    bool there = ring_read(&engine->workers[row->connection.worker].closed, row->number, &now, sizeof now);
    labels_copy(there ? now.connection.labels : 0, json, bytes, &version);
    labels_unlock(engine);
}

/* ---- statistics --------------------------------------------------------------------------------------------------------- */

void iocpd_info_read(iocpd_engine *engine, iocpd_info *info) {
    memset(info, 0, sizeof *info);
    info->backend = engine->backend;
    info->workers = engine->worker_count;
    info->listeners = engine->listener_count;
    info->accepting = 1;
    for (uint32_t i = 0; i < engine->listener_count; i++) info->accepting &= (int32_t)u32_load(&engine->listeners[i].open);
    memcpy(info->backend_reason, engine->backend_reason, sizeof info->backend_reason);
    info->started_at_us = engine_wall_us(engine, engine->started_ns);
    info->connections = u64_load(&engine->connections);
    info->last_serial = u64_load_acquire(&engine->last_serial);
    info->bans = u32_load(&engine->gate.ban_count);
    struct event_record dominance;
    do info->dominances = u64_load_acquire(&engine->dominances.written);
    while (info->dominances && !ring_read(&engine->dominances, info->dominances - 1, &dominance, sizeof dominance));
    if (info->dominances == 0) return;
    info->dominant_at_us = dominance.at_us;
    memcpy(info->dominant_ip, dominance.ip, 16);
    info->dominant_prefix = dominance.prefix;
    info->dominant_connections = dominance.detail;
}

void iocpd_listener_read(iocpd_engine *engine, uint32_t number, iocpd_listener_stats *stats) {
    const struct listener *listener = &engine->listeners[number];
    memset(stats, 0, sizeof *stats);
    memcpy(stats->ip, listener->bound.ip, 16);
    stats->port = listener->bound.port;
    stats->family = listener->config.family;
    stats->open = (uint8_t)u32_load(&listener->open);
    stats->service = listener->config.service;
    stats->accepted = u64_load(&listener->accepted);
    stats->refused_limit = u64_load(&listener->refused_limit);
    stats->refused_memory = u64_load(&listener->refused_memory);
    stats->refused_gone = u64_load(&listener->refused_gone);
    stats->refused_banned = u64_load(&listener->refused_banned);
    stats->refused_address_limit = u64_load(&listener->refused_address_limit);
    stats->refused_address_rate = u64_load(&listener->refused_address_rate);
    stats->refused_rate = u64_load(&listener->refused_rate);
    stats->accept_errors = u64_load(&listener->accept_errors);
    stats->connections = u64_load(&listener->connections);
}

void iocpd_worker_read(iocpd_engine *engine, uint32_t number, iocpd_worker_stats *stats) {
    const struct worker *worker = &engine->workers[number];
    const struct port_counters *port = &worker->port->counters;
    memset(stats, 0, sizeof *stats);
    stats->connections = u32_load(&worker->load);
    stats->adopted = u64_load(&worker->adopted);
    stats->bytes_in = u64_load(&worker->bytes_in);
    stats->bytes_out = u64_load(&worker->bytes_out);
    stats->messages_in = u64_load(&worker->messages_in);
    stats->messages_out = u64_load(&worker->messages_out);
    stats->discarded_bytes = u64_load(&worker->discarded_bytes);
    stats->pending_bytes = u64_load(&worker->pending_bytes);
    stats->turns = u64_load(&worker->turns);
    stats->events = u64_load(&port->events);
    stats->starved = u64_load(&port->starved);
    stats->overflows = u64_load(&port->overflows);
    stats->inbox_busy = u64_load(&worker->inbox_busy);
    stats->buffers = u32_load(&worker->pool.count);
    uint64_t empty = u32_load(&worker->pool.free_count) + u64_load(&port->provided);
    stats->buffers_in_use = stats->buffers > empty ? stats->buffers - empty : 0;
    stats->relay_waiting = u64_load(&engine->relay_waiting);
    for (int i = 0; i < IOCPD_REASON_COUNT; i++) stats->closed[i] = u64_load(&worker->ended[i]);
    stats->turn_ns = u64_load(&worker->turn_ns);
    for (int i = 0; i < IOCPD_TURN_BUCKETS; i++) stats->turn_counts[i] = u64_load(&worker->turn_counts[i]);
}
