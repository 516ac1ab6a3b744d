/* connection.h: per-socket data: the state machine, the send queue, the counters of one connection.
 *
 *   OPEN ──────────► DRAINING ──────────► CLOSING ──────────► FREE
 *         drain:               terminate:            the last final event:
 *         flush, SD_SEND,      cancel what is        wait for a place in a turn (worker->leaving),
 *         read to the end      outstanding           close the socket, write the closed
 *         or a deadline                              record, tell who waits
 *
 * A connection that begins with a PROXY header is ARRIVING before it is OPEN: see arrival.h.
 *
 * Only the worker that owns a connection calls these functions. The fields that listings read are atomic; those that say who
 * the connection is are written under `sequence`, odd while they change (table_read).
 */
#ifndef IOCPD_CONNECTION_H
#define IOCPD_CONNECTION_H

#include "buffer.h"
#include "engine.h"
#include "port.h"

struct worker;
struct arrival;
struct iocpd_ticket;
struct ticket_part;
struct visitor;
struct labels;
struct frame_rest;
struct session;

enum connection_flag {
    CONNECTION_DIRTY = 1,          /* in worker->dirty */
    CONNECTION_PAUSED = 2,         /* the receive is not wanted: too much is queued */
    CONNECTION_RELAY_PAUSED = 4,   /* the same, because relayed messages wait; in worker->relay_paused */
    CONNECTION_END_SEEN = 8,       /* end of file has been read */
    CONNECTION_END_SENT = 16,      /* SD_SEND is done */
    CONNECTION_CANCELLED = 32,     /* CLOSING: the outstanding operations were asked to end */
    CONNECTION_PYTHON_PAUSED = 64, /* as RELAY_PAUSED, because its service has not handled enough; in worker->python_paused */
    CONNECTION_ANSWERS = 128,      /* DRAINING: its service still answers what was received */
    CONNECTION_ENTERING = 256,     /* ARRIVING: worker 0 looks at its client; what comes meanwhile waits */
    CONNECTION_LEAVING = 512,      /* CLOSING: in worker->leaving */
    CONNECTION_PAUSES = CONNECTION_PAUSED | CONNECTION_RELAY_PAUSED | CONNECTION_PYTHON_PAUSED | CONNECTION_ENTERING,
};

struct connection {
    struct port_socket socket; /* first: it is the completion key */

    /* Shared, see above. */
    uint32_t sequence;
    uint32_t generation;
    uint64_t serial;
    uint64_t peer_ip[2], local_ip[2];
    uint32_t ports; /* peer << 16 | local */
    uint32_t listener;
    uint32_t state, reason;
    uint64_t connected_ns, last_activity_ns;
    uint64_t bytes_in, bytes_out, messages_in, messages_out, pending_bytes;
    struct labels *labels; /* atomic; others may look at it as labels.h says */

    /* The owner's. */
    struct worker *worker;
    struct outgoing *first, *last;        /* the send queue */
    struct port_gather *gather;           /* of the outstanding send, if it has several pieces */
    struct connection *next;              /* free list, worker->dirty or worker->leaving */
    uint32_t paused_before, paused_after; /* in worker->relay_paused or worker->python_paused: see paused.h */
    struct frame_rest *rest;              /* of a message that has not come whole yet; NULL: there is none */
    struct session *session;              /* with its service in Python */
    struct ticket_part *waiters;          /* kicks that wait for the end; the first gives the text */
    struct visitor *visitor;              /* whose address it counts for */
    int64_t deadline_ns;                  /* DRAINING: then it is reset; 0: none */
    int64_t over_soft_ns;                 /* since when the queue has been above the soft limit; 0: it is not */
    struct arrival *arrival;              /* ARRIVING: see arrival.h */
    uint32_t slot;
    uint32_t timer;  /* 1 + its place in worker->timers; 0: none */
    uint32_t pieces; /* in the send queue */
    uint32_t flags;
    int32_t os_error;
    uint32_t via_port; /* shared, as the peer; here, since nobody looks at it while data flows */
    uint64_t via_ip[2];
};

/* What connection_queue_payload did. */
enum queue_result { QUEUED, QUEUE_CLOSING, QUEUE_FULL, QUEUE_NO_MEMORY };

/* The connection is OPEN and in its slot: it is told of, and receives. */
void connection_open(struct connection *connection);

void connection_received(struct connection *connection, const struct port_event *event);
void connection_sent(struct connection *connection, const struct port_event *event);
void connection_timer(struct connection *connection);
/* What its place in worker->dirty is for: send, then see what the state asks for. */
void connection_flush(struct connection *connection);
/* What its place in worker->leaving was for: the kernel has given back all that it had, and the connection is over. */
void connection_finish(struct connection *connection);

/* Queues received bytes as they are; takes the buffer over. The bytes count as taken in: they go out, or the connection has
 * ended. Above the soft limit the receive pauses. */
void connection_queue_buffer(struct connection *connection, struct buffer *buffer);
/* Queues a reference to the payload; the ticket, if any, is told what becomes of it. */
enum queue_result connection_queue_payload(struct connection *connection, struct payload *payload, struct iocpd_ticket *ticket);

/* A service's own bytes: received messages that it gives back, or answers. Above the soft limit the receive pauses. With
 * `limited`, what would go over the hard limit ends the connection as slow_consumer. Takes the payload over. */
void connection_answer(struct connection *connection, struct payload *payload, bool limited);
/* The service in Python has answered everything that was received before the end of an ANSWERS connection. */
void connection_answered(struct connection *connection);
/* The service has not handled enough of what it has got, or now it has. */
void connection_python_pause(struct connection *connection);
void connection_python_resume(struct connection *connection);

/* OPEN → DRAINING: nothing more is taken in; what is queued goes out, then the farewell (may be NULL), then end of file. */
void connection_drain(struct connection *connection, enum iocpd_reason reason, struct payload *farewell, int64_t deadline_ns);
/* → CLOSING: cancels what is outstanding; with `reset`, the peer gets a reset and what is queued is dropped. The reason counts
 * only if there is none yet. */
void connection_terminate(struct connection *connection, enum iocpd_reason reason, bool reset);

/* Gives it these labels (may be NULL) for those that it has. */
void connection_label(struct connection *connection, struct labels *labels);
/* When it must be looked at may have changed with the limits. */
void connection_limits_changed(struct connection *connection);

/* Its send queue has just gone above the soft limit. */
void connection_over_soft(struct connection *connection);

/* See to it at the end of the turn, and when its next time comes. */
void connection_look_again(struct connection *connection);

/* Relayed messages are few again. */
void connection_relay_resume(struct connection *connection);
void connection_relay_pause(struct connection *connection);

uint64_t connection_token(const struct connection *connection);

#endif
