/* closed.c: see closed.h. A record is copied word by word, each atomically; its sequence is 2 × its number + 2 when it is whole
 * and odd while it is written, so a reader knows both whether the copy is whole and which record it is. */
#include "closed.h"

enum { WORDS = (sizeof(iocpd_closed) + 7) / 8 };

struct closed_record {
    uint64_t sequence;
    uint64_t words[WORDS];
};

int closed_init(struct closed_ring *ring, uint32_t capacity) {
    ring->capacity = capacity;
    ring->written = 0;
    ring->records = memory_new(capacity * sizeof *ring->records);
    return ring->records ? 0 : -1;
}

void closed_destroy(struct closed_ring *ring) {
    memory_free(ring->records);
    ring->records = NULL;
}

void closed_write(struct closed_ring *ring, const iocpd_closed *row) {
    uint64_t number = ring->written, words[WORDS] = {0};
    struct closed_record *record = &ring->records[number % ring->capacity];
    memcpy(words, row, sizeof *row);
    u64_store(&record->sequence, 2 * number + 1);
    for (int i = 0; i < WORDS; i++) u64_store_release(&record->words[i], words[i]); /* not before the odd sequence */
    u64_store_release(&record->sequence, 2 * number + 2);
    u64_store_release(&ring->written, number + 1);
}

bool closed_read(const struct closed_ring *ring, uint64_t at, iocpd_closed *row) {
    const struct closed_record *record = &ring->records[at % ring->capacity];
    uint64_t words[WORDS], whole = 2 * at + 2;
    if (u64_load_acquire(&record->sequence) != whole) return false;
    for (int i = 0; i < WORDS; i++) words[i] = u64_load_acquire(&record->words[i]);
    if (u64_load(&record->sequence) != whole) return false;
    memcpy(row, words, sizeof *row);
    return true;
}
