/* worker.h: one thread, one port, and the connections that are its own. Nothing in a worker is touched by another thread but
 * its inbox, and its counters, which others may read. */
#ifndef IOCPD_WORKER_H
#define IOCPD_WORKER_H

#include "connection.h"
#include "engine.h"
#include "fanout.h"
#include "paused.h"
#include "port.h"
#include "ring.h"
#include "table.h"
#include "timers.h"

/* What one thread tells another. The sender owns the memory until it is posted; each kind says who frees it. */
enum message_kind {
    MESSAGE_ADOPT,   /* struct adoption: freed by the worker */
    MESSAGE_FANOUT,  /* struct fanout_part: part of the fanout, which is counted */
    MESSAGE_CONTROL, /* the engine's only one; worker 0 answers through it */
    MESSAGE_REPLIES, /* struct replies of a service in Python: freed by the worker */
    MESSAGE_ENTER,   /* struct arrival: to worker 0, which sends it back as the next one */
    MESSAGE_ENTERED,
    /* struct ticket_part: part of its ticket */
    MESSAGE_SEND,
    MESSAGE_KICK,
    MESSAGE_LABEL,
    MESSAGE_RTT,
    MESSAGE_BANS,
    MESSAGE_BARRIER,
};

struct message {
    struct message *next;
    enum message_kind kind;
};

/* An accepted socket on its way from worker 0 to the worker that takes it over. */
struct adoption {
    struct message message;
    socket_t handle;
    uint32_t listener;
    uint64_t serial;
    struct visitor *visitor;
    struct platform_address peer, local;
    bool arriving; /* a PROXY header must come first */
};

/* Connections whose last final event has come, oldest first. */
struct leaving {
    struct connection *first, *last;
};

struct worker {
    struct iocpd_engine *engine;
    uint32_t number;
    const struct port_driver *driver;
    struct port *port;
    platform_thread thread;
    bool thread_runs;

    struct table table;
    struct timers timers;
    struct buffer_pool pool;
    struct ring closed; /* iocpd_closed */
    struct ring events; /* struct event_record */

    uint32_t open_count, closing_count; /* connections in these states; open: or arriving */
    struct connection *dirty;           /* have something to send or to decide at the end of the turn */
    struct leaving leaving;             /* are over but for what is to be given back */
    struct paused relay_paused;         /* senders that wait until relayed messages are fewer */
    struct paused python_paused;        /* senders that wait until a service in Python has handled more */
    uint32_t python_looks;              /* how many of them are still to be looked at */
    bool python_pushed;                 /* services in Python have got something: python_wake */
    struct port_gather *gathers;        /* spare ones */
    uint32_t gather_count;
    struct fanout_queue fanouts;

    int64_t now_ns;                       /* of this turn */
    int64_t busy_poll_ns, poll_until_ns;  /* until then it asks without sleeping */
    uint32_t limits_version, limits_slot; /* of the engine's limits: seen, and how far they are carried over to timers */
    bool limits_busy;
    bool exit; /* the exit completion was taken */
    uint32_t evict_slot;
    int64_t evict_next_ns;
    uint64_t random;

    /* The inbox: a stack that any thread pushes on and the owner takes whole. */
    void *inbox;             /* atomic: struct message *, or the mark of a closed inbox */
    struct message *backlog; /* taken and not yet worked off, oldest first */
    uint32_t inbox_commands; /* atomic: commands in inbox and backlog */
    uint32_t attention;      /* atomic: something was stored that the next turn must look at */
    uint32_t sleeping;       /* atomic: whoever asks for attention must wake the port */
    uint32_t python_resume;  /* atomic: some of python_paused may go on */
    uint32_t python_broken;  /* atomic: some connection's service had no memory for it */
    uint32_t posters;        /* atomic: threads inside worker_post */
    uint32_t load;           /* atomic: connections, also those on their way here */

    /* Bumped by the owner alone, read by anyone. */
    uint64_t adopted, bytes_in, bytes_out, messages_in, messages_out, discarded_bytes, pending_bytes, turns;
    uint64_t inbox_busy; /* atomic: bumped by those who are refused */
    uint64_t ended[IOCPD_REASON_COUNT];
    uint64_t turn_ns, turn_counts[IOCPD_TURN_BUCKETS];
};

/* Allocates what the worker needs before its thread runs. 0 or an error number; worker_destroy undoes it, also after a
 * failure. */
int worker_init(struct worker *worker, struct iocpd_engine *engine, uint32_t number);
void worker_destroy(struct worker *worker);
/* The thread: opens the port, tells the engine, turns until the exit completion. */
void worker_run(void *worker);
/* One turn: timers, inbox, events, what follows from them. The simulator may call it instead of worker_run. */
void worker_turn(struct worker *worker);

/* Any thread. False when the worker has ended: the message is still the caller's. */
bool worker_post(struct worker *worker, struct message *message);
void worker_wake(struct worker *worker);
/* After the thread was joined: nothing can be posted any more, and what was is worked off as "stopped". */
void worker_close_inbox(struct worker *worker);

/* Takes a socket over; closes it if that fails. */
void worker_adopt(struct worker *worker, const struct adoption *adoption);

struct port_gather *worker_gather_take(struct worker *worker);
void worker_gather_free(struct worker *worker, struct port_gather *gather);

/* So many are ending that whatever ends more of them waits. Then the kernel has few cancels to work off at a time: io_uring does
 * 20 things in a call, and what has come for others stands behind them (IO_LOCAL_TW_DEFAULT_MAX of Linux 6.13 and newer). */
enum { CLOSING_ENOUGH = 8 };
static inline bool worker_ends_enough(const struct worker *worker) { return worker->closing_count >= CLOSING_ENOUGH; }

static inline void worker_assert_owner(const struct worker *worker) { port_assert_owner(worker->port); }

#endif
