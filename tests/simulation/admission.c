/* admission.c: who is let in and who is not. Both must be true: nobody comes in whom a limit or a ban that is surely in force
 * keeps out, and nobody is refused for one that is surely not: what is lifted lets clients in again.
 */
#include "world.h"

enum {
    ORDERS_MAX = 3 * COMMANDS_MAX, /* bans that were asked for */
    LIMITS_MAX = 128,              /* changes of the limits */
    SECOND_NS = 1000 * 1000 * 1000,
    LEAVING_NS = 100 * 1000 * 1000, /* between a connection's end and the last count of it */
};

struct limits_seen limits;

/* Each set of limits, in its order. It may be in force from when it was asked for until the next one surely is. */
static struct {
    iocpd_limits limits;
    int64_t over_ns;
} history[LIMITS_MAX];
static uint32_t history_count;

static struct ban_seen {
    uint8_t network[16];
    uint32_t prefix;
    int64_t since_ns, until_ns; /* surely in force between these */
} bans[64];
static uint32_t ban_count;

static struct {
    uint8_t network[16];
    uint32_t prefix;
    int64_t over_ns; /* surely not in force after this */
} orders[ORDERS_MAX];
static uint32_t order_count;

static uint64_t looked_at[LISTENERS_MAX_SIM][REFUSED_MEMORY]; /* of what the engine counts, by listener */

#define EACH_LIMIT(apply)                                                                                                        \
    apply(max_connections) apply(first_byte_ms) apply(idle_ms) apply(send_soft_bytes) apply(send_soft_ms) apply(send_hard_bytes) \
        apply(max_per_address) apply(accepts_per_s) apply(accepts_per_s_per_address)

void admission_reset(void) {
    memset(&limits, 0, sizeof limits);
    memset(looked_at, 0, sizeof looked_at);
    ban_count = order_count = 0;
    history_count = 1;
    history[0].over_ns = INT64_MAX;
#define BEGIN(field) limits.largest.field = limits.smallest.field = history[0].limits.field = world.config.field;
    EACH_LIMIT(BEGIN)
    limits.first_byte_ms = world.config.first_byte_ms;
    limits.idle_ms = world.config.idle_ms;
    limits.slowest = world.config.accepts_per_s;
    limits.slowest_per_address = world.config.accepts_per_s_per_address;
}

static uint32_t least(uint32_t before, uint32_t now) { return now && (!before || now < before) ? now : before; }

bool oracle_limits(const iocpd_limits *now, bool begun) {
    if (begun && history_count == LIMITS_MAX) return false;
    limits.changed_ns = world.now_ns;
    if (!begun) {
        for (uint32_t i = 0; i + 1 < history_count; i++)
            if (history[i].over_ns == INT64_MAX) history[i].over_ns = world.now_ns;
        return true;
    }
    history[history_count].limits = *now;
    history[history_count++].over_ns = INT64_MAX;
#define WIDEN(field)                                                                                                             \
    if (now->field > limits.largest.field) limits.largest.field = now->field;                                                    \
    if (now->field < limits.smallest.field) limits.smallest.field = now->field;
    EACH_LIMIT(WIDEN)
    limits.first_byte_ms = least(limits.first_byte_ms, now->first_byte_ms);
    limits.idle_ms = least(limits.idle_ms, now->idle_ms);
    limits.slowest = least(limits.slowest, now->accepts_per_s);
    limits.slowest_per_address = least(limits.slowest_per_address, now->accepts_per_s_per_address);
    return true;
}

/* ---- bans ------------------------------------------------------------------------------------------------------------------- */

static bool is_same(const iocpd_ban *ban, const uint8_t *network, uint32_t prefix) {
    return ban->prefix == prefix && memcmp(ban->network, network, 16) == 0;
}

static void ban_asked(const iocpd_ban *ban) {
    for (uint32_t i = 0; i < ban_count; i++) /* from now on it is not certain any more, whatever it was */
        if (is_same(ban, bans[i].network, bans[i].prefix)) bans[i--] = bans[--ban_count];
    if (ban->lift) return;
    memcpy(orders[order_count].network, ban->network, 16);
    orders[order_count].prefix = ban->prefix;
    orders[order_count++].over_ns = INT64_MAX;
}

void oracle_ban(const iocpd_ban *ban, bool begun) {
    if (begun) {
        ban_asked(ban);
        return;
    }
    /* It takes the place of all that was said of this network before. */
    int64_t over_ns = ban->lift ? world.now_ns : ban->ttl_ms ? world.now_ns + (int64_t)ban->ttl_ms * 1000000 : INT64_MAX;
    for (uint32_t i = 0; i < order_count; i++)
        if (is_same(ban, orders[i].network, orders[i].prefix) && orders[i].over_ns > over_ns) orders[i].over_ns = over_ns;
    if (ban->lift || ban_count == 64) return;
    struct ban_seen *seen = &bans[ban_count++];
    memcpy(seen->network, ban->network, 16);
    seen->prefix = ban->prefix;
    seen->since_ns = world.now_ns;
    seen->until_ns = ban->ttl_ms ? world.now_ns : INT64_MAX; /* one with a time may end at any moment */
}

