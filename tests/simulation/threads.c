/* threads.c: platform.h's threads, locks, events, clock and memory for the simulation: coroutines on one thread of the system.
 *
 * A thread runs until it waits, or until it comes to a point where another one may go on: between two atomic operations, at a
 * lock, at a clock. `schedule` then decides by the seed who is next. Time passes a little with each step, and jumps to the next
 * thing that is due when nobody can run; so seconds of waiting cost nothing, and the same seed always gives the same story.
 */
#include "world.h"

#include <setjmp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

#ifdef __SANITIZE_ADDRESS__ /* then reading what was freed is seen at once */
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) (void)(memory)
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) (void)(memory)
#endif

enum {
    THREADS_MAX = 32,
    STACK_BYTES = 256 * 1024,
    EVENTS_MAX = 64,
    EVENT_FIRST = 5000,
    BLOCKS_MAX = 65536,
    HELD_NS = 5 * 1000 * 1000,
    POISON = 0xdd,
    POISON_BYTES = 4096, /* of a freed block: the rest of a large one is left alone */
};

/* ---- threads ------------------------------------------------------------------------------------------------------------ */

struct thread {
    enum { THREAD_NONE, THREAD_READY, THREAD_WAITING, THREAD_ENDED } state;
    char name[16];
    void (*run)(void *);
    void *argument;
    void *stack;
    bool begun;
    ucontext_t first;
    jmp_buf context;
    bool (*ready)(const void *what);
    const void *what;
    int64_t until_ns;
};

static struct thread threads[THREADS_MAX];
static uint32_t thread_count;
static struct thread *running; /* NULL: the scheduler */
static jmp_buf scheduler;
static ucontext_t scheduler_first;

int simulation_points = 1 << 30;
static int points_between; /* on average; 0: threads change only where they wait */

static void points_set(void) {
    simulation_points = points_between ? 1 + (int)roll(DICE_SCHEDULE, (uint64_t)points_between * 2) : 1 << 30;
}

void threads_reset(void) {
    thread_count = 0;
    running = NULL;
    static const int choices[] = {5, 30, 200, 1000};
    points_between = world.faults & FAULT_PREEMPT ? choices[roll(DICE_SCHEDULE, 4)] : 0;
    points_set();
}

const char *thread_name(void) { return running ? running->name : "world"; }

static void to_scheduler(void) {
    if (!_setjmp(running->context)) _longjmp(scheduler, 1);
}

static void thread_main(void) {
    running->run(running->argument);
    running->state = THREAD_ENDED;
    _longjmp(scheduler, 1);
}

static void thread_go(struct thread *thread) {
    running = thread;
    thread->state = THREAD_READY;
    points_set();
    if (!_setjmp(scheduler)) {
        if (thread->begun) _longjmp(thread->context, 1);
        thread->begun = true;
        swapcontext(&scheduler_first, &thread->first);
    }
    running = NULL;
}

static bool still;

void sim_still(bool is_still) { still = is_still; }

static bool always(const void *what) { return what == NULL; }
static bool never(const void *what) { return what != NULL; }

/* Somebody else may go on. Now and then the thread is left standing where it is for a while, as a busy system would; workers less
 * often, since everything waits for them. */
void simulation_switch(void) {
    points_set();
    if (!running || still) return;
    bool worker = strncmp(running->name, "iocpd-", 6) == 0;
    if (points_between && one_in(DICE_SCHEDULE, worker ? 2000 : 15)) thread_sleep((int64_t)roll(DICE_SCHEDULE, HELD_NS));
    else to_scheduler();
}

void sim_wait(bool (*ready)(const void *what), const void *what, int64_t until_ns) {
    if (!running) sim_fail("the world itself waits");
    running->state = THREAD_WAITING;
    running->ready = ready;
    running->what = what;
    running->until_ns = until_ns;
    to_scheduler();
}

void thread_sleep(int64_t ns) { sim_wait(never, NULL, world.now_ns + ns); }

