/* gate.c: see gate.h. */
#include "gate.h"

enum {
    VISITORS_SPARE = 65536, /* addresses without a connection that are remembered beside those with one */
    SWEEP = 2,              /* buckets that each accept looks through for addresses to forget */
    DOMINANT_LEAST = 100,   /* connections: most of fewer say nothing */
};

static const int64_t SECOND_NS = 1000000000;

static uint32_t power_of_two(uint32_t least) {
    uint32_t power = 64;
    while (power < least) power *= 2;
    return power;
}

int gate_init(struct gate *gate, const iocpd_config *config) {
    gate->seed = config->seed;
    gate->bans_max = config->max_bans;
    gate->ban_buckets = power_of_two(config->max_bans);
    gate->visitor_buckets = power_of_two(config->max_connections < 65536 ? config->max_connections : 65536);
    /* Pages of these are used as they are written to. */
    gate->bans = memory_new(gate->ban_buckets * sizeof *gate->bans);
    gate->visitors = memory_new(gate->visitor_buckets * sizeof *gate->visitors);
    return gate->bans && gate->visitors ? 0 : -1;
}

void gate_destroy(struct gate *gate) {
    for (uint32_t i = 0; gate->bans && i < gate->ban_buckets; i++) {
        while (gate->bans[i]) {
            struct ban *ban = gate->bans[i];
            gate->bans[i] = ban->next;
            memory_free(ban);
        }
    }
    for (uint32_t i = 0; gate->visitors && i < gate->visitor_buckets; i++) {
        while (gate->visitors[i]) {
            struct visitor *visitor = gate->visitors[i];
            gate->visitors[i] = visitor->next;
            memory_free(visitor);
        }
    }
    memory_free(gate->bans);
    memory_free(gate->visitors);
    gate->bans = NULL;
    gate->visitors = NULL;
}

/* ---- hashing -------------------------------------------------------------------------------------------------------- */

/* The finalizer of MurmurHash3. */
static uint64_t mix(uint64_t word) {
    word ^= word >> 33;
    word *= 0xff51afd7ed558ccdu;
    word ^= word >> 33;
    word *= 0xc4ceb9fe1a85ec53u;
    return word ^ word >> 33;
}

static uint32_t hash(const struct gate *gate, const uint8_t *ip, uint32_t prefix) {
    uint64_t words[2];
    memcpy(words, ip, 16);
    return (uint32_t)mix(mix(mix(gate->seed ^ prefix) ^ words[0]) ^ words[1]);
}

/* Only the first `prefix` bits are kept. */
static void mask(uint8_t *out, const uint8_t *ip, uint32_t prefix) {
    memset(out, 0, 16);
    memcpy(out, ip, prefix / 8);
    if (prefix % 8) out[prefix / 8] = ip[prefix / 8] & (uint8_t)(0xff00 >> prefix % 8);
}

bool in_network(const uint8_t *ip, const uint8_t *network, uint32_t prefix) {
    uint32_t bytes = prefix / 8, bits = prefix % 8;
    if (memcmp(ip, network, bytes) != 0) return false;
    return bits == 0 || ((ip[bytes] ^ network[bytes]) & (uint8_t)(0xff00 >> bits)) == 0;
}

static bool is_ipv4(const uint8_t *ip) {
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return memcmp(ip, mapped, sizeof mapped) == 0;
}

/* ---- bans ----------------------------------------------------------------------------------------------------------- */

/* Where the ban of exactly this network hangs, or would. `network` has no bits beyond the prefix. */
static struct ban **ban_place(const struct gate *gate, const uint8_t *network, uint32_t prefix) {
    struct ban **at = &gate->bans[hash(gate, network, prefix) & (gate->ban_buckets - 1)];
    while (*at && ((*at)->prefix != prefix || memcmp((*at)->network, network, 16) != 0)) at = &(*at)->next;
    return at;
}

static void prefix_used(struct gate *gate, uint32_t prefix) {
    if (gate->prefix_uses[prefix]++ == 0) gate->prefixes[gate->prefix_count++] = (uint8_t)prefix;
}

static void prefix_unused(struct gate *gate, uint32_t prefix) {
    if (--gate->prefix_uses[prefix] > 0) return;
    uint32_t at = 0;
    while (gate->prefixes[at] != prefix) at++;
    gate->prefixes[at] = gate->prefixes[--gate->prefix_count];
}

/* What hangs at `at` goes; it may be nothing. */
static void take_out(struct gate *gate, struct ban **at) {
    struct ban *ban = *at;
    if (!ban) return;
    *at = ban->next;
    prefix_unused(gate, ban->prefix);
    u32_store(&gate->ban_count, gate->ban_count - 1);
    memory_free(ban);
}

static void put_in(struct gate *gate, struct ban **at, struct ban *ban) {
    ban->next = *at;
    *at = ban;
    prefix_used(gate, ban->prefix);
    u32_store(&gate->ban_count, gate->ban_count + 1);
}

