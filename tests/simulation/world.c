/* world.c: see world.h. */
#include "world.h"

#include <stdarg.h>
#include <stdio.h>

struct world world;
bool sim_tracing;

/* ---- chance ------------------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t word) { /* splitmix64's */
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
    word = (word ^ word >> 27) * 0x94d049bb133111ebu;
    return word ^ word >> 31;
}

uint64_t roll(enum dice dice, uint64_t bound) { return mix(world.dice[dice] += 0x9e3779b97f4a7c15u) % bound; }
uint64_t roll_between(enum dice dice, uint64_t least, uint64_t most) { return least + roll(dice, most - least + 1); }
bool one_in(enum dice dice, uint32_t times) { return roll(dice, times) == 0; }

uint64_t sim_random(uint64_t bound) { return roll(DICE_KERNEL, bound); }

bool sim_fault(enum sim_fault fault, uint32_t times) {
    if (!(world.faults & (uint32_t)fault) || world.calm) return false;
    if (world.starting && !(world.faults & FAULT_START)) return false;
    if (fault == FAULT_START && !world.starting) return false;
    return one_in(DICE_FAULTS, times);
}

/* ---- what is said about it ------------------------------------------------------------------------------------------------ */

static void print_time(FILE *to) { fprintf(to, "%12.6f ms  %-10s ", (double)world.now_ns / 1e6, thread_name()); }

void sim_trace(const char *format, ...) {
    if (!sim_tracing) return;
    va_list arguments;
    va_start(arguments, format);
    print_time(stdout);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
}

void sim_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("FAILED seed %llu step %llu time %.6f ms thread %s: ", (unsigned long long)world.options.seed,
           (unsigned long long)world.steps, (double)world.now_ns / 1e6, thread_name());
    vprintf(format, arguments);
    putchar('\n');
    printf("SETTING faults %u clients %u commands %u steps %llu workers %u listeners %u\n", world.faults, world.clients,
           world.commands, (unsigned long long)world.steps_max, world.config.workers, world.config.listener_count);
    va_end(arguments);
    fflush(stdout);
    _exit(1);
}

/* ---- the setting: everything that the seed chooses before it begins ------------------------------------------------------ */

static uint32_t between(uint64_t least, uint64_t most) { return (uint32_t)roll_between(DICE_SETTING, least, most); }

static void framing_choose(iocpd_framing *framing) {
    memset(framing, 0, sizeof *framing);
    framing->kind = (int32_t)between(IOCPD_RAW, IOCPD_DELIMITED);
    framing->max_bytes = framing->kind == IOCPD_RAW ? between(20, 120) : between(20, 600); /* a raw relay's fit into a receive */
    if (framing->kind == IOCPD_LINES) framing->crlf = (uint8_t)between(0, 1);
    if (framing->kind == IOCPD_LENGTH_PREFIXED) {
        framing->prefix_bytes = (uint8_t)(1u << between(0, 2));
        framing->little_endian = (uint8_t)between(0, 1);
        if (framing->prefix_bytes == 1 && framing->max_bytes > 200) framing->max_bytes = 200;
    }
    if (framing->kind == IOCPD_DELIMITED) {
        framing->delimiter_bytes = (uint8_t)between(1, 4);
        memcpy(framing->delimiter, "||~|", 4);
    }
}

static void listener_choose(iocpd_listener_config *listener, uint32_t number) {
    memset(listener, 0, sizeof *listener);
    listener->port = (uint16_t)(1000 + number);
    listener->family = 4;
    listener->backlog = 16;
    static const int32_t services[] = {IOCPD_ECHO,  IOCPD_ECHO,        IOCPD_ECHO,   IOCPD_DISCARD, IOCPD_RELAY,
                                       IOCPD_RELAY, IOCPD_RELAY_GROUP, IOCPD_PYTHON, IOCPD_PYTHON};
    listener->service = services[between(0, 8)];
    framing_choose(&listener->framing);
    if (listener->service != IOCPD_PYTHON) return;
    if (listener->framing.kind == IOCPD_RAW) listener->framing.kind = IOCPD_FIXED;
    listener->threads = between(1, 2);
    listener->inbox_bytes = between(2000, 40000);
    listener->concurrent = (uint8_t)between(0, 1);
    strcpy(listener->name, "simulated");
}