int platform_thread_start(platform_thread *out, void (*run)(void *), void *argument, const char *name) {
    if (thread_count == THREADS_MAX) sim_fail("too many threads");
    if (sim_fault(FAULT_START, 30)) return sim_error();
    struct thread *thread = &threads[thread_count];
    void *stack = thread->stack;
    if (!stack) stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) sim_fail("no stack for a thread");
    *thread = (struct thread){.state = THREAD_READY, .run = run, .argument = argument, .stack = stack};
    snprintf(thread->name, sizeof thread->name, "%s", name);
    getcontext(&thread->first);
    thread->first.uc_stack.ss_sp = stack;
    thread->first.uc_stack.ss_size = STACK_BYTES;
    thread->first.uc_link = NULL;
    makecontext(&thread->first, thread_main, 0);
    *out = (platform_thread)thread_count++;
    return 0;
}

static bool has_ended(const void *what) { return ((const struct thread *)what)->state == THREAD_ENDED; }

void platform_thread_join(platform_thread thread) {
    while (threads[thread].state != THREAD_ENDED) sim_wait(has_ended, &threads[thread], INT64_MAX);
}

uint64_t platform_thread_id(void) { return running ? 1 + (uint64_t)(running - threads) : UINT64_MAX; }
void platform_thread_lower_priority(void) {}
void platform_thread_yield(void) { sim_wait(always, NULL, INT64_MAX); }
uint32_t platform_processors(void) { return 2; }

/* ---- locks and events ----------------------------------------------------------------------------------------------------- */

struct lock {
    uint32_t made; /* LOCK_MADE */
    uint32_t held; /* 1 + who */
};

enum { LOCK_MADE = 0x10c4 };

_Static_assert(sizeof(struct lock) <= sizeof(platform_mutex), "a simulated lock lies where a real one would");

static bool lock_free(const void *what) { return !((const struct lock *)what)->held; }

void platform_mutex_init(platform_mutex *mutex) { *(struct lock *)(void *)mutex = (struct lock){.made = LOCK_MADE}; }

void platform_mutex_destroy(platform_mutex *mutex) {
    struct lock *lock = (struct lock *)(void *)mutex;
    if (lock->made != LOCK_MADE || lock->held) sim_fail("a lock is destroyed that is not there or is held");
    lock->made = 0;
}

void platform_mutex_lock(platform_mutex *mutex) {
    struct lock *lock = (struct lock *)(void *)mutex;
    if (lock->made != LOCK_MADE) sim_fail("a lock is taken that is not there");
    if (lock->held == platform_thread_id()) sim_fail("a thread takes a lock twice");
    while (lock->held) sim_wait(lock_free, lock, INT64_MAX);
    lock->held = (uint32_t)platform_thread_id();
}

void platform_mutex_unlock(platform_mutex *mutex) {
    struct lock *lock = (struct lock *)(void *)mutex;
    if (lock->held != (uint32_t)platform_thread_id()) sim_fail("a thread gives back a lock that it has not");
    lock->held = 0;
}

static struct event {
    bool open, set;
} events[EVENTS_MAX];

static struct event *event_at(platform_event event) {
    int at = event - EVENT_FIRST;
    if (at < 0 || at >= EVENTS_MAX || !events[at].open) sim_fail("an event that is not open is used");
    return &events[at];
}

int platform_event_open(platform_event *event) {
    if (sim_fault(FAULT_START, 30)) return sim_error();
    int at = 0;
    while (events[at].open) at++;
    events[at] = (struct event){.open = true};
    *event = EVENT_FIRST + at;
    return 0;
}

void platform_event_close(platform_event event) { event_at(event)->open = false; }
void platform_event_set(platform_event event) {
    event_at(event)->set = true;
    simulation_switch();
}

static bool event_is_set(const void *what) { return ((const struct event *)what)->set; }

void platform_event_wait(platform_event event, uint32_t timeout_ms) {
    struct event *waited = event_at(event);
    if (!sim_fault(FAULT_SPURIOUS, 10)) sim_wait(event_is_set, waited, world.now_ns + (int64_t)timeout_ms * 1000000);
    waited->set = false;
}

