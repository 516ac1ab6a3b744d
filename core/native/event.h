/* event.h: what happened, for those who watch. Each worker writes into a ring of its own and never waits for a reader, so who
 * reads too slowly misses some, and is told how many. Bans are noted by the thread that asks for them, in one more ring.
 */
#ifndef IOCPD_EVENT_H
#define IOCPD_EVENT_H

#include "engine.h"
#include "platform.h"

struct connection;
struct visitor;
struct worker;

/* Small, since a busy worker writes many; the rest of an end stands in its closed record. */
struct event_record {
    int64_t at_us;
    uint64_t token;
    uint64_t
        detail; /* DISCONNECTED: the number of the closed record; SLOW_CONSUMER: pending bytes; DOMINANT_ADDRESS: connections */
    uint8_t ip[16], via_ip[16];
    uint32_t prefix;
    uint16_t port, via_port, listener;
    uint8_t kind, reason, phase;
};

/* The owner of the connection. */
void event_connection(const struct connection *connection, enum iocpd_event_kind kind, uint64_t detail);
/* Worker 0. */
void event_phase(struct worker *worker, enum iocpd_phase phase);
void event_dominant(struct worker *worker, const struct visitor *visitor);

#endif
