/* ticket.c: see ticket.h. */
#include "ticket.h"

#include "internal.h"

struct iocpd_ticket *ticket_new(struct iocpd_engine *engine, enum message_kind kind, uint32_t part_count) {
    struct iocpd_ticket *ticket = memory_new(sizeof *ticket + part_count * sizeof *ticket->parts);
    if (!ticket) return NULL;
    ticket->engine = engine;
    ticket->references = 2;
    ticket->open = 1;
    ticket->part_count = part_count;
    for (uint32_t i = 0; i < part_count; i++) {
        ticket->parts[i].message.kind = kind;
        ticket->parts[i].ticket = ticket;
    }
    return ticket;
}

static void ticket_drop(struct iocpd_ticket *ticket) {
    if (u32_add(&ticket->references, (uint32_t)-1) != 1) return;
    if (ticket->payload) payload_drop(ticket->payload);
    memory_free(ticket->labels);
    while (ticket->bans) {
        struct ban *ban = ticket->bans;
        ticket->bans = ban->next;
        memory_free(ban);
    }
    memory_free(ticket);
}

void ticket_discard(struct iocpd_ticket *ticket) {
    ticket_drop(ticket);
    ticket_drop(ticket);
}

void ticket_hold(struct iocpd_ticket *ticket) { u32_add(&ticket->open, 1); }

/* The engine's reference goes on to the list of those that are done. Workers must not wait, so the list is a stack without a
 * lock, and the thread in iocpd_wait is woken only if it sleeps. */
void ticket_close(struct iocpd_ticket *ticket) {
    if (u32_add(&ticket->open, (uint32_t)-1) != 1) return;
    struct iocpd_engine *engine = ticket->engine;
    void *head;
    do {
        head = pointer_load_acquire(&engine->done);
        ticket->next_done = head;
    } while (!pointer_swap_if(&engine->done, head, ticket));
    if (u32_exchange(&engine->waiter_sleeping, 0)) platform_event_set(engine->wait_event);
}

void ticket_fail(struct iocpd_ticket *ticket, enum iocpd_status status) {
    u32_store_release(&ticket->status, status);
    ticket_close(ticket);
}

/* ---- the caller's side ---------------------------------------------------------------------------------------------- */

static struct iocpd_ticket *done_pop(iocpd_engine *engine) {
    if (!engine->done_backlog) {
        struct iocpd_ticket *newest = pointer_exchange(&engine->done, NULL), *oldest = NULL;
        while (newest) { /* the stack has the newest on top */
            struct iocpd_ticket *next = newest->next_done;
            newest->next_done = oldest;
            oldest = newest;
            newest = next;
        }
        engine->done_backlog = oldest;
    }
    struct iocpd_ticket *ticket = engine->done_backlog;
    if (ticket) engine->done_backlog = ticket->next_done;
    return ticket;
}

static uint32_t done_take(iocpd_engine *engine, iocpd_ticket **done, uint32_t capacity) {
    uint32_t count = 0;
    while (count < capacity) {
        struct iocpd_ticket *ticket = done_pop(engine);
        if (!ticket) break;
        if (!u32_load_acquire(&ticket->abandoned)) done[count++] = ticket;
        ticket_drop(ticket); /* the engine's; the caller's is still there, unless it was abandoned */
    }
    return count;
}

uint32_t iocpd_wait(iocpd_engine *engine, iocpd_ticket **done, uint32_t capacity, uint32_t timeout_ms) {
    uint32_t count = done_take(engine, done, capacity);
    if (count || timeout_ms == 0) return count;
    u32_exchange(&engine->waiter_sleeping, 1);
    count = done_take(engine, done, capacity); /* what came before it was known that we sleep */
    if (!count) {
        platform_event_wait(engine->wait_event, timeout_ms);
        count = done_take(engine, done, capacity);
    }
    u32_exchange(&engine->waiter_sleeping, 0);
    return count;
}

void iocpd_wait_wake(iocpd_engine *engine) { platform_event_set(engine->wait_event); }

void iocpd_ticket_read(const iocpd_ticket *ticket, iocpd_report *report) {
    /* In the order in which they grow, the last first, so that no sum is exceeded by its parts. */
    report->done = u32_load_acquire(&ticket->open) == 0;
    report->status = (int32_t)u32_load_acquire(&ticket->status);
    report->rtt_us = (int64_t)u64_load_acquire(&ticket->rtt_us);
    report->failed = u64_load_acquire(&ticket->failed);
    report->expired = u64_load_acquire(&ticket->expired);
    report->closed_before_write = u64_load_acquire(&ticket->closed_before_write);
    report->skipped_slow = u64_load_acquire(&ticket->skipped_slow);
    report->written = u64_load_acquire(&ticket->written);
    report->queued = u64_load_acquire(&ticket->queued);
    report->matched = u64_load_acquire(&ticket->matched);
}

void iocpd_outcomes_read(const iocpd_ticket *ticket, uint8_t *outcomes) {
    for (uint32_t i = 0; i < ticket->part_count; i++) outcomes[i] = (uint8_t)u32_load_acquire(&ticket->parts[i].outcome);
}

void iocpd_ticket_free(iocpd_engine *engine, iocpd_ticket *ticket) {
    (void)engine;
    u32_store_release(&ticket->abandoned, 1);
    ticket_drop(ticket);
}