bool gate_apply(struct gate *gate, struct ban **bans, int64_t now_ns) {
    while (*bans) {
        struct ban *ban = *bans;
        uint8_t network[16];
        mask(network, ban->network, ban->prefix);
        memcpy(ban->network, network, 16);
        struct ban **at = ban_place(gate, network, ban->prefix);
        if (!ban->lift && !*at && gate->ban_count >= gate->bans_max) return false;
        *bans = ban->next;
        take_out(gate, at); /* also what a new one replaces */
        if (ban->lift) {
            memory_free(ban);
            continue;
        }
        ban->expires_ns = ban->ttl_ns ? now_ns + ban->ttl_ns : 0;
        put_in(gate, at, ban);
    }
    return true;
}

bool gate_bans(const struct gate *gate, const uint8_t *ip, int64_t now_ns) {
    for (uint32_t i = 0; i < gate->prefix_count; i++) {
        uint8_t network[16];
        mask(network, ip, gate->prefixes[i]);
        const struct ban *ban = *ban_place(gate, network, gate->prefixes[i]);
        if (ban && (ban->expires_ns == 0 || ban->expires_ns > now_ns)) return true;
    }
    return false;
}

/* ---- addresses ------------------------------------------------------------------------------------------------------- */

/* Every other thread's last touch of a visitor is to take its connection back, so one without connections is ours. */
static bool forgettable(const struct visitor *visitor, int64_t now_ns) {
    return u32_load_acquire(&visitor->connections) == 0 && visitor->allowance_ns <= now_ns;
}

static void sweep(struct gate *gate, int64_t now_ns) {
    for (int i = 0; i < SWEEP; i++) {
        struct visitor **at = &gate->visitors[gate->sweep_at++ & (gate->visitor_buckets - 1)];
        while (*at) {
            struct visitor *visitor = *at;
            if (!forgettable(visitor, now_ns)) {
                at = &visitor->next;
                continue;
            }
            *at = visitor->next;
            if (gate->dominant == visitor) gate->dominant = NULL;
            memory_free(visitor);
            gate->visitor_count--;
        }
    }
}

uint32_t gate_visitor_prefix(const uint8_t *ip) { return is_ipv4(ip) ? 128 : 64; }

static struct visitor *visitor_of(struct gate *gate, const iocpd_config *config, const uint8_t *ip) {
    uint8_t address[16];
    mask(address, ip, gate_visitor_prefix(ip));
    struct visitor **bucket = &gate->visitors[hash(gate, address, 0) & (gate->visitor_buckets - 1)];
    for (struct visitor *visitor = *bucket; visitor; visitor = visitor->next)
        if (memcmp(visitor->address, address, 16) == 0) return visitor;
    bool full = gate->visitor_count >= u32_load(&config->max_connections) + VISITORS_SPARE;
    struct visitor *visitor = full ? NULL : memory_new(sizeof *visitor);
    if (!visitor) return NULL;
    memcpy(visitor->address, address, 16);
    visitor->next = *bucket;
    *bucket = visitor;
    gate->visitor_count++;
    return visitor;
}

/* The generic cell rate algorithm (ITU-T I.371): a burst of one second's worth, then one for each 1/rate of a second. */
static bool within_rate(int64_t allowance_ns, uint32_t rate, int64_t now_ns) {
    return rate == 0 || allowance_ns - now_ns < SECOND_NS;
}

static void take_allowance(int64_t *allowance_ns, uint32_t rate, int64_t now_ns) {
    if (rate == 0) return;
    if (*allowance_ns < now_ns) *allowance_ns = now_ns;
    *allowance_ns += SECOND_NS / rate;
}

enum gate_answer gate_enter(struct gate *gate, const iocpd_config *config, const uint8_t *ip, int64_t now_ns,
                            struct visitor **out) {
    uint32_t most = u32_load(&config->max_per_address), rate = u32_load(&config->accepts_per_s);
    uint32_t address_rate = u32_load(&config->accepts_per_s_per_address);
    if (gate_bans(gate, ip, now_ns)) return GATE_BANNED;
    sweep(gate, now_ns);
    struct visitor *visitor = visitor_of(gate, config, ip);
    if (!visitor) return GATE_NO_MEMORY;
    if (most && u32_load(&visitor->connections) >= most) return GATE_ADDRESS_LIMIT;
    if (!within_rate(visitor->allowance_ns, address_rate, now_ns)) return GATE_ADDRESS_RATE;
    if (!within_rate(gate->allowance_ns, rate, now_ns)) return GATE_RATE; /* last: who is refused anyway takes none of it */
    take_allowance(&visitor->allowance_ns, address_rate, now_ns);
    take_allowance(&gate->allowance_ns, rate, now_ns);
    u32_add(&visitor->connections, 1);
    *out = visitor;
    return GATE_ADMITTED;
}

void gate_leave(struct visitor *visitor) {
    if (visitor) u32_add(&visitor->connections, (uint32_t)-1);
}

bool gate_dominates(struct gate *gate, const struct visitor *visitor, uint64_t total) {
    if (gate->dominant && (uint64_t)u32_load(&gate->dominant->connections) * 4 < total) gate->dominant = NULL;
    if (visitor == gate->dominant || total < DOMINANT_LEAST || (uint64_t)u32_load(&visitor->connections) * 2 <= total)
        return false;
    gate->dominant = visitor;
    return true;
}
