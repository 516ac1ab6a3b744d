/* internal.h: the engine as its own files see it. */
#ifndef IOCPD_INTERNAL_H
#define IOCPD_INTERNAL_H

#include "arrival.h"
#include "command.h"
#include "drain.h"
#include "engine.h"
#include "event.h"
#include "framing.h"
#include "gate.h"
#include "labels.h"
#include "python.h"
#include "service.h"
#include "ticket.h"
#include "worker.h"

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

struct control {
    struct message message;
    enum control_kind kind;
    iocpd_drain_config drain;
    struct payload *farewell;
    int32_t status;    /* worker 0's answer */
    uint32_t answered; /* atomic */
    iocpd_problem *problem;
};

struct iocpd_engine {
    iocpd_config config;
    int32_t backend;
    char backend_reason[IOCPD_PROBLEM_BYTES];
    const struct port_driver *driver;
    int64_t started_ns, wall_offset_us; /* wall clock = monotonic + offset, fixed at the start */

    struct listener *listeners;
    uint32_t listener_count;
    struct worker *workers;
    uint32_t worker_count;
    struct gate gate;        /* worker 0's */
    struct ring dominances;  /* struct event_record, for who does not read all events: worker 0 writes, and the last one stays */
    int64_t accept_retry_ns; /* worker 0's: when listeners that could not accept are tried again; 0: there are none */
    struct python_thread *service_threads;
    uint32_t service_thread_count;

    /* Atomic. */
    uint64_t connections;   /* also those on their way to their worker */
    uint64_t last_serial;   /* written by worker 0 */
    uint64_t closed_serial; /* of the connections that have ended */
    uint64_t relay_waiting; /* relayed messages that some worker has not fanned out yet */
    uint64_t broadcasts;    /* the same for broadcasts */
    uint32_t relay_blocked; /* somebody waits for them to become fewer */
    uint32_t exits_posted, exits_taken;
    uint32_t limits_version; /* of the limits in `config`, which iocpd_configure changes one by one */
    uint64_t labels_version; /* the last that was given out */

    void *old_labels; /* atomic stack: see labels.h */
    platform_mutex labels_mutex;
    platform_mutex notes_mutex; /* who writes notes */
    struct ring notes;          /* struct event_record of bans */
    struct ring note_texts;     /* and what was said of each */

    struct drain drain;
    platform_mutex control_mutex; /* one control, one join at a time */
    struct control control;
    platform_event control_event; /* worker 0 has answered */
    platform_event start_event;   /* a worker has opened its port, or has not */
    int32_t start_error;
    const char *start_step;
    uint32_t start_answered; /* atomic */
    bool has_events;
    platform_event exit_event; /* the phase is EXITING */
    bool joined;

    void *done;                        /* atomic stack of tickets */
    uint32_t waiter_sleeping;          /* atomic */
    struct iocpd_ticket *done_backlog; /* iocpd_wait's */
    platform_event wait_event;
};

/* Engine time (monotonic) as microseconds since 1970. */
static inline int64_t engine_wall_us(const struct iocpd_engine *engine, int64_t at_ns) {
    return at_ns / 1000 + engine->wall_offset_us;
}

static inline enum iocpd_phase engine_phase(const struct iocpd_engine *engine) {
    return (enum iocpd_phase)u32_load_acquire(&engine->drain.phase);
}

/* engine.c: worker 0 arms the accepts of listeners that are bound and not accepting, and tries those again that can't be. */
void engine_accept(struct iocpd_engine *engine);
/* Worker 0, each turn. Returns how long it may wait at most (< 0: as long as it likes). */
int64_t engine_accept_turn(struct iocpd_engine *engine);
/* Binds listener->config (at the bound port if there is one). 0 or an error number. */
int engine_bind(struct listener *listener, const char **step);
/* An ACCEPTED event, on worker 0. */
void engine_accepted(struct iocpd_engine *engine, const struct port_event *event);
/* Worker 0: asks the gate for this client, and counts one that it refuses. */
enum gate_answer engine_enter(struct iocpd_engine *engine, struct listener *listener, const uint8_t *ip,
                              struct visitor **visitor);
/* Worker 0: one that was let in is among the connections now; tells if its address has come to hold most of them. */
void engine_entered(struct iocpd_engine *engine, const struct visitor *visitor);
/* A connection has left its table; the visitor may be NULL. */
void engine_connection_ended(struct iocpd_engine *engine, uint32_t listener, struct visitor *visitor);
void engine_wake_all(struct iocpd_engine *engine);
/* The row is of a connection of the calling worker, or the labels are locked if the filter asks for some. */
bool filter_matches(const iocpd_filter *filter, const iocpd_connection *row, int64_t now_us);
/* iocpd_list, for who has locked the labels. */
uint32_t snapshot_list(struct iocpd_engine *engine, const iocpd_filter *filter, iocpd_cursor *cursor, iocpd_connection *rows,
                       uint32_t capacity);

#endif
