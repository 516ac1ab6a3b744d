/* event.c: see event.h. */
#include "event.h"

#include "internal.h"

#include <stdio.h>

void event_connection(const struct connection *connection, enum iocpd_event_kind kind, uint64_t detail) {
    struct worker *worker = connection->worker;
    struct event_record record = {.at_us = engine_wall_us(worker->engine, worker->now_ns),
                                  .token = connection_token(connection),
                                  .detail = detail,
                                  .port = (uint16_t)(connection->ports >> 16),
                                  .via_port = (uint16_t)connection->via_port,
                                  .listener = (uint16_t)connection->listener,
                                  .kind = (uint8_t)kind,
                                  .reason = (uint8_t)connection->reason};
    memcpy(record.ip, connection->peer_ip, 16);
    memcpy(record.via_ip, connection->via_ip, 16);
    ring_write(&worker->events, &record, sizeof record);
}

void event_phase(struct worker *worker, enum iocpd_phase phase) {
    struct event_record record = {
        .at_us = engine_wall_us(worker->engine, worker->now_ns), .kind = IOCPD_EVENT_DRAIN, .phase = (uint8_t)phase};
    ring_write(&worker->events, &record, sizeof record);
}

void event_dominant(struct worker *worker, const struct visitor *visitor) {
    struct event_record record = {.at_us = engine_wall_us(worker->engine, worker->now_ns),
                                  .kind = IOCPD_EVENT_DOMINANT_ADDRESS,
                                  .detail = u32_load(&visitor->connections),
                                  .prefix = gate_visitor_prefix(visitor->address)};
    memcpy(record.ip, visitor->address, 16);
    ring_write(&worker->events, &record, sizeof record);
    ring_write(&worker->engine->dominances, &record, sizeof record);
}

void iocpd_event_note(iocpd_engine *engine, int32_t kind, const uint8_t *network, uint32_t prefix, const char *text) {
    struct event_record record = {
        .at_us = engine_wall_us(engine, platform_monotonic_ns()), .kind = (uint8_t)kind, .prefix = prefix};
    char words[IOCPD_TEXT_BYTES];
    memcpy(record.ip, network, 16);
    snprintf(words, sizeof words, "%s", text);
    platform_mutex_lock(&engine->notes_mutex);
    ring_write(&engine->note_texts, words, sizeof words); /* first: the text is there when the event is */
    ring_write(&engine->notes, &record, sizeof record);
    platform_mutex_unlock(&engine->notes_mutex);
}

/* ---- reading ---------------------------------------------------------------------------------------------------------- */

static const struct ring *ring_of(const iocpd_engine *engine, uint32_t number) {
    return number < engine->worker_count ? &engine->workers[number].events : &engine->notes;
}

void iocpd_event_positions(iocpd_engine *engine, uint64_t *positions) {
    for (uint32_t i = 0; i <= engine->worker_count; i++) positions[i] = u64_load_acquire(&ring_of(engine, i)->written);
}

/* The record at the position, which moves on over what is overwritten. False: there is none yet. */
static bool head_read(const struct ring *ring, uint64_t *position, struct event_record *record, uint64_t *missed) {
    while (*position < u64_load_acquire(&ring->written)) {
        if (ring_read(ring, *position, record, sizeof *record)) return true;
        uint64_t oldest = ring_oldest(ring);
        if (oldest <= *position) oldest = *position + 1; /* it is being overwritten at this moment */
        *missed += oldest - *position;
        *position = oldest;
    }
    return false;
}

static void fill_closed(iocpd_engine *engine, uint32_t worker, uint64_t number, iocpd_event *event) {
    iocpd_closed closed;
    if (!ring_read(&engine->workers[worker].closed, number, &closed, sizeof closed)) return;
    event->bytes_in = closed.connection.bytes_in;
    event->bytes_out = closed.connection.bytes_out;
    event->messages_in = closed.connection.messages_in;
    event->messages_out = closed.connection.messages_out;
    memcpy(event->text, closed.text, sizeof event->text);
}

static void fill(iocpd_engine *engine, uint32_t number, uint64_t position, const struct event_record *record,
                 iocpd_event *event) {
    memset(event, 0, sizeof *event);
    event->at_us = record->at_us;
    event->token = record->token;
    memcpy(event->ip, record->ip, 16);
    memcpy(event->via_ip, record->via_ip, 16);
    event->prefix = record->prefix;
    event->port = record->port;
    event->via_port = record->via_port;
    event->listener = record->listener;
    event->ring = (uint16_t)number;
    event->kind = record->kind;
    event->reason = record->reason;
    event->phase = record->phase;
    if (record->kind == IOCPD_EVENT_SLOW_CONSUMER) event->pending_bytes = record->detail;
    if (record->kind == IOCPD_EVENT_DOMINANT_ADDRESS) event->connections = record->detail;
    if (record->kind == IOCPD_EVENT_DISCONNECTED) fill_closed(engine, number, record->detail, event);
    if (number == engine->worker_count) ring_read(&engine->note_texts, position, event->text, sizeof event->text);
}

uint32_t iocpd_events(iocpd_engine *engine, uint64_t *positions, iocpd_event *events, uint32_t capacity, uint64_t *missed) {
    struct event_record heads[IOCPD_WORKERS_MAX + 1];
    bool there[IOCPD_WORKERS_MAX + 1];
    uint32_t rings = engine->worker_count + 1, count = 0;
    for (uint32_t i = 0; i < rings; i++) there[i] = head_read(ring_of(engine, i), &positions[i], &heads[i], missed);
    while (count < capacity) {
        uint32_t first = rings;
        for (uint32_t i = 0; i < rings; i++)
            if (there[i] && (first == rings || heads[i].at_us < heads[first].at_us)) first = i;
        if (first == rings) break;
        fill(engine, first, positions[first], &heads[first], &events[count++]);
        positions[first]++;
        there[first] = head_read(ring_of(engine, first), &positions[first], &heads[first], missed);
    }
    return count;
}
