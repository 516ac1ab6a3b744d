/* gate.h: who is let in: bans, and limits on connections and accepts by address. Worker 0's alone, since it alone accepts; what
 * others have to say to it comes as commands.
 *
 * A ban is found in one look for each length of prefix that is in use. An address is one IPv4 address or one IPv6 /64, which is
 * what one customer usually has.
 */
#ifndef IOCPD_GATE_H
#define IOCPD_GATE_H

#include "engine.h"
#include "platform.h"

struct ban {
    struct ban *next;
    uint8_t network[16];
    uint32_t prefix;            /* of 128 */
    bool lift;                  /* on its way to the gate: this network is not to be banned any more */
    int64_t ttl_ns, expires_ns; /* 0: for ever */
};

/* An address that has connections, or had an accept in the last second. */
struct visitor {
    struct visitor *next;
    uint8_t address[16];
    uint32_t connections; /* atomic: taken back by the workers that own them */
    int64_t allowance_ns; /* when its next accept would be in step with the rate */
};

struct gate {
    uint64_t seed; /* of the hashes, so that nobody can choose addresses that collide */

    struct ban **bans;
    uint32_t ban_buckets, bans_max;
    uint32_t ban_count; /* atomic */
    uint32_t prefix_uses[129];
    uint8_t prefixes[129]; /* those in use */
    uint32_t prefix_count;

    struct visitor **visitors;
    uint32_t visitor_buckets, visitor_count, sweep_at;
    int64_t allowance_ns;           /* of all together */
    const struct visitor *dominant; /* has, or had lately, most of the connections; NULL: nobody has */
};

enum gate_answer {
    GATE_ADMITTED,
    GATE_BANNED,
    GATE_ADDRESS_LIMIT,
    GATE_ADDRESS_RATE,
    GATE_RATE,
    GATE_NO_MEMORY,
};

int gate_init(struct gate *gate, const iocpd_config *config);
void gate_destroy(struct gate *gate);

/* ADMITTED counts a connection for the address: *visitor is to be left when it has ended. */
enum gate_answer gate_enter(struct gate *gate, const iocpd_config *config, const uint8_t *ip, int64_t now_ns,
                            struct visitor **visitor);
/* Any thread; the visitor may be NULL, and may be gone afterwards. */
void gate_leave(struct visitor *visitor);
/* Whether a ban of the address itself or of a network that it is in is in force. */
bool gate_bans(const struct gate *gate, const uint8_t *ip, int64_t now_ns);
/* Whether this visitor, who was just let in, has come to hold most of the `total` connections: true once, until it has held less
 * than a quarter of them. */
bool gate_dominates(struct gate *gate, const struct visitor *visitor, uint64_t total);
/* The length of the prefix that makes an address one visitor, of 128. */
uint32_t gate_visitor_prefix(const uint8_t *ip);

bool in_network(const uint8_t *ip, const uint8_t *network, uint32_t prefix);

/* Takes the bans of this list over, and lifts those that are to be lifted. A ban that is there gets the new time. False: bans_max
 * is reached, and those that are left in *bans are not in force. */
bool gate_apply(struct gate *gate, struct ban **bans, int64_t now_ns);

#endif
