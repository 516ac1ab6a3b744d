/* ring.c: see ring.h. A record is copied word by word, each atomically; its sequence is 2 × its number + 2 when it is whole and
 * odd while it is written, so a reader knows both whether the copy is whole and which record it is. */
#include "ring.h"

int ring_init(struct ring *ring, size_t record_bytes, uint32_t capacity) {
    ring->words = (uint32_t)((record_bytes + 7) / 8);
    ring->capacity = capacity;
    ring->written = 0;
    ASSERT(ring->words <= RING_RECORD_WORDS_MAX && capacity > 0);
    ring->memory = memory_new((size_t)capacity * (ring->words + 1) * sizeof *ring->memory);
    return ring->memory ? 0 : -1;
}

void ring_destroy(struct ring *ring) {
    memory_free(ring->memory);
    ring->memory = NULL;
}

static uint64_t *record_at(const struct ring *ring, uint64_t number) {
    return &ring->memory[number % ring->capacity * (ring->words + 1)];
}

void ring_write(struct ring *ring, const void *record, size_t bytes) {
    uint64_t number = ring->written, words[RING_RECORD_WORDS_MAX] = {0}, *to = record_at(ring, number);
    ASSERT(bytes <= (size_t)ring->words * 8);
    memcpy(words, record, bytes);
    u64_store(&to[0], 2 * number + 1);
    for (uint32_t i = 0; i < ring->words; i++) u64_store_release(&to[1 + i], words[i]); /* not before the odd sequence */
    u64_store_release(&to[0], 2 * number + 2);
    u64_store_release(&ring->written, number + 1);
}

bool ring_read(const struct ring *ring, uint64_t at, void *record, size_t bytes) {
    const uint64_t *from = record_at(ring, at);
    uint64_t words[RING_RECORD_WORDS_MAX], whole = 2 * at + 2;
    ASSERT(bytes <= (size_t)ring->words * 8);
    if (u64_load_acquire(&from[0]) != whole) return false;
    for (uint32_t i = 0; i < ring->words; i++) words[i] = u64_load_acquire(&from[1 + i]);
    if (u64_load(&from[0]) != whole) return false;
    memcpy(record, words, bytes);
    return true;
}

uint64_t ring_oldest(const struct ring *ring) {
    uint64_t written = u64_load_acquire(&ring->written);
    return written > ring->capacity ? written - ring->capacity : 0;
}
