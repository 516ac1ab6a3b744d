/* ticket.h: a command's way there and back: what was asked of one connection or many, and what became of it.
 *
 * `open` counts what is still to happen; when it falls to 0 the ticket is done and goes to the list that iocpd_wait takes
 * from. Counters are atomic, so a report can be read at any time.
 */
#ifndef IOCPD_TICKET_H
#define IOCPD_TICKET_H

#include "engine.h"
#include "worker.h"

/* What one worker, or one connection, has to do for a ticket. */
struct ticket_part {
    struct message message; /* first */
    struct iocpd_ticket *ticket;
    struct ticket_part *next_waiter; /* connection.waiters */
    uint64_t token;
    uint32_t outcome; /* atomic: enum iocpd_outcome of a kick */
};

struct iocpd_ticket {
    struct iocpd_engine *engine;
    struct iocpd_ticket *next_done;
    uint32_t references; /* atomic: the caller's and the engine's */
    uint32_t open;       /* atomic */
    uint32_t abandoned;  /* atomic: the caller does not want it any more */
    uint32_t status;     /* atomic: enum iocpd_status */
    uint64_t matched, queued, written, skipped_slow, closed_before_write, expired, failed; /* atomic */
    uint64_t rtt_us;                                                                       /* atomic: an int64_t */

    struct payload *payload; /* what to send, or the farewell */
    struct labels *labels;   /* to put on a connection; the connection's, once they are */
    uint64_t labels_version; /* of those that it must have */
    struct ban *bans;        /* to take in or to lift, in order; the gate's, once they are */
    uint32_t timeout_ms;
    bool force;
    uint8_t reason;
    char text[IOCPD_TEXT_BYTES];
    uint32_t part_count;
    struct ticket_part parts[];
};

/* One reference for the caller, one for the engine, and one thing open. `part_count` parts, all of this kind. NULL without
 * memory. */
struct iocpd_ticket *ticket_new(struct iocpd_engine *engine, enum message_kind kind, uint32_t part_count);
/* Without telling anybody: it never was under way. */
void ticket_discard(struct iocpd_ticket *ticket);
void ticket_hold(struct iocpd_ticket *ticket);
/* One of the open things has happened. */
void ticket_close(struct iocpd_ticket *ticket);
/* The same, with a status. */
void ticket_fail(struct iocpd_ticket *ticket, enum iocpd_status status);

#endif
