/* fanout.h: one payload to many connections: broadcasts, and what a relay sends on.
 *
 * One counted payload and one message for each worker. A worker walks over its table in slices, so that thousands of
 * receivers don't hold up those who want an answer, and works off its fanouts in the order in which they came.
 */
#ifndef IOCPD_FANOUT_H
#define IOCPD_FANOUT_H

#include "buffer.h"
#include "engine.h"

struct worker;
struct message;
struct fanout;

struct fanout_part;

struct fanout_queue {
    struct fanout_part *first, *last;
    uint32_t at; /* where the first one goes on: a slot, or the place in the list of targets */
};

/* Any thread. Takes the payload, and the engine's hold of the ticket; without a ticket it is a relay. What the configuration
 * points to is copied; its data is not looked at. False without memory: nothing was done and both are still the caller's. */
bool fanout_start(struct iocpd_engine *engine, const iocpd_broadcast_config *config, struct payload *payload,
                  struct iocpd_ticket *ticket);
/* The worker's part has come out of its inbox. */
void fanout_enqueue(struct worker *worker, struct message *message);
/* A slice; true while there is more to do. */
bool fanout_turn(struct worker *worker);
/* The worker has stopped: nobody is there to get it. */
void fanout_abandon(struct message *message);

#endif
