/* buffer.c: receive buffers of one worker, and payloads that workers share. See buffer.h. */
#include "buffer.h"

int buffer_pool_init(struct buffer_pool *pool, uint32_t buffer_bytes, uint32_t limit) {
    ASSERT(limit > 0 && limit <= BUFFER_COUNT_MAX);
    memset(pool, 0, sizeof *pool);
    pool->buffer_bytes = buffer_bytes;
    pool->limit = limit;
    pool->slabs = memory_new((limit + BUFFER_SLAB - 1) / BUFFER_SLAB * sizeof *pool->slabs);
    return pool->slabs ? 0 : -1;
}

/* A slab is one block: BUFFER_SLAB heads, then their memory. The heads stay apart from the memory so that the kernel
 * never writes near them. */
static bool buffer_pool_grow(struct buffer_pool *pool) {
    uint32_t count = pool->limit - pool->count;
    if (count > BUFFER_SLAB) count = BUFFER_SLAB;
    if (count == 0) return false;
    struct buffer *slab = memory_new(count * (sizeof *slab + (size_t)pool->buffer_bytes));
    if (!slab) return false;
    uint8_t *memory = (uint8_t *)(slab + count);
    pool->slabs[pool->count / BUFFER_SLAB] = slab;
    for (uint32_t i = count; i-- > 0;) { /* backwards, so that the first is on top */
        struct buffer *buffer = &slab[i];
        buffer->outgoing.is_buffer = true;
        buffer->memory = memory + (size_t)i * pool->buffer_bytes;
        buffer->index = pool->count + i;
        buffer->pool = pool;
        buffer->outgoing.next = pool->free_list ? &pool->free_list->outgoing : NULL;
        pool->free_list = buffer;
    }
    u32_bump(&pool->count, count);
    u32_bump(&pool->free_count, count);
    return true;
}

void buffer_pool_destroy(struct buffer_pool *pool) {
    if (!pool->slabs) return;
    ASSERT(pool->free_count == pool->count);
    for (uint32_t i = 0; i * BUFFER_SLAB < pool->count; i++) memory_free(pool->slabs[i]);
    memory_free(pool->slabs);
    pool->slabs = NULL;
}

struct buffer *buffer_take(struct buffer_pool *pool) {
    if (!pool->free_list && !buffer_pool_grow(pool)) return NULL;
    struct buffer *buffer = pool->free_list;
    pool->free_list = (struct buffer *)buffer->outgoing.next;
    u32_bump(&pool->free_count, (uint32_t)-1);
    buffer->outgoing.next = NULL;
    buffer->bytes = 0;
    return buffer;
}

void buffer_free(struct buffer *buffer) {
    struct buffer_pool *pool = buffer->pool;
    buffer->outgoing.next = pool->free_list ? &pool->free_list->outgoing : NULL;
    pool->free_list = buffer;
    u32_bump(&pool->free_count, 1);
}

struct buffer *buffer_at(struct buffer_pool *pool, uint32_t index) {
    ASSERT(index < pool->count);
    return &pool->slabs[index / BUFFER_SLAB][index % BUFFER_SLAB];
}

struct payload *payload_new(uint32_t bytes) {
    struct payload *payload = memory_new(sizeof *payload + bytes);
    if (!payload) return NULL;
    payload->references = 1;
    payload->bytes = bytes;
    payload->messages = 1;
    return payload;
}

void payload_hold(struct payload *payload) { u32_add(&payload->references, 1); }

void payload_drop(struct payload *payload) {
    uint32_t before = u32_add(&payload->references, (uint32_t)-1);
    ASSERT(before > 0);
    if (before == 1) memory_free(payload);
}
