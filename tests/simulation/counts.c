/* counts.c: what the engine counts, against what the world has counted itself. */
#include "world.h"

#include "port_linux.h"

/* Accepts that brought no connection, by listener. */
static struct {
    uint64_t gone, errors;
} failed[LISTENERS_MAX_SIM];

void counts_reset(void) { memset(failed, 0, sizeof failed); }

void oracle_accept_not_begun(uint32_t listener) { failed[listener].errors++; }

void oracle_accept_error(uint32_t listener, int32_t os_error) {
    enum port_error error = linux_port_error(os_error);
    if (error == PORT_RESET) failed[listener].gone++;
    else if (error != PORT_CANCELLED) failed[listener].errors++;
}

static bool is_framed(const struct witness *witness) { return witness->writer.listener->framing.kind != IOCPD_RAW; }

void counts_receive(struct witness *witness, uint32_t bytes) {
    struct counted *counted = &witness->counted;
    counted->bytes += bytes;
    if (!is_framed(witness)) {
        counted->messages++; /* what a receive brings */
        return;
    }
    const struct writer *writer = &witness->writer;
    while (counted->messages < writer->messages) {
        uint32_t length = writer->lengths[counted->messages];
        if (!length || counted->whole_bytes + length > counted->bytes) break;
        counted->whole_bytes += length;
        counted->messages++;
    }
}

void oracle_received(struct sim_stream *stream, uint32_t bytes) {
    struct witness *witness = &witnesses[stream->number];
    struct header *header = &witness->header;
    const struct connection *connection = CONTAINER_OF(stream->socket, struct connection, socket);
    arrival_look(stream, connection);
    if (connection->state == IOCPD_ARRIVING) {
        if (stream->header_bytes == 0 && !header->whole_ns) header->whole_ns = world.now_ns;
        if (bytes && header->behind_count == BEHIND_MAX) sim_fail("connection %u is not let in, and is read", stream->number);
        if (bytes) header->behind[header->behind_count++] = bytes;
    }
    if (connection->state == IOCPD_OPEN && !witness->counted.over) counts_receive(witness, bytes);
}

void oracle_send_ended(struct sim_stream *stream, int32_t os_error) {
    if (os_error && linux_port_error(os_error) != PORT_CANCELLED) witnesses[stream->number].counted.over = true;
}

/* ---- a connection ------------------------------------------------------------------------------------------------------------- */

static void messages_out_check(const struct witness *witness, const struct connection *connection) {
    uint64_t units = witness->reader.units, counted = connection->messages_out, number = witness->reader.number;
    const iocpd_listener_config *listener = witness->reader.listener;
    const struct outgoing *first = connection->first;
    if (is_framed(witness)) {
        /* A piece of several messages counts when all of it is sent. */
        uint64_t partly = first && !first->is_buffer ? first->payload->messages - 1 : 0;
        if (counted > units || counted + partly < units)
            sim_fail("connection %llu: messages_out is %llu, and %llu were sent", (unsigned long long)number,
                     (unsigned long long)counted, (unsigned long long)units);
        return;
    }
    /* A message is what one receive brought, and an echo may have put several together. */
    uint64_t least = listener->service == IOCPD_ECHO ? units : 0, most = units;
    if (listener->service == IOCPD_ECHO) most += witness->counted.messages;
    if (!first && (listener->service == IOCPD_ECHO ? witness->reader.echoed > 0 : units > 0)) least++;
    if (counted < least || counted > most)
        sim_fail("connection %llu: messages_out is %llu, and there were %llu to %llu", (unsigned long long)number,
                 (unsigned long long)counted, (unsigned long long)least, (unsigned long long)most);
}

void counts_check(struct witness *witness, const struct connection *connection) {
    const struct counted *counted = &witness->counted;
    if (connection->bytes_in != counted->bytes || connection->messages_in != counted->messages)
        sim_fail("connection %u: bytes_in and messages_in are %llu and %llu, and there were %llu and %llu",
                 witness->writer.number, (unsigned long long)connection->bytes_in, (unsigned long long)connection->messages_in,
                 (unsigned long long)counted->bytes, (unsigned long long)counted->messages);
    messages_out_check(witness, connection);
}

/* ---- the end ------------------------------------------------------------------------------------------------------------------ */

static void sum_check(const char *what, uint64_t counted, uint64_t are) {
    if (counted != are) sim_fail("%s: counted %llu, there were %llu", what, (unsigned long long)counted, (unsigned long long)are);
}

