/* table.c: see table.h. */
#include "table.h"

#include "internal.h"

_Static_assert(TOKEN_SLOT_BITS + TOKEN_WORKER_BITS + TOKEN_GENERATION_BITS == 53, "a token is exact in a double");
_Static_assert(1 << TOKEN_SLOT_BITS == IOCPD_SLOTS_MAX && 1 << TOKEN_WORKER_BITS == IOCPD_WORKERS_MAX, "engine.h says so too");

int table_init(struct table *table, struct worker *worker) {
    table->worker = worker;
    table->chunks = memory_new(IOCPD_SLOTS_MAX / TABLE_CHUNK * sizeof *table->chunks);
    return table->chunks ? 0 : -1;
}

void table_destroy(struct table *table) {
    if (!table->chunks) return;
    for (uint32_t i = 0; i * TABLE_CHUNK < table->high; i++) memory_free(table->chunks[i]);
    memory_free(table->chunks);
    table->chunks = NULL;
}

struct connection *table_at(const struct table *table, uint32_t slot) {
    struct connection *chunk = pointer_load_acquire((void *const *)&table->chunks[slot / TABLE_CHUNK]);
    return &chunk[slot % TABLE_CHUNK];
}

static struct connection *table_grow(struct table *table) {
    uint32_t slot = table->high;
    if (slot == IOCPD_SLOTS_MAX) return NULL;
    if (slot % TABLE_CHUNK == 0) {
        if (!timers_reserve(&table->worker->timers, slot + TABLE_CHUNK)) return NULL;
        struct connection *chunk = memory_new(TABLE_CHUNK * sizeof *chunk);
        if (!chunk) return NULL;
        pointer_store_release((void **)&table->chunks[slot / TABLE_CHUNK], chunk);
    }
    struct connection *connection = table_at(table, slot);
    connection->worker = table->worker;
    connection->slot = slot;
    connection->generation = 1;
    connection->socket.handle = SOCKET_NONE;
    u32_store_release(&table->high, slot + 1); /* and with it readers may look at the slot */
    return connection;
}

struct connection *table_take(struct table *table) {
    struct connection *connection = table->free_list;
    if (connection) table->free_list = connection->next;
    else connection = table_grow(table);
    if (!connection) return NULL;
    connection->next = NULL;
    table->used++;
    return connection;
}

void table_give(struct table *table, struct connection *connection) {
    ASSERT(!connection->socket.receive.outstanding && !connection->socket.send.outstanding && !connection->timer);
    table_write_begin(connection);
    u32_store_release(&connection->state, IOCPD_FREE);
    u32_store_release(&connection->generation, connection->generation + 1);
    table_write_end(connection);
    table->used--;
    if (connection->generation == (1u << TOKEN_GENERATION_BITS) - 1) return; /* used up: the slot stays empty */
    connection->next = table->free_list;
    table->free_list = connection;
}

/* Every store between the two is a release: none can be seen before the odd sequence. Every load of a reader is an acquire:
 * none can be taken after the second look at the sequence. That needs no fence, which ThreadSanitizer would not understand. */
void table_write_begin(struct connection *connection) { u32_store(&connection->sequence, connection->sequence + 1); }
void table_write_end(struct connection *connection) { u32_store_release(&connection->sequence, connection->sequence + 1); }

struct connection *table_find(const struct table *table, uint64_t token) {
    uint32_t slot = token_slot(token);
    if (slot >= table->high) return NULL;
    struct connection *connection = table_at(table, slot);
    return connection->state != IOCPD_FREE && connection->generation == token_generation(token) ? connection : NULL;
}

void table_store_ip(uint64_t *words, const uint8_t *ip) {
    for (int i = 0; i < 2; i++) {
        uint64_t word;
        memcpy(&word, ip + 8 * i, 8);
        u64_store_release(&words[i], word);
    }
}

static void copy_ip(uint8_t *out, const uint64_t *words) {
    for (int i = 0; i < 2; i++) {
        uint64_t word = u64_load_acquire(&words[i]);
        memcpy(out + 8 * i, &word, 8);
    }
}

/* Fills the row and gives the generation that it is of. */
static uint32_t read_slot(const struct table *table, uint32_t slot, iocpd_connection *row) {
    const struct connection *connection = table_at(table, slot);
    const struct worker *worker = table->worker;
    for (;;) {
        uint32_t before = u32_load_acquire(&connection->sequence);
        if (before & 1) {
            platform_thread_yield(); /* the writer is a few stores long */
            continue;
        }
        uint32_t generation = u32_load_acquire(&connection->generation);
        uint32_t ports = u32_load_acquire(&connection->ports);
        row->token = token_make(generation, worker->number, slot);
        row->serial = u64_load_acquire(&connection->serial);
        copy_ip(row->peer_ip, connection->peer_ip);
        copy_ip(row->local_ip, connection->local_ip);
        copy_ip(row->via_ip, connection->via_ip);
        row->peer_port = (uint16_t)(ports >> 16);
        row->local_port = (uint16_t)ports;
        row->via_port = (uint16_t)u32_load_acquire(&connection->via_port);
        row->listener = (uint16_t)u32_load_acquire(&connection->listener);
        row->worker = (uint16_t)worker->number;
        row->state = (uint8_t)u32_load_acquire(&connection->state);
        row->reason = (uint8_t)u32_load_acquire(&connection->reason);
        row->connected_at_us = engine_wall_us(worker->engine, (int64_t)u64_load_acquire(&connection->connected_ns));
        row->last_activity_at_us = engine_wall_us(worker->engine, (int64_t)u64_load_acquire(&connection->last_activity_ns));
        row->bytes_in = u64_load_acquire(&connection->bytes_in);
        row->bytes_out = u64_load_acquire(&connection->bytes_out);
        row->messages_in = u64_load_acquire(&connection->messages_in);
        row->messages_out = u64_load_acquire(&connection->messages_out);
        row->pending_bytes = u64_load_acquire(&connection->pending_bytes);
        row->labels = (uint64_t)(uintptr_t)pointer_load_acquire((void *const *)&connection->labels);
        if (u32_load(&connection->sequence) == before) return generation;
    }
}

bool table_read(const struct table *table, uint32_t slot, iocpd_connection *row) {
    /* A look before the copy: most slots of a table that was once large are free. */
    if (u32_load_acquire(&table_at(table, slot)->state) == IOCPD_FREE) return false;
    read_slot(table, slot, row);
    return row->state != IOCPD_FREE;
}

enum iocpd_status table_get(const struct table *table, uint64_t token, iocpd_connection *row) {
    if (token_slot(token) >= u32_load_acquire(&table->high)) return IOCPD_UNKNOWN;
    uint32_t generation = read_slot(table, token_slot(token), row);
    if (token_generation(token) < generation) return token_generation(token) ? IOCPD_ENDED : IOCPD_UNKNOWN;
    return token_generation(token) == generation && row->state != IOCPD_FREE ? IOCPD_OK : IOCPD_UNKNOWN;
}
