/* operators.c: the engine's life, and the threads that have something to do with it: two operators that command it, one that
 * takes what is done, one that watches events, and the one that starts it and stops it.
 */
#include "world.h"

#include <stdio.h>

enum { OPERATORS = 2, TOKENS_MAX = 8, PATIENCE_NS = 250 * 1000 * 1000 };

struct command {
    iocpd_ticket *ticket;
    enum { COMMAND_SEND, COMMAND_BROADCAST, COMMAND_KICK, COMMAND_LABEL, COMMAND_BANS, COMMAND_RTT, COMMAND_BARRIER } kind;
    int32_t said;                   /* -1: nothing */
    bool unwanted, abandoned, done; /* unwanted: to be abandoned by the waiter, since a ticket that is taken is in use */
    uint64_t tokens[TOKENS_MAX];
    uint32_t count;
    iocpd_ban bans[3];
};

static struct command commands[COMMANDS_MAX];
static uint32_t command_count, commands_open;
static platform_thread helpers[8];
static uint32_t helper_count;
static bool operators_end;
static uint32_t operators_running;

static uint32_t choose(uint64_t least, uint64_t most) { return (uint32_t)roll_between(DICE_OPERATORS, least, most); }
static bool sometimes(uint32_t times) { return one_in(DICE_OPERATORS, times); }

static uint64_t any_token(void) {
    uint32_t count = sim_stream_count();
    for (uint32_t tries = 0; count && tries < 10; tries++) {
        uint32_t recent = count > 12 && !sometimes(6) ? count - 12 : 0;
        const struct witness *witness = &witnesses[choose(recent, count - 1)];
        if (witness->token && (!witness->released || sometimes(6))) return witness->token;
    }
    return roll(DICE_OPERATORS, UINT64_MAX);
}

/* ---- commands ----------------------------------------------------------------------------------------------------------------- */

/* Before it is given: its ticket may be done before the call is back. */
static struct command *command_new(int kind, int32_t number) {
    struct command *command = &commands[command_count++];
    *command = (struct command){.kind = kind, .said = number};
    return command;
}

static const char *status_name(int32_t status) {
    static const char *const names[] = {"ok",      "system", "no memory", "unavailable", "busy",    "unknown", "ended",
                                        "closing", "full",   "stopped",   "conflict",    "timeout", "no room"};
    return names[status];
}

static void command_given(struct command *command, int32_t status, iocpd_ticket *ticket, const char *what) {
    sim_trace("%s: %s", what, status_name(status));
    if (status == IOCPD_NO_MEMORY && !memory_has_failed()) sim_fail("%s: no memory, though there was some", what);
    if (status != IOCPD_OK) {
        command->done = true;
        if (command->said >= 0) said[command->said].cancelled = true;
        return;
    }
    command->ticket = ticket;
    if (command->done) sim_fail("%s is done before it was given", what); /* the waiter looks for tickets that it knows */
    commands_open++;
    command->unwanted = sometimes(20);
}

static uint32_t said_bytes(void) { return choose(0, 5) ? choose(SAID_BYTES_MIN, 200) : choose(SAID_BYTES_MIN, 3900); }

static void command_send(void) {
    uint32_t number, bytes = said_bytes();
    iocpd_ticket *ticket = NULL;
    uint8_t copy[4096];
    const uint8_t *text = say(bytes, &number);
    if (!text) return;
    memcpy(copy, text, bytes);
    said[number].kind = SAID_SEND;
    uint64_t token = said[number].token = any_token();
    struct command *command = command_new(COMMAND_SEND, (int32_t)number);
    sim_trace("send %u of %u bytes to %llx", number, bytes, (unsigned long long)token);
    int32_t status = iocpd_send(world.engine, token, copy, bytes, &ticket);
    command_given(command, status, ticket, "send");
}

static uint32_t label_bytes(uint8_t *out) { /* two groups and one tag */
    uint32_t at = 0;
    for (int i = 0; i < 2; i++) {
        if (!sometimes(2)) continue;
        memcpy(out + at, i ? "g\1\0b" : "g\1\0a", 4);
        at += 4;
    }
    if (sometimes(2)) memcpy(out + at, "t\3\0k:v", 6), at += 6;
    return at;
}

