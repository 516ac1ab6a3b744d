/* table.h: a worker's connections, in slots that are never freed while the engine lives.
 *
 * A token is generation, worker and slot in 53 bits (so that it is exact as a JavaScript number too). The generation changes
 * when a connection ends, so a stale token is "ended", never somebody else. A slot whose generations are used up is retired.
 *
 * Reading takes no lock and stops nobody: a slot's sequence is odd while who it is changes, and a reader that saw it change
 * reads again.
 */
#ifndef IOCPD_TABLE_H
#define IOCPD_TABLE_H

#include "connection.h"

enum {
    TOKEN_SLOT_BITS = 20,
    TOKEN_WORKER_BITS = 6,
    TOKEN_GENERATION_BITS = 27,
    TABLE_CHUNK = 128, /* slots that are allocated together */
};

struct table {
    struct worker *worker;
    struct connection **chunks; /* atomic pointers */
    uint32_t high;              /* atomic: slots that were ever used */
    struct connection *free_list;
    uint32_t used;
};

static inline uint64_t token_make(uint32_t generation, uint32_t worker, uint32_t slot) {
    return (uint64_t)generation << (TOKEN_SLOT_BITS + TOKEN_WORKER_BITS) | (uint64_t)worker << TOKEN_SLOT_BITS | slot;
}
static inline uint32_t token_slot(uint64_t token) { return (uint32_t)token & ((1u << TOKEN_SLOT_BITS) - 1); }
static inline uint32_t token_worker(uint64_t token) {
    return (uint32_t)(token >> TOKEN_SLOT_BITS) & ((1u << TOKEN_WORKER_BITS) - 1);
}
static inline uint64_t token_generation(uint64_t token) { return token >> (TOKEN_SLOT_BITS + TOKEN_WORKER_BITS); }

int table_init(struct table *table, struct worker *worker);
void table_destroy(struct table *table);
/* A free slot, or NULL: no memory, or all slots are in use. The owner's alone, like table_give. */
struct connection *table_take(struct table *table);
void table_give(struct table *table, struct connection *connection);
/* Brackets around changing who a slot is. */
void table_write_begin(struct connection *connection);
void table_write_end(struct connection *connection);
/* An address that readers may be looking at. */
void table_store_ip(uint64_t *words, const uint8_t *ip);
/* Any slot below `high`. */
struct connection *table_at(const struct table *table, uint32_t slot);
/* The connection with this token if it is there; the owner's alone. */
struct connection *table_find(const struct table *table, uint64_t token);

/* Any thread: a consistent copy. False when the slot is free. */
bool table_read(const struct table *table, uint32_t slot, iocpd_connection *row);
/* Any thread: IOCPD_OK, IOCPD_ENDED or IOCPD_UNKNOWN. */
enum iocpd_status table_get(const struct table *table, uint64_t token, iocpd_connection *row);

#endif
