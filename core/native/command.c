/* command.c: see command.h. */
#include "command.h"

#include "internal.h"

#include <stdio.h>

/* ---- the caller's end ------------------------------------------------------------------------------------------------ */

static int32_t target_of(iocpd_engine *engine, uint64_t token, struct worker **worker) {
    iocpd_connection row;
    int32_t status = iocpd_get(engine, token, &row);
    if (status == IOCPD_OK) *worker = &engine->workers[token_worker(token)];
    return status;
}

/* The place in the inbox that a command takes; given back when the worker has worked it off. */
static bool enter(struct worker *worker) {
    if (u32_add(&worker->inbox_commands, 1) < worker->engine->config.inbox_capacity) return true;
    u32_add(&worker->inbox_commands, (uint32_t)-1);
    u64_add(&worker->inbox_busy, 1);
    return false;
}

static struct iocpd_ticket *with_payload(iocpd_engine *engine, enum message_kind kind, uint32_t parts, const uint8_t *data,
                                         uint32_t bytes) {
    struct iocpd_ticket *ticket = ticket_new(engine, kind, parts);
    if (!ticket || bytes == 0) return ticket;
    ticket->payload = payload_new(bytes);
    if (!ticket->payload) {
        ticket_discard(ticket);
        return NULL;
    }
    memcpy(ticket->payload->data, data, bytes);
    return ticket;
}

/* The first part alone; without it, nothing has happened. */
static int32_t post(struct worker *worker, struct iocpd_ticket *ticket, iocpd_ticket **out) {
    int32_t status = IOCPD_BUSY;
    if (enter(worker)) {
        if (worker_post(worker, &ticket->parts[0].message)) {
            *out = ticket;
            return IOCPD_OK;
        }
        status = IOCPD_STOPPED;
    }
    ticket_discard(ticket);
    return status;
}

int32_t iocpd_send(iocpd_engine *engine, uint64_t token, const uint8_t *data, uint32_t bytes, iocpd_ticket **out) {
    struct worker *worker;
    int32_t status = target_of(engine, token, &worker);
    if (status != IOCPD_OK) return status;
    struct iocpd_ticket *ticket = with_payload(engine, MESSAGE_SEND, 1, data, bytes);
    if (!ticket) return IOCPD_NO_MEMORY;
    ticket->parts[0].token = token;
    return post(worker, ticket, out);
}

static void outcome_set(struct ticket_part *part, enum iocpd_outcome outcome) {
    u32_store_release(&part->outcome, (uint32_t)outcome);
}

/* One of several: whatever happens is its outcome. */
static void kick_one(iocpd_engine *engine, struct ticket_part *part) {
    struct worker *worker;
    int32_t status = target_of(engine, part->token, &worker);
    if (status != IOCPD_OK) {
        outcome_set(part, IOCPD_GONE);
    } else if (!enter(worker)) {
        outcome_set(part, IOCPD_REFUSED);
    } else {
        ticket_hold(part->ticket);
        if (worker_post(worker, &part->message)) return;
        outcome_set(part, IOCPD_FAILED);
        ticket_close(part->ticket);
    }
}

int32_t iocpd_kick(iocpd_engine *engine, const iocpd_kick_config *config, const uint64_t *tokens, uint32_t count,
                   iocpd_ticket **out) {
    struct worker *worker = NULL;
    if (engine_phase(engine) == IOCPD_PHASE_STOPPED) return IOCPD_STOPPED;
    int32_t status = count == 1 ? target_of(engine, tokens[0], &worker) : IOCPD_OK;
    if (status != IOCPD_OK) return status;
    struct iocpd_ticket *ticket = with_payload(engine, MESSAGE_KICK, count, config->farewell, config->farewell_bytes);
    if (!ticket) return IOCPD_NO_MEMORY;
    ticket->reason = (uint8_t)config->reason;
    ticket->force = config->force != 0;
    ticket->timeout_ms = config->timeout_ms;
    snprintf(ticket->text, sizeof ticket->text, "%s", config->text);
    for (uint32_t i = 0; i < count; i++) ticket->parts[i].token = tokens[i];
    if (count == 1) return post(worker, ticket, out);
    *out = ticket;
    for (uint32_t i = 0; i < count; i++) kick_one(engine, &ticket->parts[i]);
    ticket_close(ticket);
    return IOCPD_OK;
}