/* ---- visits ------------------------------------------------------------------------------------------------------------------- */

/* For whom a connection counts, and when worker 0 looked at him at the earliest. */
struct visit {
    const uint8_t *ip; /* NULL: for nobody (yet, or at all) */
    int64_t at_ns;
};

static struct visit visit_of(uint32_t number) {
    const struct witness *witness = &witnesses[number];
    const struct header *header = &witness->header;
    struct visit visit = {.ip = sim_stream_at(number)->peer.ip, .at_ns = witness->accepted_ns};
    if (!header->wanted) return visit;
    if (!header->whole_ns || !header->has_client) return (struct visit){.at_ns = witness->accepted_ns};
    return (struct visit){.ip = header->client.ip, .at_ns = header->whole_ns};
}

/* One address, or one network of IPv6. */
static bool is_same_visitor(const uint8_t *a, const uint8_t *b) { return memcmp(a, b, a[0] || b[0] ? 8 : 16) == 0; }

/* ---- let in ------------------------------------------------------------------------------------------------------------------- */

static void bans_check(const struct sim_stream *stream, const uint8_t *ip, int64_t looked_ns) {
    for (uint32_t i = 0; i < ban_count; i++)
        if (is_in_network(ip, bans[i].network, bans[i].prefix) && bans[i].since_ns < looked_ns && looked_ns < bans[i].until_ns)
            sim_fail("connection %u is let in, though its address is banned", stream->number);
}

/* It has been let in at `now_ns` at the latest. */
static void visit_check(uint32_t number, int64_t now_ns) {
    const uint8_t *ip = visit_of(number).ip;
    uint32_t same_address = 0, last_second = 0;
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        const struct witness *other = &witnesses[i];
        const struct header *header = &other->header;
        struct visit visit = visit_of(i);
        if (!other->attached || !visit.ip || (header->wanted && !header->entered)) continue;
        if (!other->released && is_same_visitor(visit.ip, ip)) same_address++;
        if (visit.at_ns > now_ns - SECOND_NS && (header->wanted ? header->entered_ns : visit.at_ns) <= now_ns) last_second++;
    }
    if (limits.smallest.max_per_address && same_address > limits.largest.max_per_address)
        sim_fail("%u connections of one address, and %u is the most", same_address, limits.largest.max_per_address);
    if (limits.smallest.accepts_per_s && last_second > 2 * limits.largest.accepts_per_s + 2)
        sim_fail("%u accepts in a second, and %u is the rate", last_second, limits.largest.accepts_per_s);
}

void admission_check(const struct sim_stream *stream) {
    const struct witness *witness = &witnesses[stream->number];
    uint32_t here = 0;
    for (uint32_t i = 0; i < sim_stream_count(); i++) here += witnesses[i].attached && !witnesses[i].released;
    if (here > limits.largest.max_connections)
        sim_fail("%u connections, and %u is the most", here, limits.largest.max_connections);
    if (!witness->header.wanted) visit_check(stream->number, witness->accepted_ns);
    bans_check(stream, stream->peer.ip, witness->accepted_ns);
}

void admission_check_named(const struct sim_stream *stream) {
    const struct header *header = &witnesses[stream->number].header;
    visit_check(stream->number, world.now_ns);
    bans_check(stream, header->client.ip, header->whole_ns);
}

/* ---- refused ------------------------------------------------------------------------------------------------------------------ */

static void counted(uint32_t number, uint64_t *now) {
    const struct listener *listener = &world.begun->listeners[number];
    now[REFUSED_LIMIT] = listener->refused_limit;
    now[REFUSED_BANNED] = listener->refused_banned;
    now[REFUSED_ADDRESS_LIMIT] = listener->refused_address_limit;
    now[REFUSED_ADDRESS_RATE] = listener->refused_address_rate;
    now[REFUSED_RATE] = listener->refused_rate;
}

/* What has moved until now were clients that a header has named. */
void admission_between(void) {
    if (!world.begun || !(world.faults & FAULT_PROXY)) return;
    for (uint32_t i = 0; i < world.config.listener_count; i++) counted(i, looked_at[i]);
}

/* Which of the engine's counters has moved: it counts whom worker 0 does not let in before it closes the handle, and whom a
 * worker has no memory for afterwards. */
