/* paused.h: senders that are not received from until somebody else has caught up; who has waited longest goes on first. A
 * connection is in one list at most. Links are slots of the worker's table, since half a pointer for each connection counts. */
#ifndef IOCPD_PAUSED_H
#define IOCPD_PAUSED_H

#include "table.h"

enum { RESUMES_PER_TURN = 16 }; /* each may bring a receive at once, and what they bring is seen in the next turn */

struct paused {
    uint32_t first, last; /* 1 + slot; 0: nobody */
    uint32_t count;
};

/* NULL: nobody waits. */
static inline struct connection *paused_first(const struct paused *paused, const struct table *table) {
    return paused->first ? table_at(table, paused->first - 1) : NULL;
}

/* As the last. */
void paused_add(struct paused *paused, struct connection *connection);
/* It is in this list. */
void paused_remove(struct paused *paused, struct connection *connection);

#endif