static void config_choose(iocpd_config *config) {
    memset(config, 0, sizeof *config);
    config->backend = between(0, 3) ? IOCPD_EPOLL : IOCPD_AUTO;
    config->workers = between(1, WORKERS_MAX);
    if (world.options.workers) config->workers = world.options.workers;
    config->listener_count = between(1, LISTENERS_MAX_SIM);
    for (uint32_t i = 0; i < LISTENERS_MAX_SIM; i++) listener_choose(&world.listeners[i], i);
    if (world.options.listeners) config->listener_count = world.options.listeners;
    config->listeners = world.listeners;
    config->max_connections = between(0, 2) ? 1000 : between(1, 12);
    config->first_byte_ms = between(0, 3) ? 0 : between(5, 100);
    config->idle_ms = between(0, 3) ? 0 : between(10, 200);
    config->send_soft_bytes = between(0, 1) ? between(1000, 20000) : between(100, 2000);
    config->send_soft_ms = between(5, 200);
    config->send_hard_bytes = config->send_soft_bytes + between(500, 20000);
    config->receive_buffer_bytes = 1u << between(7, 11);
    config->receive_buffers = between(0, 1) ? between(2, 12) : between(16, 64);
    config->closed_capacity = between(0, 2) ? 256 : between(1, 8);
    config->inbox_capacity = between(0, 1) ? 64 : between(1, 6);
    config->relay_capacity = between(0, 1) ? between(1, 3) : between(4, 16);
    config->event_capacity = between(0, 2) ? 512 : between(2, 16);
    config->max_bans = between(1, 8);
    config->max_per_address = between(0, 3) ? 0 : between(1, 4);
    config->accepts_per_s = between(0, 5) ? 0 : between(5, 100);
    config->accepts_per_s_per_address = between(0, 5) ? 0 : between(2, 40);
    config->seed = roll(DICE_SETTING, UINT64_MAX);
}

static uint32_t faults_choose(void) {
    uint32_t chosen = 0;
    bool storm = between(0, 3) == 0, quiet = between(0, 7) == 0;
    for (uint32_t fault = 1; fault < FAULT_PROXY; fault *= 2) {
        bool rare = fault == FAULT_MEMORY || fault == FAULT_START || fault == FAULT_ERRORS || fault == FAULT_SUBMIT ||
                    fault == FAULT_SPURIOUS || fault == FAULT_HANDLES || fault == FAULT_CLOCK;
        uint32_t dice = between(0, fault == FAULT_START ? 15 : rare ? 3 : 1);
        if (dice == 0 || (storm && fault != FAULT_START)) chosen |= fault;
    }
    if (quiet) chosen = 0;
    return world.options.seed % 4 == 2 ? chosen | FAULT_PROXY : chosen; /* without a roll: the others have what they had */
}

void world_begin(const struct options *options) {
    memset(&world, 0, sizeof world);
    world.options = *options;
    for (uint64_t i = 0; i < DICE_COUNT; i++) world.dice[i] = mix(mix(options->seed + 1) + i);
    world.now_ns = 1000000000;
    world.faults = faults_choose() & options->faults;
    config_choose(&world.config);
    world.memory_odds = (uint32_t[]){8, 30, 100, 1000}[between(0, 3)];
    world.clients = between(0, 3) ? between(1, 12) : between(1, 40);
    if (options->clients) world.clients = options->clients;
    world.commands = between(0, 3) ? between(0, 30) : between(0, 120);
    if (options->commands) world.commands = options->commands - 1;
    world.steps_max = between(300, 3000);
    if (options->steps) world.steps_max = options->steps;
    world.config.busy_poll_us = between(0, 2) ? 0 : between(1, 200); /* last, so that older seeds have what they had */
    balancers_choose();
    if (!sim_tracing) return;
    sim_trace("seed %llu: %u workers, %u clients, %u commands, at most %llu steps, faults %u", (unsigned long long)options->seed,
              world.config.workers, world.clients, world.commands, (unsigned long long)world.steps_max, world.faults);
    static const char *const framings[] = {"raw", "lines", "length_prefixed", "fixed", "delimited"};
    static const char *const services[] = {"echo", "discard", "relay", "relay_group", "python"};
    for (uint32_t i = 0; i < world.config.listener_count; i++)
        sim_trace("listener %u: %s, %s (at most %u bytes)%s", i, services[world.listeners[i].service],
                  framings[world.listeners[i].framing.kind], world.listeners[i].framing.max_bytes,
                  world.listeners[i].proxy_from_count ? ", behind balancers" : "");
    const iocpd_config *config = &world.config;
    sim_trace("send_soft_bytes %u, send_soft_ms %u, send_hard_bytes %u, receive_buffers %u of %u bytes, relay_capacity %u",
              config->send_soft_bytes, config->send_soft_ms, config->send_hard_bytes, config->receive_buffers,
              config->receive_buffer_bytes, config->relay_capacity);
    sim_trace("max_connections %u, first_byte_ms %u, idle_ms %u, inbox_capacity %u, closed_capacity %u", config->max_connections,
              config->first_byte_ms, config->idle_ms, config->inbox_capacity, config->closed_capacity);
    sim_trace("max_per_address %u, accepts_per_s %u, accepts_per_s_per_address %u, max_bans %u, busy_poll_us %u",
              config->max_per_address, config->accepts_per_s, config->accepts_per_s_per_address, config->max_bans,
              config->busy_poll_us);
}
