/* arrival.c: see arrival.h. */
#include "arrival.h"

#include "internal.h"
#include "proxy.h"

static const int64_t HEADER_NS = 30000000000; /* for a header, where there is no limit for a first byte */

/* While its message is under way it is worker 0's, but for the buffers; otherwise it is the connection's. */
struct arrival {
    struct message message; /* first */
    struct worker *worker;
    uint64_t token;
    struct listener *listener;
    struct proxy_header header; /* once it is there */
    enum gate_answer answer;
    struct visitor *visitor; /* ADMITTED: it counts for this one */

    uint8_t begin[PROXY_BYTES_KEPT]; /* of the header */
    uint32_t begin_bytes;
    uint32_t header_left; /* of a header that is read, what is still to be skipped */
    bool header_read;
    struct buffer *first, *last; /* what came behind the header, linked through outgoing.next */
};

struct arrival *arrival_new(void) { return memory_new(sizeof(struct arrival)); }

void arrival_begin(struct connection *connection) {
    struct arrival *arrival = connection->arrival;
    arrival->worker = connection->worker;
    arrival->token = connection_token(connection);
    arrival->listener = &connection->worker->engine->listeners[connection->listener];
    connection_look_again(connection);
}

int64_t arrival_deadline(const struct connection *connection) {
    int64_t first_byte_ns = (int64_t)u32_load(&connection->worker->engine->config.first_byte_ms) * 1000000;
    if (connection->flags & CONNECTION_ENTERING) return 0;
    return (int64_t)connection->connected_ns + (first_byte_ns ? first_byte_ns : HEADER_NS);
}

/* ---- what waits behind the header ------------------------------------------------------------------------------------ */

static void wait_behind(struct arrival *arrival, struct buffer *buffer) {
    buffer->outgoing.next = NULL;
    if (arrival->last) arrival->last->outgoing.next = &buffer->outgoing;
    else arrival->first = buffer;
    arrival->last = buffer;
}

static struct buffer *take_first(struct arrival *arrival) {
    struct buffer *buffer = arrival->first;
    if (buffer) arrival->first = (struct buffer *)buffer->outgoing.next;
    if (!arrival->first) arrival->last = NULL;
    return buffer;
}

/* ---- its end, either way --------------------------------------------------------------------------------------------- */

void arrival_end(struct connection *connection) {
    struct arrival *arrival = connection->arrival;
    for (struct buffer *buffer; (buffer = take_first(arrival));) {
        u64_bump(&connection->worker->discarded_bytes, buffer->bytes);
        buffer_free(buffer);
    }
    connection->arrival = NULL;
    if (!(connection->flags & CONNECTION_ENTERING)) memory_free(arrival);
}

void arrival_abandon(struct message *message) {
    struct arrival *arrival = (struct arrival *)message;
    gate_leave(arrival->visitor);
    memory_free(arrival);
}

/* Who it is from now on: readers see either the balancer or its client. */
static void name_client(struct connection *connection, const struct proxy_header *header) {
    uint8_t via[16];
    if (!header->has_client) return;
    memcpy(via, connection->peer_ip, sizeof via);
    table_write_begin(connection);
    table_store_ip(connection->via_ip, via);
    u32_store_release(&connection->via_port, connection->ports >> 16);
    table_store_ip(connection->peer_ip, header->client.ip);
    u32_store_release(&connection->ports, (uint32_t)header->client.port << 16 | (connection->ports & 0xffff));
    table_write_end(connection);
}

static void let_in(struct connection *connection) {
    struct arrival *arrival = connection->arrival;
    connection->arrival = NULL;
    connection->visitor = arrival->visitor;
    connection->flags &= ~(uint32_t)CONNECTION_ENTERING;
    name_client(connection, &arrival->header);
    u32_store_release(&connection->state, IOCPD_OPEN);
    connection_open(connection);
    for (struct buffer *buffer; (buffer = take_first(arrival));) /* also if the first of them has ended it */
        connection_received(connection, &(struct port_event){.kind = PORT_RECEIVED, .buffer = buffer, .bytes = buffer->bytes});
    memory_free(arrival);
    if (connection->flags & CONNECTION_END_SEEN) connection_drain(connection, IOCPD_CLIENT_CLOSED, NULL, 0);
}

