/* commands.c: what operators ask of the engine, and what its tickets must say when it is done. */
#include "world.h"

enum { TOKENS_MAX = 8 };

struct command {
    iocpd_ticket *ticket;
    enum command_kind kind;
    int32_t said;                   /* -1: nothing */
    bool unwanted, abandoned, done; /* unwanted: to be abandoned by the waiter, since a ticket that is taken is in use */
    uint64_t tokens[TOKENS_MAX];
    uint32_t count;
    iocpd_ban bans[3];
};

static struct command commands[COMMANDS_MAX];
static uint32_t command_count, open_count;
static uint64_t labelled; /* the last connection that was; often again */

static uint32_t choose(uint64_t least, uint64_t most) { return (uint32_t)roll_between(DICE_OPERATORS, least, most); }
static bool sometimes(uint32_t times) { return one_in(DICE_OPERATORS, times); }

void commands_reset(void) {
    command_count = open_count = 0;
    labelled = 0;
}

uint32_t commands_open(void) { return open_count; }

uint64_t any_token(void) {
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
static struct command *command_new(enum command_kind kind, int32_t number) {
    struct command *command = &commands[command_count++];
    *command = (struct command){.kind = kind, .said = number};
    return command;
}

const char *status_name(int32_t status) {
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
    open_count++;
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
        one->owed[i] = meant && oracle_is_open(i);
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

static const char labels_json[] = ",\"tags\":{},\"groups\":[]"; /* of all labels here */

void labels_check(const char *json, uint32_t bytes) {
    if (bytes && (bytes != sizeof labels_json - 1 || memcmp(json, labels_json, bytes) != 0))
        sim_fail("labels that nobody has given");
}

static void command_label(void) {
    iocpd_ticket *ticket = NULL;
    uint8_t labels[16];
    char read[IOCPD_LABEL_BYTES];
    uint32_t bytes, length = label_bytes(labels);
    uint64_t token = command_count && !sometimes(2) ? labelled : any_token(), version = 0;
    labelled = token;
    iocpd_labels_read(world.engine, token, read, &bytes, &version);
    labels_check(read, bytes);
    if (sometimes(4)) version++;
    struct command *command = command_new(COMMAND_LABEL, -1);
    command->tokens[0] = token;
    int32_t status =
        iocpd_label(world.engine, token, version, labels, length, labels_json, 10, length ? sizeof labels_json - 1 : 0, &ticket);
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
        if (world.faults & FAULT_PROXY && one_in(DICE_PROXY, 3)) {
            memcpy(ban->network, named_address().ip, 16);
            ban->prefix = one_in(DICE_PROXY, 3) ? 128 : (uint32_t)roll_between(DICE_PROXY, 60, 64);
        }
        for (uint32_t bit = ban->prefix; bit < 128; bit++) ban->network[bit / 8] &= (uint8_t)~(0x80 >> bit % 8);
        ban->ttl_ms = sometimes(3) ? choose(1, 100) : 0;
        ban->lift = sometimes(3);
        sim_trace("%s %s%u.%u/%u", ban->lift ? "lift" : "ban", ban->network[0] ? "..." : "10.0.", ban->network[14],
                  ban->network[15], ban->prefix);
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

void command_give(enum command_kind kind) {
    static void (*const give[])(void) = {[COMMAND_SEND] = command_send,      [COMMAND_BROADCAST] = command_broadcast,
                                         [COMMAND_KICK] = command_kick,      [COMMAND_LABEL] = command_label,
                                         [COMMAND_BANS] = command_bans,      [COMMAND_RTT] = command_rtt,
                                         [COMMAND_BARRIER] = command_barrier};
    if (command_count + 2 < COMMANDS_MAX) give[kind](); /* two operators may be at it */
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
    open_count--;
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
        open_count--;
        iocpd_ticket_free(world.engine, command->ticket);
    }
}

void commands_take_done(uint32_t timeout_ms) {
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