/* Who is there now and stays must get it. */
static void owe(uint32_t number) {
    struct said *one = &said[number];
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        const struct sim_stream *stream = sim_stream_at(i);
        bool meant = one->listener < 0 || (uint32_t)one->listener == stream->listener;
        one->owed[i] = meant && witnesses[i].attached && !witnesses[i].released;
    }
}

static void command_broadcast(void) {
    uint32_t number, bytes = said_bytes();
    iocpd_ticket *ticket = NULL;
    uint8_t copy[4096], labels[16];
    uint64_t targets[TOKENS_MAX], exclude[1] = {any_token()};
    const uint8_t *text = say(bytes, &number);
    if (!text) return;
    memcpy(copy, text, bytes);
    said[number].kind = SAID_BROADCAST;
    iocpd_filter filter = {0};
    if (sometimes(3)) {
        filter.fields |= IOCPD_BY_LISTENER;
        filter.listener = choose(0, world.config.listener_count - 1);
        said[number].listener = (int32_t)filter.listener;
    }
    if (sometimes(4)) {
        filter.label_bytes = label_bytes(labels);
        filter.labels = labels;
        filter.fields |= sometimes(2) ? IOCPD_BY_LABELS : IOCPD_BY_ANY_LABEL;
    }
    if (sometimes(5)) {
        filter.fields |= IOCPD_BY_NETWORK;
        memcpy(filter.network, client_address(choose(0, 5)).ip, 16);
        filter.prefix = choose(112, 128);
    }
    iocpd_broadcast_config config = {.filter = &filter, .data = copy, .bytes = bytes, .disconnect_slow = sometimes(4)};
    if (sometimes(4)) {
        config.targets = targets;
        config.target_count = choose(1, TOKENS_MAX);
        for (uint32_t i = 0; i < config.target_count; i++) {
            targets[i] = any_token();
            for (uint32_t j = 0; j < i; j++)
                if (targets[j] == targets[i]) targets[i] = 0; /* each at most once */
        }
    }
    if (sometimes(4)) config.exclude = exclude, config.exclude_count = 1;
    if (sometimes(3)) config.ttl_ms = choose(1, sometimes(2) ? 5 : 50);
    if (!(filter.fields & ~(uint32_t)IOCPD_BY_LISTENER) && !config.targets && !config.exclude) owe(number);
    if (config.disconnect_slow)
        for (uint32_t i = 0; i < sim_stream_count(); i++) witnesses[i].causes |= CAUSE_SLOW;
    struct command *command = command_new(COMMAND_BROADCAST, (int32_t)number);
    sim_trace("broadcast %u of %u bytes", number, bytes);
    int32_t status = iocpd_broadcast(world.engine, &config, &ticket);
    command_given(command, status, ticket, "broadcast");
}

static void command_kick(void) {
    uint32_t number = 0;
    iocpd_ticket *ticket = NULL;
    uint8_t copy[256];
    const uint8_t *text = sometimes(2) ? say(choose(SAID_BYTES_MIN, 200), &number) : NULL;
    struct command *command = command_new(COMMAND_KICK, text ? (int32_t)number : -1);
    iocpd_kick_config config = {
        .reason = sometimes(4) ? IOCPD_BANNED : IOCPD_KICKED, .text = "because", .timeout_ms = choose(0, 100)};
    config.force = sometimes(3);
    if (text) {
        memcpy(copy, text, said[number].bytes);
        said[number].kind = SAID_FAREWELL;
        config.farewell = copy;
        config.farewell_bytes = said[number].bytes;
    }
    command->count = sometimes(3) ? choose(1, TOKENS_MAX) : 1;
    for (uint32_t i = 0; i < command->count; i++) {
        command->tokens[i] = any_token();
        oracle_cause(command->tokens[i], config.reason == IOCPD_BANNED ? CAUSE_BAN : CAUSE_KICK);
        sim_trace("kick %llx%s", (unsigned long long)command->tokens[i], config.force ? " at once" : "");
    }
    int32_t status = iocpd_kick(world.engine, &config, command->tokens, command->count, &ticket);
    command_given(command, status, ticket, "kick");
}

static uint64_t labelled; /* the last; often again */

