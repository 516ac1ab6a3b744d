/* service.h: what a listener's connections do with what they receive.
 *
 * A service runs on the worker that owns the connection and must not wait. Those that are written in Python are in python.h.
 */
#ifndef IOCPD_SERVICE_H
#define IOCPD_SERVICE_H

#include "connection.h"
#include "framing.h"

struct listener;

struct service {
    const char *name;
    /* Without framing. Takes the buffer over: queues it or frees it. The connection is OPEN. NULL: only `whole` will do. */
    void (*received)(struct connection *connection, struct buffer *buffer);
    /* With framing: at least one frame is whole. What it wants of them it copies. */
    void (*whole)(struct connection *connection, const struct frames *frames);
};

/* Fills in what the listener does with received bytes, from its configuration. */
void service_choose(struct listener *listener);
/* Copies the frames behind each other. */
void frames_copy(const struct frames *frames, uint8_t *out);

#endif
