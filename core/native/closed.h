/* closed.h: the connections that a worker's ended last, in a ring that the worker writes and anybody reads without a lock. */
#ifndef IOCPD_CLOSED_H
#define IOCPD_CLOSED_H

#include "engine.h"
#include "platform.h"

struct closed_record;

struct closed_ring {
    struct closed_record *records;
    uint32_t capacity;
    uint64_t written; /* atomic: how many ever */
};

int closed_init(struct closed_ring *ring, uint32_t capacity);
void closed_destroy(struct closed_ring *ring);
/* The owner's alone. */
void closed_write(struct closed_ring *ring, const iocpd_closed *row);
/* The record that was written as number `at` (from 0); false when it is gone or not there yet. */
bool closed_read(const struct closed_ring *ring, uint64_t at, iocpd_closed *row);

#endif
