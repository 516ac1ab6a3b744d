/* simulate.c: the program: seeds one after the other, until one fails. `python -m tests.simulation` builds and runs it. */
#include "world.h"

#include <signal.h>
#include <stdio.h>

static uint64_t digest, all_steps, all_connections, all_time_ms, all_bytes;

enum {
    SEED_S = 60
}; /* a seed takes milliseconds; one that takes so long goes round in a circle without a point to change threads */

static void hangs(int number) {
    (void)number;
    sim_fail("it goes round in a circle");
}

/* A stack that has overflowed, or a pointer to nowhere. */
static void crashed(int number) { sim_fail("crash: signal %d", number); }

static void crashes_catch(void) {
    static uint8_t stack[65536];
    stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&own, NULL);
    struct sigaction action = {.sa_handler = crashed, .sa_flags = SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
    sigaction(SIGILL, &action, NULL);
    action.sa_handler = hangs;
    sigaction(SIGALRM, &action, NULL);
}

void platform_assert_failed(const char *what, const char *file, int line) {
    sim_fail("a rule of the engine is broken: %s (%s:%d)", what, file, line);
}

static void run(const struct options *options) {
    alarm(SEED_S);
    world_begin(options);
    sim_kernel_reset();
    streams_reset();
    oracle_reset();
    threads_reset();
    clients_begin();
    operators_begin();
    schedule();
    all_steps += world.steps;
    all_connections += sim_stream_count();
    all_time_ms += (uint64_t)(world.now_ns / 1000000);
    for (uint32_t i = 0; i < sim_stream_count(); i++) all_bytes += sim_stream_at(i)->taken + sim_stream_at(i)->sent;
    digest = (digest ^ (uint64_t)world.now_ns ^ world.steps << 40 ^ all_bytes) * 1099511628211u;
    memory_reset();
}

static uint64_t number(const char *text) { return strtoull(text, NULL, 0); }

int main(int count, char **arguments) {
    struct options options = {.faults = FAULT_ALL};
    uint64_t seeds = 1;
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i];
        if (strcmp(name, "--trace") == 0) {
            sim_tracing = true;
            continue;
        }
        if (++i == count) return 2;
        if (strcmp(name, "--seed") == 0) options.seed = number(arguments[i]);
        else if (strcmp(name, "--seeds") == 0) seeds = number(arguments[i]);
        else if (strcmp(name, "--faults") == 0) options.faults = (uint32_t)number(arguments[i]);
        else if (strcmp(name, "--clients") == 0) options.clients = (uint32_t)number(arguments[i]);
        else if (strcmp(name, "--commands") == 0) options.commands = 1 + (uint32_t)number(arguments[i]);
        else if (strcmp(name, "--steps") == 0) options.steps = (uint32_t)number(arguments[i]);
        else if (strcmp(name, "--workers") == 0) options.workers = (uint32_t)number(arguments[i]);
        else if (strcmp(name, "--listeners") == 0) options.listeners = (uint32_t)number(arguments[i]);
        else return 2;
    }
    crashes_catch();
    for (uint64_t end = options.seed + seeds; options.seed < end; options.seed++) {
        run(&options);
        if (options.seed % 100 == 0) {
            printf("SEED %llu\n", (unsigned long long)options.seed);
            fflush(stdout);
        }
    }
    printf("DONE seeds %llu digest %016llx steps %llu connections %llu bytes %llu time_ms %llu\n", (unsigned long long)seeds,
           (unsigned long long)digest, (unsigned long long)all_steps, (unsigned long long)all_connections,
           (unsigned long long)all_bytes, (unsigned long long)all_time_ms);
    return 0;
}