static void command_label(void) {
    static const char json[] = ",\"tags\":{},\"groups\":[]";
    iocpd_ticket *ticket = NULL;
    uint8_t labels[16];
    char read[IOCPD_LABEL_BYTES];
    uint32_t bytes, length = label_bytes(labels);
    uint64_t token = command_count && !sometimes(4) ? labelled : any_token(), version = 0;
    labelled = token;
    iocpd_labels_read(world.engine, token, read, &bytes, &version);
    if (bytes && (bytes != sizeof json - 1 || memcmp(read, json, bytes) != 0)) sim_fail("labels that nobody has given");
    if (sometimes(4)) version++;
    struct command *command = command_new(COMMAND_LABEL, -1);
    command->tokens[0] = token;
    int32_t status = iocpd_label(world.engine, token, version, labels, length, json, 10, length ? sizeof json - 1 : 0, &ticket);
    command_given(command, status, ticket, "label");
}

static void command_bans(void) {
    iocpd_ticket *ticket = NULL;
    struct command *command = command_new(COMMAND_BANS, -1);
    command->count = choose(1, 3);
    for (uint32_t i = 0; i < command->count; i++) {
        iocpd_ban *ban = &command->bans[i];
        ban->prefix = sometimes(3) ? choose(118, 128) : 128;
        memcpy(ban->network, client_address(choose(0, 5)).ip, 16);
        for (uint32_t bit = ban->prefix; bit < 128; bit++) ban->network[bit / 8] &= (uint8_t)~(0x80 >> bit % 8);
        ban->ttl_ms = sometimes(3) ? choose(1, 100) : 0;
        ban->lift = sometimes(3);
        sim_trace("%s 10.0.%u.%u/%u", ban->lift ? "lift" : "ban", ban->network[14], ban->network[15], ban->prefix - 96);
        oracle_ban(ban, true);
    }
    int32_t status = iocpd_bans(world.engine, command->bans, command->count, &ticket);
    command_given(command, status, ticket, "bans");
}

static void command_rtt(void) {
    iocpd_ticket *ticket = NULL;
    struct command *command = command_new(COMMAND_RTT, -1);
    int32_t status = iocpd_rtt(world.engine, any_token(), &ticket);
    command_given(command, status, ticket, "rtt");
}

static void command_barrier(void) {
    iocpd_ticket *ticket = NULL;
    struct command *command = command_new(COMMAND_BARRIER, -1);
    int32_t status = iocpd_barrier(world.engine, &ticket);
    command_given(command, status, ticket, "barrier");
}

/* ---- what is done --------------------------------------------------------------------------------------------------------------- */

static void kick_check(const struct command *command) {
    uint8_t outcomes[TOKENS_MAX];
    iocpd_outcomes_read(command->ticket, outcomes);
    for (uint32_t i = 0; i < command->count; i++) {
        const struct witness *witness = witness_of(command->tokens[i]);
        if (outcomes[i] == IOCPD_WAITING) sim_fail("a kick is done, and the outcome of %u is open", i);
        if (outcomes[i] == IOCPD_LEFT && (!witness || !witness->released))
            sim_fail("a kick is done, and its connection is still there");
        iocpd_connection row;
        if (outcomes[i] == IOCPD_LEFT && iocpd_get(world.engine, command->tokens[i], &row) != IOCPD_ENDED)
            sim_fail("a kick is done, and its connection can still be found");
    }
}

static void owed_check(const struct command *command, const iocpd_report *report) {
    const struct said *one = &said[command->said];
    if (report->skipped_slow || report->failed || report->expired) return;
    for (uint32_t i = 0; i < sim_stream_count(); i++)
        if (one->owed[i] && !one->seen[i] && oracle_is_open(i))
            sim_fail("connection %u was there all the time, and was not sent %d", i, command->said);
}