/* ---- the clock ------------------------------------------------------------------------------------------------------------ */

int64_t sim_now_ns(void) { return world.now_ns; }

void sim_clock_jump(int64_t ns) {
    world.now_ns += ns;
    world.jumped_ns += ns;
    sim_trace("the clock jumps by %lld ms", (long long)(ns / 1000000));
}

int64_t platform_monotonic_ns(void) { return world.now_ns += 50; }
int64_t platform_wall_us(void) { return 1700000000000000 + world.now_ns / 1000; }

/* ---- memory --------------------------------------------------------------------------------------------------------------- */

/* What is freed is filled with a pattern and kept to the end of the seed: who still reads it reads nonsense, who still writes it
 * is found out. */
struct block {
    uint64_t bytes;
    uint32_t freed, number;
};

static struct block *blocks[BLOCKS_MAX];
static uint32_t block_count, live_count;
static bool memory_failed;

bool memory_has_failed(void) { return memory_failed; }

void *memory_new(size_t bytes) {
    if (sim_fault(FAULT_MEMORY, world.memory_odds)) {
        memory_failed = true;
        sim_trace("no memory for %zu bytes", bytes);
        return NULL;
    }
    struct block *block = calloc(1, sizeof *block + bytes);
    if (!block || block_count == BLOCKS_MAX) sim_fail("the simulation itself has no memory");
    block->bytes = bytes;
    block->number = block_count;
    blocks[block_count++] = block;
    live_count++;
    return block + 1;
}

static size_t poisoned(const struct block *block) { return block->bytes < POISON_BYTES ? block->bytes : POISON_BYTES; }

void memory_free(void *memory) {
    if (!memory) return;
    struct block *block = (struct block *)memory - 1;
    if (block->number >= block_count || blocks[block->number] != block) sim_fail("memory is freed that nobody has allocated");
    if (block->freed) sim_fail("memory is freed twice");
    block->freed = 1;
    live_count--;
    memset(memory, POISON, poisoned(block));
    ASAN_POISON_MEMORY_REGION(memory, block->bytes);
}

uint64_t memory_blocks(void) { return live_count; }

void memory_reset(void) {
    for (uint32_t i = 0; i < block_count; i++) {
        const struct block *block = blocks[i];
        const uint8_t *memory = (const uint8_t *)(block + 1);
        ASAN_UNPOISON_MEMORY_REGION(memory, block->bytes);
        for (size_t at = 0; block->freed && at < poisoned(block); at++)
            if (memory[at] != POISON)
                sim_fail("memory was written after it had been freed (%llu bytes)", (unsigned long long)block->bytes);
        free(blocks[i]);
    }
    block_count = live_count = 0;
    memory_failed = false;
    memset(events, 0, sizeof events);
}

/* ---- who is next ---------------------------------------------------------------------------------------------------------- */

static bool can_run(const struct thread *thread) {
    if (thread->state == THREAD_READY) return true;
    return thread->state == THREAD_WAITING && (world.now_ns >= thread->until_ns || thread->ready(thread->what));
}

void schedule(void) {
    for (;;) {
        uint32_t ready[THREADS_MAX], ready_count = 0, alive = 0;
        int64_t next = clients_act();
        for (uint32_t i = 0; i < thread_count; i++) {
            struct thread *thread = &threads[i];
            if (thread->state == THREAD_ENDED) continue;
            alive++;
            if (can_run(thread)) ready[ready_count++] = i;
            else if (thread->until_ns < next) next = thread->until_ns;
        }
        if (!alive) return;
        world.now_ns += (int64_t)roll(DICE_SCHEDULE, 2000);
        if (ready_count) thread_go(&threads[ready[roll(DICE_SCHEDULE, ready_count)]]);
        else if (next == INT64_MAX) sim_fail("everybody waits for something that nobody will do");
        else if (next > world.now_ns) world.now_ns = next;
        world.steps++;
        if (world.steps > 2000000) sim_fail("it does not come to an end");
        oracle_step();
    }
}
