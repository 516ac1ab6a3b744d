/* timers.c: see timers.h. connection->timer is 1 + the entry's place, so that it can be moved and removed. */
#include "timers.h"

#include "connection.h"

void timers_destroy(struct timers *timers) {
    memory_free(timers->heap);
    timers->heap = NULL;
}

bool timers_reserve(struct timers *timers, uint32_t connections) {
    if (connections <= timers->capacity) return true;
    uint32_t capacity = timers->capacity * 2 > connections ? timers->capacity * 2 : connections;
    struct timer *heap = memory_new(capacity * sizeof *heap);
    if (!heap) return false;
    if (timers->count) memcpy(heap, timers->heap, timers->count * sizeof *heap);
    memory_free(timers->heap);
    timers->heap = heap;
    timers->capacity = capacity;
    return true;
}

static void place(struct timers *timers, uint32_t at, struct timer timer) {
    timers->heap[at] = timer;
    timer.connection->timer = at + 1;
}

static void sift_up(struct timers *timers, uint32_t at, struct timer timer) {
    while (at > 0 && timers->heap[(at - 1) / 2].at_ns > timer.at_ns) {
        place(timers, at, timers->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    place(timers, at, timer);
}

static void sift_down(struct timers *timers, uint32_t at, struct timer timer) {
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= timers->count) break;
        if (child + 1 < timers->count && timers->heap[child + 1].at_ns < timers->heap[child].at_ns) child++;
        if (timers->heap[child].at_ns >= timer.at_ns) break;
        place(timers, at, timers->heap[child]);
        at = child;
    }
    place(timers, at, timer);
}

static void remove_at(struct timers *timers, uint32_t at) {
    timers->heap[at].connection->timer = 0;
    struct timer last = timers->heap[--timers->count];
    if (at == timers->count) return;
    if (at > 0 && timers->heap[(at - 1) / 2].at_ns > last.at_ns) sift_up(timers, at, last);
    else sift_down(timers, at, last);
}

void timers_set(struct timers *timers, struct connection *connection, int64_t at_ns) {
    struct timer timer = {.at_ns = at_ns, .connection = connection};
    if (connection->timer) {
        uint32_t at = connection->timer - 1;
        if (timers->heap[at].at_ns > at_ns) sift_up(timers, at, timer);
        return;
    }
    ASSERT(timers->count < timers->capacity);
    sift_up(timers, timers->count++, timer);
}

void timers_clear(struct timers *timers, struct connection *connection) {
    if (connection->timer) remove_at(timers, connection->timer - 1);
}

struct connection *timers_due(struct timers *timers, int64_t now_ns) {
    if (timers->count == 0 || timers->heap[0].at_ns > now_ns) return NULL;
    struct connection *connection = timers->heap[0].connection;
    remove_at(timers, 0);
    return connection;
}

int64_t timers_next(const struct timers *timers, int64_t now_ns) {
    if (timers->count == 0) return -1;
    return timers->heap[0].at_ns > now_ns ? timers->heap[0].at_ns - now_ns : 0;
}