static void command_done(struct command *command, const iocpd_report *report) {
    if (command->done) sim_fail("a command is done twice");
    command->done = true;
    commands_open--;
    if (!report->done) sim_fail("a command is taken as done, and is not");
    if (report->status == IOCPD_NO_MEMORY && !memory_has_failed()) sim_fail("no memory, though there was some");
    if (command->kind == COMMAND_KICK) kick_check(command);
    else if (report->matched != report->queued + report->skipped_slow + report->failed +
                                    (command->kind == COMMAND_SEND && report->status == IOCPD_CLOSING))
        sim_fail("a report does not add up: matched %llu", (unsigned long long)report->matched);
    if (report->queued != report->written + report->closed_before_write + report->expired)
        sim_fail("a report does not add up: queued %llu", (unsigned long long)report->queued);
    if (report->failed && !memory_has_failed()) sim_fail("a report tells of failures without one");
    if ((command->kind == COMMAND_SEND || command->kind == COMMAND_BROADCAST) && report->written != said[command->said].written)
        sim_fail("%d: written is %llu, and %llu connections were sent all of it", command->said,
                 (unsigned long long)report->written, (unsigned long long)said[command->said].written);
    if (command->kind == COMMAND_BROADCAST) owed_check(command, report);
    if (command->kind == COMMAND_SEND && report->matched > 1) sim_fail("a send matches several");
    if (command->kind == COMMAND_BANS && report->status == IOCPD_OK) {
        for (uint32_t i = 0; i < command->count; i++) {
            bool again = false; /* said otherwise later, in this command or in one that was given meanwhile */
            for (uint32_t j = 0; j < command_count; j++)
                for (uint32_t k = 0; commands[j].kind == COMMAND_BANS && k < commands[j].count; k++) {
                    const iocpd_ban *other = &commands[j].bans[k];
                    bool same =
                        other->prefix == command->bans[i].prefix && memcmp(other->network, command->bans[i].network, 16) == 0;
                    again |= same && (&commands[j] > command || (&commands[j] == command && k > i) || !commands[j].done);
                }
            if (!again) oracle_ban(&command->bans[i], false);
        }
    }
}

static void abandon_unwanted(void) {
    for (uint32_t i = 0; i < command_count; i++) {
        struct command *command = &commands[i];
        if (!command->unwanted || command->abandoned || command->done) continue;
        command->abandoned = true;
        commands_open--;
        iocpd_ticket_free(world.engine, command->ticket);
    }
}

static void take_done(uint32_t timeout_ms) {
    abandon_unwanted();
    iocpd_ticket *done[8];
    uint32_t count = iocpd_wait(world.engine, done, choose(1, 8), timeout_ms);
    for (uint32_t i = 0; i < count; i++) {
        struct command *command = NULL;
        while (!command) { /* whoever gave it may not have its ticket yet */
            for (uint32_t j = 0; j < command_count; j++)
                if (commands[j].ticket == done[i]) command = &commands[j];
            if (!command) thread_sleep(1000);
        }
        if (command->abandoned) sim_fail("a command is told of that nobody wants to know of");
        iocpd_report report;
        iocpd_ticket_read(done[i], &report);
        command_done(command, &report);
        command->ticket = NULL;
        iocpd_ticket_free(world.engine, done[i]);
    }
}

static void waiter(void *nothing) {
    (void)nothing;
    while (!world.over) take_done(choose(0, 30));
}

/* ---- reading -------------------------------------------------------------------------------------------------------------------- */

/* Pages of a listing, with time between them: who was there all the while is in it once. */
static void list_pages(void) {
    iocpd_cursor cursor = {0};
    iocpd_filter filter = {0};
    iocpd_connection rows[8];
    uint8_t seen[SIM_STREAMS_MAX] = {0};
    bool there[SIM_STREAMS_MAX];
    uint32_t count, capacity = choose(1, 8), streams = sim_stream_count();
    for (uint32_t i = 0; i < streams; i++) there[i] = witnesses[i].attached && !witnesses[i].released;
    do {
        count = iocpd_list(world.engine, &filter, &cursor, rows, capacity);
        for (uint32_t i = 0; i < count; i++) {
            const struct witness *witness = witness_of(rows[i].token);
            if (!witness) continue; /* it is just being taken over */
            uint32_t number = (uint32_t)(witness - witnesses);
            const struct sim_stream *stream = sim_stream_at(number);
            if (seen[number]++) sim_fail("connection %u is listed twice", number);
            if (memcmp(rows[i].peer_ip, stream->peer.ip, 16) != 0 || rows[i].listener != stream->listener)
                sim_fail("connection %u is listed with the address or listener of another", number);
            if (rows[i].bytes_in > stream->taken || (!witness->released && rows[i].bytes_out > stream->sent))
                sim_fail("connection %u is listed with more bytes than it has", number);
        }
        if (sometimes(2)) thread_sleep(choose(1, 2000000));
    } while (count == capacity);
    for (uint32_t i = 0; i < streams; i++)
        if (there[i] && !witnesses[i].released && !seen[i])
            sim_fail("connection %u was there all the time, and is not listed", i);
}