int32_t iocpd_broadcast(iocpd_engine *engine, const iocpd_broadcast_config *config, iocpd_ticket **out) {
    if (engine_phase(engine) >= IOCPD_PHASE_EXITING) return IOCPD_STOPPED;
    if (u64_load(&engine->broadcasts) >= engine->config.inbox_capacity) {
        u64_add(&engine->workers[0].inbox_busy, 1); /* it is refused for all of them; one counts it */
        return IOCPD_BUSY;
    }
    struct iocpd_ticket *ticket = with_payload(engine, MESSAGE_FANOUT, 0, config->data, config->bytes);
    if (!ticket) return IOCPD_NO_MEMORY;
    struct payload *payload = ticket->payload;
    ticket->payload = NULL; /* the fanout's */
    if (config->ttl_ms) payload->expires_ns = platform_monotonic_ns() + (int64_t)config->ttl_ms * 1000000;
    if (!fanout_start(engine, config, payload, ticket)) {
        payload_drop(payload);
        ticket_discard(ticket);
        return IOCPD_NO_MEMORY;
    }
    *out = ticket;
    return IOCPD_OK;
}

int32_t iocpd_label(iocpd_engine *engine, uint64_t token, uint64_t version, const uint8_t *labels, uint32_t label_bytes,
                    const char *json, uint32_t tag_json_bytes, uint32_t json_bytes, iocpd_ticket **out) {
    struct worker *worker;
    int32_t status = target_of(engine, token, &worker);
    if (status != IOCPD_OK) return status;
    struct iocpd_ticket *ticket = ticket_new(engine, MESSAGE_LABEL, 1);
    if (!ticket) return IOCPD_NO_MEMORY;
    ticket->parts[0].token = token;
    ticket->labels_version = version;
    if (label_bytes) ticket->labels = labels_new(labels, label_bytes, json, tag_json_bytes, json_bytes);
    if (label_bytes && !ticket->labels) {
        ticket_discard(ticket);
        return IOCPD_NO_MEMORY;
    }
    return post(worker, ticket, out);
}

int32_t iocpd_bans(iocpd_engine *engine, const iocpd_ban *bans, uint32_t count, iocpd_ticket **out) {
    struct iocpd_ticket *ticket = ticket_new(engine, MESSAGE_BANS, 1);
    if (!ticket) return IOCPD_NO_MEMORY;
    for (uint32_t i = count; i-- > 0;) { /* each is put before the others */
        struct ban *ban = memory_new(sizeof *ban);
        if (!ban) {
            ticket_discard(ticket);
            return IOCPD_NO_MEMORY;
        }
        memcpy(ban->network, bans[i].network, 16);
        ban->prefix = bans[i].prefix;
        ban->lift = bans[i].lift != 0;
        ban->ttl_ns = (int64_t)bans[i].ttl_ms * 1000000;
        ban->next = ticket->bans;
        ticket->bans = ban;
    }
    return post(&engine->workers[0], ticket, out);
}

int32_t iocpd_rtt(iocpd_engine *engine, uint64_t token, iocpd_ticket **out) {
    struct worker *worker;
    int32_t status = target_of(engine, token, &worker);
    if (status != IOCPD_OK) return status;
    struct iocpd_ticket *ticket = ticket_new(engine, MESSAGE_RTT, 1);
    if (!ticket) return IOCPD_NO_MEMORY;
    ticket->parts[0].token = token;
    return post(worker, ticket, out);
}

int32_t iocpd_barrier(iocpd_engine *engine, iocpd_ticket **out) {
    struct iocpd_ticket *ticket = ticket_new(engine, MESSAGE_BARRIER, engine->worker_count);
    if (!ticket) return IOCPD_NO_MEMORY;
    if (engine_phase(engine) == IOCPD_PHASE_STOPPED) {
        ticket_discard(ticket);
        return IOCPD_STOPPED;
    }
    *out = ticket;
    for (uint32_t i = 0; i < engine->worker_count; i++) {
        struct worker *worker = &engine->workers[i];
        u32_add(&worker->inbox_commands, 1); /* one for each barrier is not what fills it */
        ticket_hold(ticket);
        if (!worker_post(worker, &ticket->parts[i].message)) ticket_fail(ticket, IOCPD_STOPPED);
    }
    ticket_close(ticket);
    return IOCPD_OK;
}

