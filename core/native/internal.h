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
#include "listener.h"
#include "python.h"
#include "service.h"
#include "ticket.h"
#include "worker.h"

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

/* engine.c */
void engine_wake_all(struct iocpd_engine *engine);
/* The row is of a connection of the calling worker, or the labels are locked if the filter asks for some. */
bool filter_matches(const iocpd_filter *filter, const iocpd_connection *row, int64_t now_us);
/* iocpd_list, for who has locked the labels. */
uint32_t snapshot_list(struct iocpd_engine *engine, const iocpd_filter *filter, iocpd_cursor *cursor, iocpd_connection *rows,
                       uint32_t capacity);

#endif
