/* buffer.h: memory for bytes on their way in and out.
 *
 * A buffer's life:
 *   1. It lies in its worker's buffer_pool (or, on io_uring, in the ring of provided buffers, which takes from the pool).
 *   2. The port fills it and hands it to the engine with a PORT_RECEIVED event.
 *   3. The engine gives it to the connection's service, which either frees it or queues it on a connection as it is.
 *   4. Queued, it is pinned until the final event of the send that carries it.
 *   5. buffer_free puts it back on top of the pool (last in, first out: the warmest memory is used next).
 * A buffer belongs to one worker and one holder at a time, so it has no count and no lock.
 *
 * A payload is different: immutable bytes that several workers' send queues share, counted atomically.
 */
#ifndef IOCPD_BUFFER_H
#define IOCPD_BUFFER_H

#include "platform.h"

struct payload;
struct iocpd_ticket;

/* One piece in a connection's send queue. */
struct outgoing {
    struct outgoing *next;
    const uint8_t *data;
    uint32_t bytes;
    bool is_buffer;              /* this is the head of a struct buffer; otherwise a node of the worker's own store */
    struct payload *payload;     /* what `data` points into, unless it is a buffer */
    struct iocpd_ticket *ticket; /* who is told what became of it; may be NULL */
};

struct buffer {
    struct outgoing outgoing; /* first, so that a buffer can be queued as it is */
    uint8_t *memory;
    uint32_t bytes; /* how many are filled */
    uint32_t index; /* its number in the pool, which io_uring uses as buffer id */
    struct buffer_pool *pool;
};

enum { BUFFER_SLAB = 64, BUFFER_COUNT_MAX = 32768 };

/* Grows by slabs up to `limit` buffers and never shrinks; the owner's alone, but for the counters. */
struct buffer_pool {
    uint32_t buffer_bytes;
    uint32_t limit;
    uint32_t count; /* that exist */
    uint32_t free_count;
    struct buffer *free_list; /* linked through outgoing.next */
    struct buffer **slabs;    /* limit / BUFFER_SLAB pointers */
};

int buffer_pool_init(struct buffer_pool *pool, uint32_t buffer_bytes, uint32_t limit);
void buffer_pool_destroy(struct buffer_pool *pool);
/* NULL when all are in use, or when there is no memory for another slab. */
struct buffer *buffer_take(struct buffer_pool *pool);
void buffer_free(struct buffer *buffer);
struct buffer *buffer_at(struct buffer_pool *pool, uint32_t index);
/* How many of the limit are still to be had. */
static inline uint32_t buffer_available(const struct buffer_pool *pool) { return pool->limit - pool->count + pool->free_count; }
/* When they grow scarce, those who don't read must not hold them: their bytes move to memory of their own, and they may queue
 * very little. Of a few buffers, the last is scarce. */
static inline bool buffers_scarce(const struct buffer_pool *pool) { return buffer_available(pool) <= pool->limit / 4; }

struct payload {
    uint32_t references; /* atomic */
    uint32_t bytes;
    uint32_t messages;  /* that it counts for when it was sent */
    int64_t expires_ns; /* what has not begun to be sent by then is dropped; 0: never */
    uint8_t data[];
};

/* A payload with one reference, one message and room for `bytes`; NULL without memory. */
struct payload *payload_new(uint32_t bytes);
void payload_hold(struct payload *payload);
void payload_drop(struct payload *payload);

#endif