static void worker_check(uint32_t number) {
    const struct worker *worker = &world.engine->workers[number];
    uint64_t adopted = 0, bytes_in = 0, bytes_out = 0, taken = 0, messages_in = 0, messages_out = 0,
             reasons[IOCPD_REASON_COUNT] = {0};
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        const struct witness *witness = &witnesses[i];
        if (!witness->attached || witness->worker != number) continue;
        adopted++;
        taken += sim_stream_at(i)->taken;
        bytes_in += witness->counted.bytes;
        bytes_out += sim_stream_at(i)->sent;
        messages_in += witness->counted.messages;
        messages_out += witness->messages_out;
        reasons[witness->reason]++;
    }
    sum_check("adopted", worker->adopted, adopted);
    sum_check("bytes_in", worker->bytes_in, bytes_in);
    sum_check("bytes_out", worker->bytes_out, bytes_out);
    sum_check("messages_in", worker->messages_in, messages_in);
    sum_check("messages_out", worker->messages_out, messages_out);
    if (worker->bytes_in + worker->discarded_bytes < taken) sim_fail("discarded_bytes does not add up");
    for (int reason = 0; reason < IOCPD_REASON_COUNT; reason++)
        sum_check(iocpd_reason_name(reason), worker->ended[reason], reasons[reason]);
    sum_check("connections of a worker", worker->load, 0);
    sum_check("pending bytes of a worker", worker->pending_bytes, 0);
}

/* Who ended while worker 0 looked at his client may have been refused too; `unsure`: how many there are. */
static void refused_check(const char *what, uint64_t counted, uint64_t are, uint64_t *unsure) {
    if (counted < are || counted > are + *unsure) sum_check(what, counted, are);
    *unsure -= counted - are;
}

/* Why the client was not let in that a header has named; false: it is not certain that he was not. */
static bool refused_after_header(const struct witness *witness, enum refusal *refusal) {
    switch (witness->reason) {
    case IOCPD_ADDRESS_LIMIT: *refusal = REFUSED_ADDRESS_LIMIT; return true;
    case IOCPD_ADDRESS_RATE: *refusal = REFUSED_ADDRESS_RATE; return true;
    case IOCPD_ACCEPT_RATE: *refusal = REFUSED_RATE; return true;
    case IOCPD_BANNED: *refusal = REFUSED_BANNED; return !(witness->causes & CAUSE_BAN);
    default: return false;
    }
}

static void listener_check(uint32_t number) {
    iocpd_listener_stats stats;
    uint64_t attached = 0, unsure = 0, refused[REFUSED_MEMORY + 1] = {0};
    iocpd_listener_read(world.engine, number, &stats);
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        if (sim_stream_at(i)->listener != number) continue;
        attached += witnesses[i].attached;
        if (witnesses[i].refused) refused[witnesses[i].refusal]++;
        const struct header *header = &witnesses[i].header;
        enum refusal refusal;
        if (!header->whole_ns || !header->has_client || header->entered) continue;
        if (refused_after_header(&witnesses[i], &refusal)) refused[refusal]++;
        else unsure++;
    }
    sum_check("refused_limit", stats.refused_limit, refused[REFUSED_LIMIT]);
    refused_check("refused_banned", stats.refused_banned, refused[REFUSED_BANNED], &unsure);
    refused_check("refused_address_limit", stats.refused_address_limit, refused[REFUSED_ADDRESS_LIMIT], &unsure);
    refused_check("refused_address_rate", stats.refused_address_rate, refused[REFUSED_ADDRESS_RATE], &unsure);
    refused_check("refused_rate", stats.refused_rate, refused[REFUSED_RATE], &unsure);
    refused_check("refused_memory", stats.refused_memory, refused[REFUSED_MEMORY], &unsure);
    sum_check("refused_gone", stats.refused_gone, failed[number].gone);
    sum_check("accept_errors", stats.accept_errors, failed[number].errors);
    sum_check("connections of a listener", stats.connections, 0);
    /* Whom a worker had no memory for was accepted before. */
    if (stats.accepted < attached || stats.accepted > attached + stats.refused_memory)
        sum_check("accepted", stats.accepted, attached);
}

void counts_stopped(void) {
    const iocpd_engine *engine = world.engine;
    uint64_t attached = 0, refused = 0;
    for (uint32_t i = 0; i < sim_stream_count(); i++) {
        attached += witnesses[i].attached;
        refused += witnesses[i].refused;
    }
    for (uint32_t i = 0; i < engine->worker_count; i++) worker_check(i);
    for (uint32_t i = 0; i < engine->listener_count; i++) listener_check(i);
    sum_check("let in or refused", attached + refused, sim_handles_given());
    for (uint32_t bucket = 0; bucket < engine->gate.visitor_buckets; bucket++)
        for (const struct visitor *visitor = engine->gate.visitors[bucket]; visitor; visitor = visitor->next)
            sum_check("connections of an address", visitor->connections, 0);
    sum_check("connections", engine->connections, 0);
    sum_check("ends", engine->closed_serial, attached);
    sum_check("exit completions taken", engine->exits_taken, engine->worker_count);
    sum_check("exit completions posted", engine->exits_posted, engine->worker_count);
    sum_check("broadcasts under way", engine->broadcasts, 0);
    sum_check("relayed messages under way", engine->relay_waiting, 0);
}