static void list_as_json(void) {
    char json[32768];
    iocpd_filter filter = {0};
    iocpd_cursor cursor = {0};
    uint32_t bytes;
    int32_t more = 1;
    while (more) {
        iocpd_list_json(world.engine, &filter, &cursor, choose(1, 5), IOCPD_MEMBER_ALL, "c", json, sizeof json, &bytes, &more);
        if (memchr(json, 0xdd, bytes)) sim_fail("a listing shows memory that was freed");
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
        if (sometimes(2)) list_pages();
        else list_as_json();
        thread_sleep((int64_t)choose(1, 20) * 1000000);
    }
    for (uint32_t i = 0; missed == 0 && i < sim_stream_count(); i++)
        if (witnesses[i].attached && (witnesses[i].connected_events != 1 || witnesses[i].disconnected_events != 1))
            sim_fail("connection %u has %u events of its begin and %u of its end", i, witnesses[i].connected_events,
                     witnesses[i].disconnected_events);
}

static void read_something(void) {
    iocpd_closed closed[64];
    char json[32768];
    iocpd_filter filter = {0};
    iocpd_connection row;
    iocpd_worker_stats stats;
    iocpd_info info;
    iocpd_drain_progress progress;
    iocpd_sorted sorted[16];
    uint32_t bytes;
    switch (choose(0, 7)) {
    case 0: oracle_closed(closed, iocpd_closed_list(world.engine, 0, closed, choose(1, 64))); break;
    case 1: iocpd_closed_get(world.engine, any_token(), &closed[0]); break;
    case 2: list_as_json(); break;
    case 3: {
        uint32_t all =
            iocpd_sort(world.engine, &filter, (int32_t)choose(0, IOCPD_KEY_COUNT - 1), (int32_t)choose(0, 1), sorted, 16);
        uint32_t position = 0;
        iocpd_sorted_json(world.engine, sorted, all < 16 ? all : 16, &position, 16, IOCPD_MEMBER_ALL, "c", json, sizeof json,
                          &bytes);
        break;
    }
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
    sim_trace("limits: soft %u bytes for %u ms, hard %u bytes, first byte %u ms, idle %u ms", limits.send_soft_bytes,
              limits.send_soft_ms, limits.send_hard_bytes, limits.first_byte_ms, limits.idle_ms);
    oracle_limits(&limits);
    iocpd_configure(world.engine, &limits);
    oracle_limits(&limits);
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
    case 2: command_send(); break;
    case 3:
    case 4: command_broadcast(); break;
    case 5:
    case 6: command_kick(); break;
    case 7:
        for (uint32_t times = choose(1, 10); times > 0 && command_count < COMMANDS_MAX; times--) command_label();
        break;
    case 8: command_bans(); break;
    case 9: sometimes(2) ? command_rtt() : command_barrier(); break;
    case 10:
    case 11: list_pages(); break;
    case 12: sometimes(3) ? configure() : read_something(); break;
    case 13: sometimes(3) ? drain_and_cancel() : command_label(); break;
    default: read_something(); break;
    }
}

static void operator(void *nothing) {
    (void)nothing;
    for (uint32_t left = world.commands / OPERATORS; left > 0 && !world.over && !operators_end; left--) {
        thread_sleep(choose(0, sometimes(3) ? 20000000 : 2000000));
        if (command_count + 2 < COMMANDS_MAX) operate();
    }
    if (!world.commands) operators_end = true;
    while (!operators_end && !world.stopping) thread_sleep(1000000);
    for (uint32_t left = 50; left > 0 && world.stopping && !world.over && !operators_end; left--) { /* and while it is stopping */
        thread_sleep(choose(0, 2000000));
        if (command_count + 2 < COMMANDS_MAX) operate();
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
    while (operators_running || commands_open || taken != before || !oracle_is_calm(false)) {
        before = all_taken();
        if (world.now_ns > until) {
            if (operators_running) sim_fail("an operator does not get an answer");
            if (commands_open) sim_fail("%u commands are never done", commands_open);
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
    for (uint32_t before = UINT32_MAX; commands_open && commands_open != before;) {
        before = commands_open;
        take_done(0);
    }
    if (commands_open) sim_fail("the engine has stopped, and %u commands are not done", commands_open);
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
    command_count = commands_open = helper_count = operators_running = 0;
    operators_end = false;
    platform_thread main;
    platform_thread_start(&main, live, NULL, "main");
}
