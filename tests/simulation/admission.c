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

static bool is_in(const uint8_t *ip, const uint8_t *network, uint32_t prefix) {
    for (uint32_t bit = 0; bit < prefix; bit++)
        if ((network[bit / 8] ^ ip[bit / 8]) & 0x80 >> bit % 8) return false;
    return true;
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

/* ---- let in ------------------------------------------------------------------------------------------------------------------- */

void admission_check(const struct sim_stream *stream) {
    const struct witness *witness = &witnesses[stream->number];
    uint32_t here = 0, same_address = 0, last_second = 0;
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        const struct witness *other = &witnesses[i];
        if (!other->attached) continue;
        if (!other->released) here++;
        if (!other->released && memcmp(sim_stream_at(i)->peer.ip, stream->peer.ip, 16) == 0) same_address++;
        if (other->accepted_ns > witness->accepted_ns - SECOND_NS && other->accepted_ns <= witness->accepted_ns) last_second++;
    }
    if (here > limits.largest.max_connections)
        sim_fail("%u connections, and %u is the most", here, limits.largest.max_connections);
    if (limits.smallest.max_per_address && same_address > limits.largest.max_per_address)
        sim_fail("%u connections of one address, and %u is the most", same_address, limits.largest.max_per_address);
    if (limits.smallest.accepts_per_s && last_second > 2 * limits.largest.accepts_per_s + 2)
        sim_fail("%u accepts in a second, and %u is the rate", last_second, limits.largest.accepts_per_s);
    for (uint32_t i = 0; i < ban_count; i++)
        if (is_in(stream->peer.ip, bans[i].network, bans[i].prefix) && bans[i].since_ns < witness->accepted_ns &&
            witness->accepted_ns < bans[i].until_ns)
            sim_fail("connection %u is let in, though its address is banned", stream->number);
}

/* ---- refused ------------------------------------------------------------------------------------------------------------------ */

/* Which of the engine's counters has moved: it counts whom worker 0 does not let in before it closes the handle, and whom a
 * worker has no memory for afterwards. */
static enum refusal refusal_of(uint32_t number) {
    const struct listener *listener = &world.begun->listeners[number];
    const uint64_t now[] = {[REFUSED_LIMIT] = listener->refused_limit,
                            [REFUSED_BANNED] = listener->refused_banned,
                            [REFUSED_ADDRESS_LIMIT] = listener->refused_address_limit,
                            [REFUSED_ADDRESS_RATE] = listener->refused_address_rate,
                            [REFUSED_RATE] = listener->refused_rate};
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

static struct others others_of(const struct sim_stream *stream) {
    const struct witness *witness = &witnesses[stream->number];
    struct others others = {0};
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        const struct witness *other = &witnesses[i];
        bool same = memcmp(sim_stream_at(i)->peer.ip, stream->peer.ip, 16) == 0;
        if (i == stream->number || !other->accepted_ns || (other->refused && other->refusal != REFUSED_MEMORY)) continue;
        int64_t left_ns = other->refused ? other->refused_ns : other->released ? other->released_ns : INT64_MAX;
        int64_t looked_ns = witness->accepted_ns - world.jumped_ns; /* the clock may have jumped between */
        bool here = left_ns > looked_ns - LEAVING_NS;
        bool lately = other->accepted_ns > looked_ns - SECOND_NS - LEAVING_NS;
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

static bool may_be_banned(const struct sim_stream *stream) {
    for (uint32_t i = 0; i < order_count; i++)
        if (is_in(stream->peer.ip, orders[i].network, orders[i].prefix) &&
            orders[i].over_ns >= witnesses[stream->number].accepted_ns)
            return true;
    return false;
}

void oracle_refused(struct sim_stream *stream) {
    static const char *const names[] = {"max_connections",           "a ban",         "max_per_address",
                                        "accepts_per_s_per_address", "accepts_per_s", "want of memory"};
    struct witness *witness = &witnesses[stream->number];
    if (witness->attached) sim_fail("connection %u is closed as one that was not let in", stream->number);
    struct others others = others_of(stream);
    witness->refused = true;
    witness->refused_ns = world.now_ns;
    witness->refusal = refusal_of(stream->listener);
    bool is_true = witness->refusal == REFUSED_MEMORY && memory_has_failed();
    if (witness->refusal == REFUSED_BANNED) is_true = may_be_banned(stream);
    for (uint32_t i = 0; i < history_count; i++)
        if (history[i].over_ns >= witness->accepted_ns) is_true |= may_be_refused(&history[i].limits, witness->refusal, &others);
    sim_trace("connection %u: is refused: %s", stream->number, names[witness->refusal]);
    if (!is_true) sim_fail("connection %u is refused for %s, which is not true", stream->number, names[witness->refusal]);
}
