/* timers.h: a worker's deadlines: a binary heap with at most one entry for each connection.
 *
 * An entry may be too early: traffic does not touch it. When it comes up, connection_timer looks at what is really due and
 * sets it again. So a busy connection costs one look for each idle limit that passes, not one for each message.
 */
#ifndef IOCPD_TIMERS_H
#define IOCPD_TIMERS_H

#include "platform.h"

struct connection;

struct timer {
    int64_t at_ns;
    struct connection *connection;
};

struct timers {
    struct timer *heap;
    uint32_t count, capacity;
};

void timers_destroy(struct timers *timers);
/* Room for one entry for each of `connections`, so that setting a timer can't fail. False without memory. */
bool timers_reserve(struct timers *timers, uint32_t connections);
/* Sets it, or moves it if it stands later. */
void timers_set(struct timers *timers, struct connection *connection, int64_t at_ns);
void timers_clear(struct timers *timers, struct connection *connection);
/* The connection whose time has come, its entry removed; NULL when there is none. */
struct connection *timers_due(struct timers *timers, int64_t now_ns);
/* How long until the next; < 0 when there is none. */
int64_t timers_next(const struct timers *timers, int64_t now_ns);

#endif
