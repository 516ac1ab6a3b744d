/* listener.h: where clients come in: sockets that listen, their accepts, and who of those that were accepted is let in. Worker 0
 * accepts for all listeners, asks the gate, and hands each connection on to the worker that has the fewest. */
#ifndef IOCPD_LISTENER_H
#define IOCPD_LISTENER_H

#include "connection.h"
#include "engine.h"
#include "gate.h"
#include "port.h"
#include "service.h"

struct iocpd_engine;

struct listener {
    struct port_listener port; /* first: an event's listener is this */
    /* From its service: see service.h. */
    void (*received)(struct connection *connection, struct buffer *buffer);
    uint32_t messages_per_receive; /* 0: `received` counts them */
    const char *service_name;
    void (*whole)(struct connection *connection, const struct frames *frames);
    iocpd_listener_config config;
    struct platform_address bound; /* with the port that the system chose */
    uint32_t number;
    uint32_t first_thread; /* of a service in Python */
    /* Shared: written by worker 0 (connections: by all, atomically). */
    uint32_t open;
    uint64_t accepted, refused_limit, refused_gone, accept_errors;
    uint64_t refused_banned, refused_address_limit, refused_address_rate, refused_rate;
    uint64_t refused_memory, connections; /* atomic */
};

/* Worker 0 arms the accepts of listeners that are bound and not accepting, and tries those again that can't be. */
void listeners_accept(struct iocpd_engine *engine);
/* Worker 0, each turn. Returns how long it may wait at most (< 0: as long as it likes). */
int64_t listeners_turn(struct iocpd_engine *engine);
/* Binds listener->config (at the bound port if there is one). 0 or an error number. */
int listener_bind(struct listener *listener, const char **step);
/* An ACCEPTED event, on worker 0. */
void listener_accepted(struct iocpd_engine *engine, const struct port_event *event);
/* Worker 0: asks the gate for this client, and counts one that it refuses. */
enum gate_answer listener_enter(struct iocpd_engine *engine, struct listener *listener, const uint8_t *ip,
                                struct visitor **visitor);
/* Worker 0: one that was let in is among the connections now; tells if its address has come to hold most of them. */
void listener_entered(struct iocpd_engine *engine, const struct visitor *visitor);
/* A connection has left its table; the visitor may be NULL. */
void listener_left(struct iocpd_engine *engine, uint32_t listener, struct visitor *visitor);

#endif
