/* paused.c: see paused.h. */
#include "paused.h"

#include "internal.h"

static struct connection *neighbour(const struct connection *connection, uint32_t link) {
    return table_at(&connection->worker->table, link - 1);
}

void paused_add(struct paused *paused, struct connection *connection) {
    uint32_t link = connection->slot + 1;
    connection->paused_before = paused->last;
    connection->paused_after = 0;
    if (paused->last) neighbour(connection, paused->last)->paused_after = link;
    else paused->first = link;
    paused->last = link;
    paused->count++;
}

void paused_remove(struct paused *paused, struct connection *connection) {
    uint32_t before = connection->paused_before, after = connection->paused_after;
    if (before) neighbour(connection, before)->paused_after = after;
    else paused->first = after;
    if (after) neighbour(connection, after)->paused_before = before;
    else paused->last = before;
    paused->count--;
}