/* ---- the worker's end ------------------------------------------------------------------------------------------------ */

static enum iocpd_status do_send(struct worker *worker, struct ticket_part *part) {
    struct iocpd_ticket *ticket = part->ticket;
    struct connection *connection = table_find(&worker->table, part->token);
    if (!connection) return IOCPD_ENDED;
    u64_add(&ticket->matched, 1);
    switch (connection_queue_payload(connection, ticket->payload, ticket)) {
    case QUEUED: return IOCPD_OK;
    case QUEUE_CLOSING: return IOCPD_CLOSING;
    case QUEUE_FULL: u64_add(&ticket->skipped_slow, 1); return IOCPD_QUEUE_FULL;
    case QUEUE_NO_MEMORY: break;
    }
    u64_add(&ticket->failed, 1);
    return IOCPD_NO_MEMORY;
}

static void do_kick(struct worker *worker, struct ticket_part *part) {
    struct iocpd_ticket *ticket = part->ticket;
    struct connection *connection = table_find(&worker->table, part->token);
    if (!connection) {
        outcome_set(part, IOCPD_GONE);
        if (ticket->part_count == 1) u32_store_release(&ticket->status, IOCPD_ENDED);
        ticket_close(ticket);
        return;
    }
    u64_add(&ticket->matched, 1);
    part->next_waiter = connection->waiters;
    connection->waiters = part; /* closed when the connection has left the table */
    enum iocpd_reason reason = (enum iocpd_reason)ticket->reason;
    if (ticket->force) connection_terminate(connection, reason, true);
    else connection_drain(connection, reason, ticket->payload, worker->now_ns + (int64_t)ticket->timeout_ms * 1000000);
}

static enum iocpd_status do_label(struct worker *worker, struct ticket_part *part) {
    struct connection *connection = table_find(&worker->table, part->token);
    if (!connection) return IOCPD_ENDED;
    if (connection->state > IOCPD_OPEN) return IOCPD_CLOSING;
    if ((connection->labels ? connection->labels->version : 0) != part->ticket->labels_version) return IOCPD_CONFLICT;
    connection_label(connection, part->ticket->labels);
    part->ticket->labels = NULL;
    return IOCPD_OK;
}

static enum iocpd_status do_rtt(struct worker *worker, struct ticket_part *part) {
    struct connection *connection = table_find(&worker->table, part->token);
    if (!connection) return IOCPD_ENDED;
    u64_store_release(&part->ticket->rtt_us, (uint64_t)platform_socket_rtt_us(connection->socket.handle));
    return IOCPD_OK;
}

static enum iocpd_status do_bans(struct worker *worker, struct ticket_part *part) {
    return gate_apply(&worker->engine->gate, &part->ticket->bans, worker->now_ns) ? IOCPD_OK : IOCPD_FULL;
}

void command_do(struct worker *worker, struct message *message) {
    struct ticket_part *part = (struct ticket_part *)message;
    u32_add(&worker->inbox_commands, (uint32_t)-1);
    switch (message->kind) {
    case MESSAGE_SEND: ticket_fail(part->ticket, do_send(worker, part)); break;
    case MESSAGE_KICK: do_kick(worker, part); break;
    case MESSAGE_LABEL: ticket_fail(part->ticket, do_label(worker, part)); break;
    case MESSAGE_RTT: ticket_fail(part->ticket, do_rtt(worker, part)); break;
    case MESSAGE_BANS: ticket_fail(part->ticket, do_bans(worker, part)); break;
    default: ticket_close(part->ticket); break; /* a barrier: that it is reached is all */
    }
}

void command_abandon(struct message *message) {
    struct ticket_part *part = (struct ticket_part *)message;
    outcome_set(part, IOCPD_FAILED);
    if (part->ticket->part_count == 1) u32_store_release(&part->ticket->status, IOCPD_STOPPED);
    ticket_close(part->ticket);
}
