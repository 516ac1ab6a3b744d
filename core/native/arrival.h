/* arrival.h: connections of balancers that speak the PROXY protocol, from their accept until it is known whose they are.
 *
 *   1. Worker 0 accepts; the balancer's own address is not banned. Its connection is ARRIVING at the worker that takes it over.
 *   2. There the header comes, in pieces maybe. It has a limit in time; nothing else is taken in before it.
 *   3. The client that it names must be let in, which only worker 0 can do: MESSAGE_ENTER goes there and MESSAGE_ENTERED comes
 *      back. What is received meanwhile waits, and the receive pauses.
 *   4. The connection is OPEN, with its client as its peer, and what has waited is received now. Or it ends with a reason.
 * A connection may end at any step. What is under way to worker 0 then finds nobody when it comes back.
 */
#ifndef IOCPD_ARRIVAL_H
#define IOCPD_ARRIVAL_H

#include "connection.h"

struct message;

/* For a connection that is to be ARRIVING; NULL without memory. */
struct arrival *arrival_new(void);
/* The connection is in its slot: begin to receive. */
void arrival_begin(struct connection *connection);
/* Takes the buffer over. The connection is ARRIVING, and may be OPEN or CLOSING afterwards. */
void arrival_received(struct connection *connection, struct buffer *buffer);
/* When the header must have come; 0: it has. */
int64_t arrival_deadline(const struct connection *connection);
/* The connection is ARRIVING and will not be let in. */
void arrival_end(struct connection *connection);

/* The messages; `abandon` is for those that nobody takes any more. */
void arrival_enter(struct worker *worker, struct message *message);
void arrival_entered(struct worker *worker, struct message *message);
void arrival_abandon(struct message *message);

#endif
