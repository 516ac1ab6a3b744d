/* send_queue.h: what waits to be sent to a connection, for connection.c alone: pieces, oldest first, each of them a receive
 * buffer or a reference to a payload. Here are its bound, what tickets are told and what is too old to be sent; what follows from
 * it for the connection is connection.c's. */
#ifndef IOCPD_SEND_QUEUE_H
#define IOCPD_SEND_QUEUE_H

#include "connection.h"

/* A reference to the payload; the ticket, if any, is told what becomes of it. With `limited`, send_hard_bytes holds. QUEUED,
 * QUEUE_FULL or QUEUE_NO_MEMORY. */
enum queue_result send_queue_add(struct connection *connection, struct payload *payload, struct iocpd_ticket *ticket,
                                 bool limited);
/* Received bytes as they are, which need no memory and have no bound here; takes the buffer over. */
void send_queue_add_buffer(struct connection *connection, struct buffer *buffer);

/* What one send takes, from the first piece on; returns how many slices. Nothing of it changes before that send has ended. */
uint32_t send_queue_slices(struct connection *connection, port_slice *slices, uint32_t capacity);
/* So many bytes have gone out. */
void send_queue_sent(struct connection *connection, uint32_t bytes);
/* No send is outstanding: drops first pieces whose time is over and of which nothing has gone out. */
void send_queue_expire(struct connection *connection);
/* Drops all that there is: the connection is over. */
void send_queue_drop(struct connection *connection);

#endif
