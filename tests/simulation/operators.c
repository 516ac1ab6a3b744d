/* operators.c: the engine's life, and the threads that have something to do with it: two operators that command it, one that
 * takes what is done, one that watches events, and the one that starts it and stops it.
 */
#include "world.h"

#include <stdio.h>

enum { OPERATORS = 2, PATIENCE_NS = 250 * 1000 * 1000 };

static platform_thread helpers[8];
static uint32_t helper_count;
static bool operators_end;
static bool configures; /* an operator is at it: which of two is the last would not be certain */
static uint32_t operators_running;

static uint32_t choose(uint64_t least, uint64_t most) { return (uint32_t)roll_between(DICE_OPERATORS, least, most); }
static bool sometimes(uint32_t times) { return one_in(DICE_OPERATORS, times); }

static void waiter(void *nothing) {
    (void)nothing;
    while (!world.over) commands_take_done(choose(0, 30));
}

/* ---- reading -------------------------------------------------------------------------------------------------------------------- */

/* A listing, page by page, with time between them: who was there all the while is in it once. */
struct listing {
    uint32_t streams; /* when it began */
    uint8_t seen[SIM_STREAMS_MAX];
    bool there[SIM_STREAMS_MAX];
};

static void listing_begin(struct listing *listing) {
    *listing = (struct listing){.streams = sim_stream_count()};
    for (uint32_t i = 0; i < listing->streams; i++) listing->there[i] = witnesses[i].attached && !witnesses[i].released;
}

/* NULL: it is just being taken over. */
static const struct witness *listing_sees(struct listing *listing, uint64_t token) {
    const struct witness *witness = witness_of(token);
    if (witness && listing->seen[witness - witnesses]++)
        sim_fail("connection %u is listed twice", (uint32_t)(witness - witnesses));
    return witness;
}

static void listing_end(const struct listing *listing) {
    for (uint32_t i = 0; i < listing->streams; i++)
        if (listing->there[i] && !witnesses[i].released && !listing->seen[i])
            sim_fail("connection %u was there all the time, and is not listed", i);
}

static void list_pages(void) {
    iocpd_cursor cursor = {0};
    iocpd_filter filter = {0};
    iocpd_connection rows[8];
    uint32_t count, capacity = choose(1, 8);
    struct listing listing;
    listing_begin(&listing);
    do {
        count = iocpd_list(world.engine, &filter, &cursor, rows, capacity);
        for (uint32_t i = 0; i < count; i++) {
            const struct witness *witness = listing_sees(&listing, rows[i].token);
            if (!witness) continue;
            uint32_t number = (uint32_t)(witness - witnesses);
            const struct sim_stream *stream = sim_stream_at(number);
            if (rows[i].listener != stream->listener) sim_fail("connection %u is listed with the listener of another", number);
            arrival_row(witness, &rows[i]);
            if (rows[i].bytes_in > stream->taken || (!witness->released && rows[i].bytes_out > stream->sent))
                sim_fail("connection %u is listed with more bytes than it has", number);
        }
        if (sometimes(2)) thread_sleep(choose(1, 2000000));
    } while (count == capacity);
    listing_end(&listing);
}

/* The ids of rows in JSON. */
static void json_sees(struct listing *listing, char *json, uint32_t bytes) {
    static const char mark[] = "\"id\":\"c";
    if (memchr(json, 0xdd, bytes)) sim_fail("a listing shows memory that was freed");
    json[bytes] = 0;
    for (const char *at = json; (at = strstr(at, mark));) {
        at += sizeof mark - 1;
        listing_sees(listing, strtoull(at, NULL, 16));
    }
}

static void list_as_json(void) {
    char json[32768];
    iocpd_filter filter = {0};
    iocpd_cursor cursor = {0};
    uint32_t bytes;
    int32_t more = 1;
    struct listing listing;
    listing_begin(&listing);
    while (more) {
        iocpd_list_json(world.engine, &filter, &cursor, choose(1, 5), IOCPD_MEMBER_ALL, "c", json, sizeof json - 1, &bytes,
                        &more);
        json_sees(&listing, json, bytes);
    }
    listing_end(&listing);
}

