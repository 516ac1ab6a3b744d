/* ring.h: the newest records of one kind, in a ring that one thread at a time writes and anybody reads without a lock. */
#ifndef IOCPD_RING_H
#define IOCPD_RING_H

#include "platform.h"

enum { RING_RECORD_WORDS_MAX = 64 };

struct ring {
    uint64_t *memory; /* of each record: its sequence, then its words */
    uint32_t capacity;
    uint32_t words;   /* of a record */
    uint64_t written; /* atomic: how many ever */
};

/* 0, or -1 without memory. record_bytes: at most 8 × RING_RECORD_WORDS_MAX. */
int ring_init(struct ring *ring, size_t record_bytes, uint32_t capacity);
void ring_destroy(struct ring *ring);
/* The writer's alone. */
void ring_write(struct ring *ring, const void *record, size_t bytes);
/* Record number `at` (from 0); false when it is gone or not there yet. */
bool ring_read(const struct ring *ring, uint64_t at, void *record, size_t bytes);
/* The number of the oldest record that is not overwritten yet, or `written` if there is none. */
uint64_t ring_oldest(const struct ring *ring);

#endif
