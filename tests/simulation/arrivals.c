/* arrivals.c: what must hold of connections that begin with a PROXY header: nobody is let in before it or after a wrong one, it
 * has its time and no more, and from then on the connection is its client's.
 */
#include "world.h"

enum { HEADER_MS = 30000 }; /* for a header, where there is no limit for a first byte */

uint32_t header_ms(uint32_t first_byte_ms) { return first_byte_ms ? first_byte_ms : HEADER_MS; }

/* ---- who it is ----------------------------------------------------------------------------------------------------------- */

void arrival_told(const struct witness *witness, const struct told *told, enum told_when when) {
    static const uint8_t nobody[16];
    const struct header *header = &witness->header;
    const struct sim_stream *stream = sim_stream_at((uint32_t)(witness - witnesses));
    const struct platform_address *own = &stream->peer, *client = &header->client;
    bool is_own = memcmp(told->peer_ip, own->ip, 16) == 0 && told->peer_port == own->port &&
                  memcmp(told->via_ip, nobody, 16) == 0 && told->via_port == 0;
    bool is_named = header->has_client && header->whole_ns && memcmp(told->peer_ip, client->ip, 16) == 0 &&
                    told->peer_port == client->port && memcmp(told->via_ip, own->ip, 16) == 0 && told->via_port == own->port;
    bool may_be_own = true, may_be_named = true;
    if (when == TOLD_OPEN) may_be_own = !header->has_client;
    if (when == TOLD_OPEN && header->wanted && !header->whole_ns)
        sim_fail("connection %u is said to be let in, and has no header", stream->number);
    if (when == TOLD_ENDED && witness->reason == IOCPD_OUT_OF_MEMORY) when = TOLD_ANY_TIME; /* maybe of its address */
    if (when == TOLD_ENDED) {
        bool refused = witness->reason >= IOCPD_ADDRESS_LIMIT;
        if (witness->reason != IOCPD_BANNED || header->entered) may_be_named = header->entered || refused;
        may_be_own = !header->has_client || !(header->entered || refused);
    }
    if (!(may_be_own && is_own) && !(may_be_named && is_named))
        sim_fail("connection %u is shown as somebody else's", stream->number);
}

void arrival_row(const struct witness *witness, const iocpd_connection *row) {
    bool open = row->state == IOCPD_OPEN || row->state == IOCPD_DRAINING;
    arrival_told(witness, &(struct told){row->peer_ip, row->via_ip, row->peer_port, row->via_port},
                 open ? TOLD_OPEN : TOLD_ANY_TIME);
}

/* ---- let in -------------------------------------------------------------------------------------------------------------- */

/* It may be over again before anybody has seen it open: who counts for an address, or has received something, was let in; and
 * whose header names nobody is, as soon as it is there. */
static bool is_let_in(const struct header *header, const struct connection *connection) {
    if (connection->state == IOCPD_OPEN || connection->state == IOCPD_DRAINING) return true;
    if (connection->state == IOCPD_ARRIVING) return false;
    return connection->visitor || connection->bytes_in || (header->whole_ns && !header->wrong && !header->has_client);
}

void arrival_look(const struct sim_stream *stream, const struct connection *connection) {
    struct witness *witness = &witnesses[stream->number];
    struct header *header = &witness->header;
    if (!header->wanted || header->entered || !is_let_in(header, connection)) return;
    if (!header->whole_ns || header->wrong) sim_fail("connection %u is let in without a header", stream->number);
    header->entered = true;
    header->entered_ns = world.now_ns;
    sim_trace("connection %u: is let in", stream->number);
    arrival_told(witness,
                 &(struct told){(const uint8_t *)connection->peer_ip, (const uint8_t *)connection->via_ip,
                                (uint16_t)(connection->ports >> 16), (uint16_t)connection->via_port},
                 TOLD_OPEN);
    if (header->has_client) admission_check_named(stream);
    for (uint32_t i = 0; i < header->behind_count; i++) { /* up to the one that has ended it, or none without memory for it */
        bool may_end = connection->state != IOCPD_OPEN && (i > 0 || memory_has_failed());
        if (may_end && witness->counted.bytes == connection->bytes_in) break;
        counts_receive(witness, header->behind[i]);
    }
}

/* ---- before -------------------------------------------------------------------------------------------------------------- */

void arrival_check(const struct sim_stream *stream, const struct connection *connection) {
    const struct header *header = &witnesses[stream->number].header;
    uint32_t number = stream->number;
    bool receives = connection->socket.receive.outstanding;
    int64_t limit_ns = (int64_t)header_ms(0) * 1000000;
    if (connection->state != IOCPD_ARRIVING) return;
    if (!header->wanted) sim_fail("connection %u is to begin with a header, and is nobody's who must", number);
    if (header->whole_ns && header->wrong) sim_fail("connection %u has begun with what is no header, and goes on", number);
    if (connection->flags & CONNECTION_ENTERING) {
        if (!header->whole_ns || !header->has_client) sim_fail("connection %u is to be let in without a client", number);
        if (receives && !stream->receive.cancelled) sim_fail("connection %u is not let in yet, and is read", number);
        return;
    }
    if (header->whole_ns) sim_fail("the header of connection %u is there, and nobody asks for its client", number);
    if (!receives) sim_fail("connection %u waits for its header and does not receive", number);
    if (!connection->timer ||
        connection->worker->timers.heap[connection->timer - 1].at_ns > (int64_t)connection->connected_ns + limit_ns)
        sim_fail("connection %u waits for its header without an end", number);
}

/* ---- ends ---------------------------------------------------------------------------------------------------------------- */

bool arrival_may_end(const struct sim_stream *stream, int32_t reason) {
    const struct witness *witness = &witnesses[stream->number];
    const struct header *header = &witness->header;
    bool arriving = header->wanted && !header->entered, asked = arriving && header->whole_ns && header->has_client;
    switch (reason) {
    case IOCPD_PROXY_HEADER_INVALID: return arriving && header->wrong;
    case IOCPD_PROXY_HEADER_TIMEOUT: return arriving && !header->whole_ns;
    case IOCPD_BANNED: return witness->causes & CAUSE_BAN || (asked && admission_may_refuse(stream, REFUSED_BANNED));
    case IOCPD_ADDRESS_LIMIT: return asked && admission_may_refuse(stream, REFUSED_ADDRESS_LIMIT);
    case IOCPD_ADDRESS_RATE: return asked && admission_may_refuse(stream, REFUSED_ADDRESS_RATE);
    case IOCPD_ACCEPT_RATE: return asked && admission_may_refuse(stream, REFUSED_RATE);
    case IOCPD_FIRST_BYTE_TIMEOUT:
    case IOCPD_IDLE_TIMEOUT:
    case IOCPD_SLOW_CONSUMER:
    case IOCPD_FRAME_TOO_LARGE:
    case IOCPD_SERVICE_CLOSED:
    case IOCPD_SERVICE_ERROR: return !arriving;
    default: return !(arriving && header->wrong && header->whole_ns);
    }
}