static void list_sorted(void) {
    char json[32768];
    iocpd_filter filter = {0};
    iocpd_sorted sorted[SIM_STREAMS_MAX];
    int32_t key = (int32_t)choose(0, IOCPD_KEY_COUNT - 1), descending = (int32_t)choose(0, 1);
    uint32_t bytes, position = 0;
    struct listing listing;
    listing_begin(&listing);
    uint32_t count = iocpd_sort(world.engine, &filter, key, descending, sorted, SIM_STREAMS_MAX);
    for (uint32_t i = 1; i < count; i++)
        if (descending ? sorted[i - 1].key < sorted[i].key : sorted[i - 1].key > sorted[i].key)
            sim_fail("a listing that is sorted by %d is not in order", key);
    while (position < count) {
        iocpd_sorted_json(world.engine, sorted, count, &position, choose(1, 5), IOCPD_MEMBER_ALL, "c", json, sizeof json - 1,
                          &bytes);
        json_sees(&listing, json, bytes);
        if (sometimes(2)) thread_sleep(choose(1, 2000000));
    }
    listing_end(&listing);
}

/* Those that have ended, with their labels. */
static void list_closed(void) {
    iocpd_closed closed[64];
    char json[IOCPD_LABEL_BYTES];
    uint32_t bytes, count = iocpd_closed_list(world.engine, 0, closed, choose(1, 64));
    oracle_closed(closed, count);
    for (uint32_t i = 0; i < count; i++) {
        iocpd_closed_labels_read(world.engine, &closed[i], json, &bytes);
        labels_check(json, bytes);
    }
}

static void watcher(void *nothing) {
    (void)nothing;
    uint64_t positions[IOCPD_WORKERS_MAX + 1] = {0}, missed = 0;
    static iocpd_event events[64];
    for (bool last = false; !last;) {
        last = world.over;
        uint32_t count;
        do {
            count = iocpd_events(world.engine, positions, events, choose(1, 64), &missed);
            oracle_events(events, count);
        } while (count);
        if (sometimes(3)) list_closed();
        else if (sometimes(2)) list_pages();
        else list_as_json();
        thread_sleep((int64_t)choose(1, 20) * 1000000);
    }
    for (uint32_t i = 0; missed == 0 && i < sim_stream_count(); i++)
        if (witnesses[i].attached &&
            (witnesses[i].disconnected_events != 1 ||
             witnesses[i].connected_events != (!witnesses[i].header.wanted || witnesses[i].header.entered)))
            sim_fail("connection %u has %u events of its begin and %u of its end", i, witnesses[i].connected_events,
                     witnesses[i].disconnected_events);
}

static void read_something(void) {
    iocpd_closed closed;
    iocpd_filter filter = {0};
    iocpd_connection row;
    iocpd_worker_stats stats;
    iocpd_info info;
    iocpd_drain_progress progress;
    switch (choose(0, 7)) {
    case 0: list_closed(); break;
    case 1: iocpd_closed_get(world.engine, any_token(), &closed); break;
    case 2: list_as_json(); break;
    case 3: list_sorted(); break;
    case 4: iocpd_worker_read(world.engine, choose(0, world.config.workers - 1), &stats); break;
    case 5: iocpd_info_read(world.engine, &info); break;
    case 6: iocpd_drain_read(world.engine, &progress); break;
    default:
        if (iocpd_get(world.engine, any_token(), &row) == IOCPD_OK && !witness_of(row.token)) sim_fail("a row of nobody");
        iocpd_count(world.engine, &filter);
    }
}

/* ---- limits, drains ---------------------------------------------------------------------------------------------------------------- */