static enum refusal refusal_of(uint32_t number) {
    uint64_t now[REFUSED_MEMORY];
    counted(number, now);
    enum refusal moved = REFUSED_MEMORY;
    for (int i = 0; i < REFUSED_MEMORY; i++) {
        if (now[i] == looked_at[number][i]) continue;
        if (now[i] != looked_at[number][i] + 1 || moved != REFUSED_MEMORY)
            sim_fail("listener %u counts one refusal more than once", number);
        moved = (enum refusal)i;
        looked_at[number][i] = now[i];
    }
    return moved;
}

/* How many others there may have been when this one was looked at: connections, those of its address, and those that were let in
 * within the second before, all counted generously. */
struct others {
    uint32_t all, same_address, lately, same_lately;
};

/* Counted, and then not let in: what the connection of a header ends as. */
static bool is_turned_away(const struct witness *witness) {
    return (witness->refused && witness->refusal != REFUSED_MEMORY) ||
           (witness->released && witness->reason >= IOCPD_ADDRESS_LIMIT);
}

static struct others others_of(uint32_t number, const struct visit *visit) {
    struct others others = {0};
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        const struct witness *other = &witnesses[i];
        if (i == number || !other->accepted_ns || (other->refused && other->refusal != REFUSED_MEMORY)) continue;
        struct visit its = visit_of(i);
        bool counts = its.ip && !is_turned_away(other), same = counts && is_same_visitor(its.ip, visit->ip);
        int64_t left_ns = other->refused ? other->refused_ns : other->released ? other->released_ns : INT64_MAX;
        int64_t looked_ns = visit->at_ns - world.jumped_ns; /* the clock may have jumped between */
        bool here = left_ns > looked_ns - LEAVING_NS;
        bool lately = counts && its.at_ns > looked_ns - SECOND_NS - LEAVING_NS;
        others.all += here;
        others.same_address += here && same;
        others.lately += lately;
        others.same_lately += lately && same;
    }
    return others;
}

/* A rate, once used up, still holds those back who come at another one: so the smallest there ever was counts. */
static bool rate_is_used_up(uint32_t rate, uint32_t slowest, uint32_t lately) { return rate && lately + 1 >= slowest; }

static bool may_be_refused(const iocpd_limits *in_force, enum refusal refusal, const struct others *others) {
    switch (refusal) {
    case REFUSED_LIMIT: return others->all >= in_force->max_connections;
    case REFUSED_ADDRESS_LIMIT: return in_force->max_per_address && others->same_address >= in_force->max_per_address;
    case REFUSED_ADDRESS_RATE:
        return rate_is_used_up(in_force->accepts_per_s_per_address, limits.slowest_per_address, others->same_lately);
    case REFUSED_RATE: return rate_is_used_up(in_force->accepts_per_s, limits.slowest, others->lately);
    default: return false;
    }
}

static bool may_be_banned(const struct visit *visit) {
    int64_t looked_ns = visit->at_ns - world.jumped_ns; /* worker 0 goes by the time at which its turn began */
    for (uint32_t i = 0; i < order_count; i++)
        if (is_in_network(visit->ip, orders[i].network, orders[i].prefix) && orders[i].over_ns >= looked_ns) return true;
    return false;
}

static bool is_true(uint32_t number, const struct visit *visit, enum refusal refusal) {
    struct others others = others_of(number, visit);
    bool may = refusal == REFUSED_MEMORY && memory_has_failed();
    if (refusal == REFUSED_BANNED) may = may_be_banned(visit);
    for (uint32_t i = 0; i < history_count; i++)
        if (history[i].over_ns >= visit->at_ns) may |= may_be_refused(&history[i].limits, refusal, &others);
    return may;
}

bool admission_may_refuse(const struct sim_stream *stream, enum refusal refusal) {
    struct visit visit = visit_of(stream->number);
    return is_true(stream->number, &visit, refusal);
}

void oracle_refused(struct sim_stream *stream) {
    static const char *const names[] = {"max_connections",           "a ban",         "max_per_address",
                                        "accepts_per_s_per_address", "accepts_per_s", "want of memory"};
    struct witness *witness = &witnesses[stream->number];
    struct visit visit = {.ip = stream->peer.ip, .at_ns = witness->accepted_ns};
    if (witness->attached) sim_fail("connection %u is closed as one that was not let in", stream->number);
    witness->refused = true;
    witness->refused_ns = world.now_ns;
    witness->refusal = refusal_of(stream->listener);
    sim_trace("connection %u: is refused: %s", stream->number, names[witness->refusal]);
    bool of_client = witness->refusal >= REFUSED_ADDRESS_LIMIT && witness->refusal <= REFUSED_RATE;
    if (!is_true(stream->number, &visit, witness->refusal) || (witness->header.wanted && of_client))
        sim_fail("connection %u is refused for %s, which is not true", stream->number, names[witness->refusal]);
}

/* An accept that is refused has been counted a moment ago; whoever else is reset has a connection. */
void oracle_resets(struct sim_stream *stream) {
    if (stream->socket) admission_between();
}
