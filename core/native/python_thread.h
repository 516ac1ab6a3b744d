/* python_thread.h: what a thread of a service in Python is made of; for python.c, python_take.c and python_reply.c alone. */
#ifndef IOCPD_PYTHON_THREAD_H
#define IOCPD_PYTHON_THREAD_H

#include "internal.h"
#include "python.h"

enum { REPLIES_MAX = 256 }; /* in one message to a worker */

/* Something that a thread is told. */
struct parcel {
    struct parcel *next;
    struct session *session;
    uint32_t kind;  /* enum iocpd_service_kind */
    uint32_t bytes; /* MESSAGES: of frames */
    uint32_t at;    /* MESSAGES: taken so far */
    uint32_t count; /* MESSAGES: how many */
    uint32_t detail;
};

struct letter { /* a parcel of MESSAGES */
    struct parcel parcel;
    uint8_t frames[];
};

struct session {
    struct parcel open, end, close;
    struct python_thread *thread;
    iocpd_service_open who;
    uint64_t waiting; /* atomic: bytes that are not handled */
    uint32_t broken;  /* atomic: the thread had no memory for it, so its stream has a hole; see session_break */
    uint32_t number;  /* the thread's; NUMBER_NONE: it does not know it */
    /* The worker's. */
    struct payload *farewell, *kick_text;
};

#define NUMBER_NONE UINT32_MAX

struct python_thread {
    struct iocpd_engine *engine;
    uint32_t listener;
    const iocpd_framing *framing;
    bool concurrent;
    uint64_t limit_bytes, share_bytes;

    void *inbox;          /* atomic: stack of parcels */
    uint64_t waiting;     /* atomic: bytes that are not handled, and those of sessions that have ended */
    uint32_t blocked;     /* atomic: some connection is paused until it is less */
    uint32_t sleeping;    /* atomic: who pushes must set the event */
    uint64_t unqueued;    /* atomic: bytes of answers on their way to workers */
    uint32_t reply_waits; /* atomic: who makes it less must set the event */
    uint64_t paused;      /* atomic: connections */
    uint64_t pauses;      /* atomic */
    platform_event event, reply_event;
    int events; /* how many of the two are open */

    platform_mutex mutex; /* of what follows: a take and a reply may overlap. Workers never lock it. */
    struct parcel *backlog;
    struct session **sessions; /* by number */
    uint32_t *free_numbers;
    uint32_t session_high, session_capacity, free_count;
    struct replies *replies[IOCPD_WORKERS_MAX]; /* being filled */
    iocpd_service_batch batch;
    iocpd_service_record *records;
    iocpd_service_open *opens;
    uint32_t *lengths;
    uint8_t *data;
    uint32_t data_capacity;
    /* Read by anyone. */
    uint64_t connections, messages_in, messages_out, broadcasts_dropped, batches;
};

struct reply {
    uint64_t token;
    struct payload *payload;
    uint32_t kind;
};

struct replies {
    struct message message; /* first */
    struct python_thread *thread;
    uint64_t bytes;
    uint32_t count;
    uint32_t at; /* the worker's: so many are done */
    struct reply list[REPLIES_MAX];
};

/* python_take.c: the thread's memory for batches; false without. batch_free undoes it, also then. */
bool batch_init(struct python_thread *thread);
void batch_free(struct python_thread *thread);
/* The oldest that is not taken, which stays where it is: thread->backlog. NULL: there is none. */
struct parcel *parcel_oldest(struct python_thread *thread);

/* python_reply.c. The caller has the thread's mutex. */

/* NULL: the number is nobody's. */
struct session *session_at(const struct python_thread *thread, uint32_t number);
/* Something that was for this connection, or its answer, is lost for want of memory. Nothing may follow the hole: its worker ends
 * it, which needs none. */
void session_break(struct python_thread *thread, struct session *session);
/* Its connection has ended, and nobody knows it any more. */
void session_free(struct python_thread *thread, struct session *session);
/* The same, and its number is free. */
void session_forget(struct python_thread *thread, struct session *session);
/* So many bytes of what was received are handled. */
void session_handled(struct python_thread *thread, struct session *session, uint64_t bytes);
/* Those that are paused may go on, if enough is handled. */
void thread_resume(struct python_thread *thread);
/* For the session's worker; takes the payload over, which may be NULL. */
void reply_add(struct python_thread *thread, struct session *session, uint32_t kind, struct payload *payload);
/* What was added goes to the workers. */
void replies_post_all(struct python_thread *thread);

#endif
