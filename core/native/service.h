/* service.h: what a listener's connections do with what they receive.
 *
 * A service runs on the worker that owns the connection and must not wait. A service written in Python will stand here as
 * one more entry whose `received` puts the message into that service's inbox and pauses the receive when the inbox is full.
 */
#ifndef IOCPD_SERVICE_H
#define IOCPD_SERVICE_H

#include "connection.h"

struct service {
    const char *name;
    /* Takes the buffer over: queues it or frees it. The connection is OPEN. */
    void (*received)(struct connection *connection, struct buffer *buffer);
};

const struct service *service_by_number(enum iocpd_service number);

#endif