static void configure(void) {
    const iocpd_config *now = &world.config;
    iocpd_limits limits = {now->max_connections, now->first_byte_ms, now->idle_ms,
                           now->send_soft_bytes, now->send_soft_ms,  now->send_hard_bytes,
                           now->max_per_address, now->accepts_per_s, now->accepts_per_s_per_address};
    limits.send_soft_bytes = choose(100, 10000);
    limits.send_hard_bytes = limits.send_soft_bytes + choose(500, 10000);
    limits.send_soft_ms = choose(5, 100);
    if (sometimes(2)) limits.idle_ms = choose(0, 1) ? choose(10, 200) : 0;
    if (sometimes(2)) limits.first_byte_ms = choose(0, 1) ? choose(10, 200) : 0;
    if (sometimes(3)) limits.max_connections = choose(1, 20);
    if (sometimes(3)) limits.max_per_address = choose(0, 4);
    if (sometimes(3)) limits.accepts_per_s = choose(0, 1) ? choose(5, 100) : 0;
    if (sometimes(3)) limits.accepts_per_s_per_address = choose(0, 1) ? choose(2, 40) : 0;
    if (configures || !oracle_limits(&limits, true)) return;
    configures = true;
    sim_trace("limits: soft %u bytes for %u ms, hard %u bytes, first byte %u ms, idle %u ms", limits.send_soft_bytes,
              limits.send_soft_ms, limits.send_hard_bytes, limits.first_byte_ms, limits.idle_ms);
    sim_trace("limits: %u connections, %u of an address, %u accepts in a second, %u of an address", limits.max_connections,
              limits.max_per_address, limits.accepts_per_s, limits.accepts_per_s_per_address);
    iocpd_configure(world.engine, &limits);
    oracle_limits(&limits, false);
    configures = false;
}

static uint32_t farewell(iocpd_drain_config *config, uint8_t *copy) {
    uint32_t number = 0;
    const uint8_t *text = sometimes(2) ? say(choose(SAID_BYTES_MIN, 200), &number) : NULL;
    if (!text) return 0;
    said[number].kind = SAID_FAREWELL;
    memcpy(copy, text, said[number].bytes);
    config->farewell = copy;
    config->farewell_bytes = said[number].bytes;
    return number;
}

static void drain_and_cancel(void) {
    uint8_t copy[256];
    iocpd_problem problem;
    iocpd_drain_config config = {.lb_delay_ms = choose(0, 20), .grace_ms = choose(0, 20), .deadline_ms = choose(0, 200)};
    if (sometimes(2)) config.rate_per_s = choose(10, 1000);
    farewell(&config, copy);
    sim_trace("drain: lb_delay %u ms, grace %u ms, deadline %u ms", config.lb_delay_ms, config.grace_ms, config.deadline_ms);
    oracle_drain(&config);
    int32_t status = iocpd_drain(world.engine, &config);
    sim_trace("drain: %s", status_name(status));
    thread_sleep(choose(0, 100000000));
    status = iocpd_drain_cancel(world.engine, &problem);
    sim_trace("drain is cancelled: %s", status_name(status));
    if (status == IOCPD_SYSTEM && !(world.faults & FAULT_SYSTEM))
        sim_fail("the listeners are not bound again, though nothing is in the way");
}

static void operate(void) {
    switch (choose(0, 15)) {
    case 0:
    case 1:
    case 2: command_give(COMMAND_SEND); break;
    case 3:
    case 4: command_give(COMMAND_BROADCAST); break;
    case 5:
    case 6: command_give(COMMAND_KICK); break;
    case 7:
        for (uint32_t times = choose(1, 10); times > 0; times--) command_give(COMMAND_LABEL);
        break;
    case 8: command_give(COMMAND_BANS); break;
    case 9: command_give(sometimes(2) ? COMMAND_RTT : COMMAND_BARRIER); break;
    case 10:
    case 11: list_pages(); break;
    case 12: sometimes(3) ? configure() : read_something(); break;
    case 13: sometimes(3) ? drain_and_cancel() : command_give(COMMAND_LABEL); break;
    default: read_something(); break;
    }
}

static void operator(void *nothing) {
    (void)nothing;
    for (uint32_t left = world.commands / OPERATORS; left > 0 && !world.over && !operators_end; left--) {
        thread_sleep(choose(0, sometimes(3) ? 20000000 : 2000000));
        operate();
    }
    if (!world.commands) operators_end = true;
    while (!operators_end && !world.stopping) thread_sleep(1000000);
    for (uint32_t left = 50; left > 0 && world.stopping && !world.over && !operators_end; left--) { /* and while it is stopping */
        thread_sleep(choose(0, 2000000));
        operate();
    }
    operators_running--;
}

/* ---- the engine's life ------------------------------------------------------------------------------------------------------------- */

static void help(void (*run)(void *), const char *name) { platform_thread_start(&helpers[helper_count++], run, NULL, name); }

static uint64_t all_taken(void) {
    uint64_t taken = 0;
    for (uint32_t i = 0; i < sim_stream_count(); i++) taken += sim_stream_at(i)->taken + witnesses[i].attached;
    return taken;
}

