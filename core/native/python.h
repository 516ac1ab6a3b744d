/* python.h: services written in Python: between the workers and the threads that run them.
 *
 * Each listener of such a service has one thread or several, and each of its connections belongs to one of these. What workers
 * receive goes into that thread's inbox as parcels: a stack that any worker pushes on and the thread takes whole. The thread
 * takes them out in batches, in one call that waits, and gives its answers back in another, which makes one message for each
 * worker. No worker ever waits for Python, and Python is never called from a worker.
 *
 * Nothing is lost when the service is slow: bytes count as waiting until they are handled, and above the inbox's bound (or above
 * a share of it for one connection) the connections that go on sending are paused, as a relay's senders are.
 *
 * A session is a connection as its thread knows it: from the worker's OPEN until the thread has handled CLOSE, which the worker
 * pushes when the connection has left its table. Three of a connection's parcels are part of it, so that telling its end
 * needs no memory.
 */
#ifndef IOCPD_PYTHON_H
#define IOCPD_PYTHON_H

#include "connection.h"
#include "framing.h"

struct iocpd_engine;
struct message;

/* 0, or -1 for want of memory or an error number; python_destroy undoes it, also after a failure. */
int python_init(struct iocpd_engine *engine);
/* When the workers have ended and no thread of a service is in a call. */
void python_destroy(struct iocpd_engine *engine);

/* The rest is the workers'. */

/* The connection has just begun. Without memory it is terminated. */
void python_open(struct connection *connection);
/* Whole frames, or what a receive has brought: see service.h. */
void python_whole(struct connection *connection, const struct frames *frames);
/* The service has something from it that is not handled. False for the services in C. */
bool python_waiting(const struct connection *connection);
/* Whether the service still answers what was received when a connection ends for this reason. */
bool python_answers(enum iocpd_reason reason);
/* Tells the service that nothing more will come, and keeps the farewell (may be NULL) until it has answered. */
void python_end(struct connection *connection, struct payload *farewell);
/* The farewell, which is the caller's from now on; may be NULL. */
struct payload *python_farewell(struct connection *connection);
/* What the service said of a kick, if it was the service that kicked. */
void python_kick_text(const struct connection *connection, char *text, size_t bytes);
/* The connection has ended; its session is the thread's alone from now on. */
void python_closed(struct connection *connection);
/* Wakes the threads that have got something in this turn: once, so that one that shares the worker's processor does not take it
 * away at the first message of many. Before the worker sleeps. */
void python_wake(struct worker *worker);
/* Lets those go on whose service has handled enough, some in each turn; ends those whose service had no memory for them. True
 * while there are more. */
bool python_turn(struct worker *worker);
/* A message of kind MESSAGE_REPLIES: as many of them as are `left` in this turn. False: the rest of it is for the next. */
bool python_replies(struct worker *worker, struct message *message, uint32_t *left);
void python_replies_abandon(struct message *message);

#endif
