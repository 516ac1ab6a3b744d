/* The gate: bans of networks, limits and rates by address, against lists that are searched from end to end. The input: limits,
 * then operations, of a few bytes each. */
#include "gate.h"
#include "fuzz.h"

enum { BANS = 12, OPEN = 64, TOTAL_LEAST = 100 };

static const int64_t SECOND = 1000000000;

struct known_ban {
    uint8_t network[16];
    uint32_t prefix;
    int64_t expires_ns; /* 0: for ever */
};

struct model {
    struct known_ban bans[BANS];
    uint32_t ban_count;
    struct visitor *open[OPEN];
    uint8_t open_ip[OPEN][16];
    uint32_t open_count;
};

/* Few, so that they meet: IPv4 and IPv6 that differ in the last bits and in others. */
static void take_ip(struct input *input, uint8_t *ip) {
    uint8_t kind = take_byte(input);
    memset(ip, 0, 16);
    if (kind & 1) ip[10] = ip[11] = 0xff;
    else ip[0] = 0x20;
    ip[kind & 2 ? (kind & 1 ? 13 : 7) : 12] = take_byte(input);
    ip[15] = kind >> 2;
}

/* Bit by bit. */
static bool holds(const uint8_t *ip, const uint8_t *network, uint32_t prefix) {
    for (uint32_t bit = 0; bit < prefix; bit++)
        if ((ip[bit / 8] ^ network[bit / 8]) >> (7 - bit % 8) & 1) return false;
    return true;
}

static bool banned(const struct model *model, const uint8_t *ip, int64_t now_ns) {
    for (uint32_t i = 0; i < model->ban_count; i++) {
        const struct known_ban *ban = &model->bans[i];
        if (holds(ip, ban->network, ban->prefix) && (ban->expires_ns == 0 || ban->expires_ns > now_ns)) return true;
    }
    return false;
}

static void ban(struct gate *gate, struct model *model, struct input *input, int64_t now_ns) {
    struct ban *list = memory_new(sizeof *list);
    uint8_t ip[16], how = take_byte(input);
    uint32_t i = 0;
    take_ip(input, ip);
    memcpy(list->network, ip, 16);
    list->prefix = take_byte(input) % 129;
    list->lift = how & 1;
    list->ttl_ns = how & 2 ? SECOND * (1 + (how >> 4)) : 0;
    struct known_ban known = {.prefix = list->prefix, .expires_ns = list->ttl_ns ? now_ns + list->ttl_ns : 0};
    memcpy(known.network, ip, 16);
    while (i < model->ban_count && (model->bans[i].prefix != known.prefix || !holds(ip, model->bans[i].network, known.prefix)))
        i++;
    bool there = i < model->ban_count, lift = list->lift, fits = lift || there || model->ban_count < BANS;
    CHECK(gate_apply(gate, &list, now_ns) == fits);
    CHECK(fits == (list == NULL));
    memory_free(list);
    if (!fits) return;
    if (there) model->bans[i] = model->bans[--model->ban_count];
    if (!lift) model->bans[model->ban_count++] = known;
}

static void enter(struct gate *gate, const iocpd_config *config, struct model *model, struct input *input, int64_t now_ns) {
    uint8_t ip[16];
    struct visitor *visitor = NULL;
    take_ip(input, ip);
    uint32_t prefix = gate_visitor_prefix(ip), held = 0, all = model->open_count;
    CHECK(prefix == (ip[10] ? 128 : 64));
    for (uint32_t i = 0; i < all; i++)
        held += holds(ip, model->open_ip[i], prefix) && prefix == gate_visitor_prefix(model->open_ip[i]);
    enum gate_answer answer = gate_enter(gate, config, ip, now_ns, &visitor);
    CHECK(gate_bans(gate, ip, now_ns) == banned(model, ip, now_ns));
    CHECK((answer == GATE_BANNED) == banned(model, ip, now_ns));
    if (answer == GATE_BANNED) return;
    CHECK((answer == GATE_ADDRESS_LIMIT) == (config->max_per_address && held >= config->max_per_address));
    CHECK(answer != GATE_ADDRESS_RATE || config->accepts_per_s_per_address);
    CHECK(answer != GATE_RATE || config->accepts_per_s);
    if (answer != GATE_ADMITTED) return;
    CHECK(visitor->connections == held + 1);
    /* Others that the model does not have come on top. */
    uint64_t total = all + 1 + take_byte(input);
    if (gate_dominates(gate, visitor, total)) {
        CHECK(total >= TOTAL_LEAST && (held + 1) * 2 > total);
        CHECK(!gate_dominates(gate, visitor, total)); /* it is told once */
    } else CHECK(total < TOTAL_LEAST || (held + 1) * 2 <= total || gate->dominant == visitor);
    if (model->open_count == OPEN) {
        gate_leave(visitor);
        return;
    }
    memcpy(model->open_ip[model->open_count], ip, 16);
    model->open[model->open_count++] = visitor;
}

static void leave(struct model *model, struct input *input) {
    if (model->open_count == 0) return;
    uint32_t i = take_byte(input) % model->open_count, last = --model->open_count;
    gate_leave(model->open[i]);
    model->open[i] = model->open[last];
    memcpy(model->open_ip[i], model->open_ip[last], 16);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    iocpd_config config = {.max_bans = BANS, .max_connections = 1, .seed = take_byte(&input)};
    config.max_per_address = take_byte(&input) % 16;
    config.accepts_per_s = take_byte(&input) % 32;
    config.accepts_per_s_per_address = take_byte(&input) % 32;
    struct gate gate = {0};
    struct model model = {.ban_count = 0};
    int64_t now_ns = SECOND;
    CHECK(gate_init(&gate, &config) == 0);
    while (input.left) {
        uint8_t operation = take_byte(&input);
        switch (operation & 3) {
        case 0: ban(&gate, &model, &input, now_ns); break;
        case 1: leave(&model, &input); break;
        case 2: enter(&gate, &config, &model, &input, now_ns); break;
        default: now_ns += (operation >> 2) * (SECOND / 16); break;
        }
        CHECK(gate.ban_count == model.ban_count);
    }
    while (model.open_count) leave(&model, &input);
    gate_destroy(&gate);
    CHECK(memory_blocks() == 0);
    return 0;
}