static enum iocpd_reason reason_of(enum gate_answer answer) {
    switch (answer) {
    case GATE_BANNED: return IOCPD_BANNED;
    case GATE_ADDRESS_LIMIT: return IOCPD_ADDRESS_LIMIT;
    case GATE_ADDRESS_RATE: return IOCPD_ADDRESS_RATE;
    case GATE_RATE: return IOCPD_ACCEPT_RATE;
    default: return IOCPD_OUT_OF_MEMORY;
    }
}

/* ---- to worker 0 and back -------------------------------------------------------------------------------------------- */

static void ask(struct arrival *arrival) {
    struct iocpd_engine *engine = arrival->worker->engine;
    arrival->answer = listener_enter(engine, arrival->listener, arrival->header.client.ip, &arrival->visitor);
    if (arrival->answer == GATE_ADMITTED) listener_entered(engine, arrival->visitor);
}

void arrival_enter(struct worker *worker, struct message *message) {
    struct arrival *arrival = (struct arrival *)message;
    worker_assert_owner(worker);
    ask(arrival);
    message->kind = MESSAGE_ENTERED;
    if (!worker_post(arrival->worker, message)) arrival_abandon(message);
}

static void entered(struct connection *connection) {
    enum gate_answer answer = connection->arrival->answer;
    if (answer == GATE_ADMITTED) {
        let_in(connection);
        return;
    }
    /* Its record names the client that was refused. */
    connection->flags &= ~(uint32_t)CONNECTION_ENTERING;
    name_client(connection, &connection->arrival->header);
    connection_terminate(connection, reason_of(answer), true);
}

void arrival_entered(struct worker *worker, struct message *message) {
    struct arrival *arrival = (struct arrival *)message;
    struct connection *connection = table_find(&worker->table, arrival->token);
    if (connection && connection->arrival == arrival) entered(connection);
    else arrival_abandon(message); /* it has ended meanwhile */
}

static void header_came(struct connection *connection) {
    struct arrival *arrival = connection->arrival;
    struct worker *worker = connection->worker;
    connection->flags |= CONNECTION_ENTERING;
    if (!arrival->header.has_client) { /* the balancer itself, whom limits by address don't concern */
        let_in(connection);
    } else if (worker->number == 0) {
        ask(arrival);
        entered(connection);
    } else {
        arrival->message.kind = MESSAGE_ENTER;
        if (!worker_post(&worker->engine->workers[0], &arrival->message)) ASSERT(!"worker 0 ends after the last connection");
    }
}

/* ---- the header ------------------------------------------------------------------------------------------------------ */

/* How many of these bytes are the header's. */
static uint32_t header_take(struct arrival *arrival, const struct buffer *buffer, enum proxy_answer *answer) {
    if (!arrival->header_read) {
        uint32_t before = arrival->begin_bytes, room = PROXY_BYTES_KEPT - before;
        uint32_t share = buffer->bytes < room ? buffer->bytes : room;
        memcpy(arrival->begin + before, buffer->memory, share);
        arrival->begin_bytes += share;
        *answer = proxy_parse(arrival->begin, arrival->begin_bytes, &arrival->header);
        if (*answer != PROXY_HEADER) return share;
        arrival->header_read = true;
        arrival->header_left = arrival->header.bytes - before;
    }
    uint32_t bytes = buffer->bytes < arrival->header_left ? buffer->bytes : arrival->header_left;
    arrival->header_left -= bytes;
    *answer = arrival->header_left ? PROXY_MORE : PROXY_HEADER;
    return bytes;
}

void arrival_received(struct connection *connection, struct buffer *buffer) {
    struct arrival *arrival = connection->arrival;
    if (connection->flags & CONNECTION_ENTERING) {
        wait_behind(arrival, buffer);
        return;
    }
    enum proxy_answer answer;
    uint32_t taken = header_take(arrival, buffer, &answer);
    buffer->bytes -= taken;
    memmove(buffer->memory, buffer->memory + taken, buffer->bytes);
    if (buffer->bytes) wait_behind(arrival, buffer);
    else buffer_free(buffer);
    if (answer == PROXY_HEADER) header_came(connection);
    else if (answer == PROXY_INVALID) connection_terminate(connection, IOCPD_PROXY_HEADER_INVALID, true);
}