static void calm(void) {
    world.calm = true;
    sim_trace("the storm is over");
    int64_t until = world.now_ns + 5000000000;
    uint64_t taken = 0, before = 1;
    while (operators_running || commands_open() || taken != before || !oracle_is_calm(false)) {
        before = all_taken();
        if (world.now_ns > until) {
            if (operators_running) sim_fail("an operator does not get an answer");
            if (commands_open()) sim_fail("%u commands are never done", commands_open());
            oracle_is_calm(true);
        }
        thread_sleep(10000000);
        taken = all_taken(); /* nothing new for a while: what was taken is through */
    }
    oracle_calm();
}

static void stop(void) {
    uint8_t copy[256];
    iocpd_drain_config config = {.stop = 1, .deadline_ms = choose(0, 3) ? choose(0, 300) : 0};
    if (sometimes(2)) config.lb_delay_ms = choose(0, 50);
    if (sometimes(2)) config.grace_ms = choose(0, 50);
    if (sometimes(2)) config.rate_per_s = choose(10, 1000);
    farewell(&config, copy);
    int64_t asked_ns = world.now_ns - world.jumped_ns;
    sim_trace("stop: lb_delay %u ms, grace %u ms, deadline %u ms", config.lb_delay_ms, config.grace_ms, config.deadline_ms);
    oracle_drain(&config);
    int32_t status = iocpd_drain(world.engine, &config);
    if (status != IOCPD_OK) sim_fail("a stop is refused: %s", status_name(status));
    if (sometimes(4)) {
        config.deadline_ms /= 2;
        iocpd_drain(world.engine, &config);
    }
    while (iocpd_join(world.engine, choose(0, 50)) != IOCPD_OK) {
        int64_t took_ns = world.now_ns - world.jumped_ns - asked_ns;
        if (took_ns >
            (int64_t)config.deadline_ms * 1000000 + PATIENCE_NS + (config.lb_delay_ms + config.grace_ms) * INT64_C(2000000))
            sim_fail("the stop has a deadline of %u ms, and is not over after %lld ms", config.deadline_ms,
                     (long long)(took_ns / 1000000));
    }
    sim_trace("the engine has stopped");
}

static void live(void *nothing) {
    (void)nothing;
    iocpd_engine *engine = NULL;
    iocpd_problem problem;
    world.starting = true;
    int32_t status = iocpd_start(&world.config, &engine, &problem);
    world.starting = false;
    sim_trace("start: %s %s", status_name(status), problem.text);
    if (status != IOCPD_OK) {
        if (!(world.faults & FAULT_START)) sim_fail("the engine does not start: %s", problem.text);
        world.over = true;
        oracle_freed();
        return;
    }
    world.engine = engine;
    operators_running = OPERATORS;
    for (int i = 0; i < OPERATORS; i++) help(operator, i ? "operator-1" : "operator-0");
    help(waiter, "waiter");
    help(watcher, "watcher");
    services_begin();
    while (world.steps < world.steps_max) thread_sleep(1000000);
    if (sometimes(2)) {
        operators_end = true;
        calm();
    }
    world.stopping = true;
    stop();
    while (services_running || operators_running) thread_sleep(1000000);
    world.over = true;
    iocpd_wait_wake(engine);
    for (uint32_t i = 0; i < helper_count; i++) platform_thread_join(helpers[i]);
    for (uint32_t before = UINT32_MAX; commands_open() && commands_open() != before;) {
        before = commands_open();
        commands_take_done(0);
    }
    if (commands_open()) sim_fail("the engine has stopped, and %u commands are not done", commands_open());
    static iocpd_closed closed[512];
    uint32_t rows = iocpd_closed_list(engine, 0, closed, 512);
    oracle_closed(closed, rows);
    if (rows < engine->closed_serial && world.config.closed_capacity >= SIM_STREAMS_MAX && !memory_has_failed())
        sim_fail("%llu connections have ended, and %u are remembered", (unsigned long long)engine->closed_serial, rows);
    oracle_stopped();
    world.engine = NULL;
    iocpd_free(engine);
    oracle_freed();
}

void operators_begin(void) {
    commands_reset();
    helper_count = operators_running = 0;
    operators_end = configures = false;
    platform_thread main;
    platform_thread_start(&main, live, NULL, "main");
}
