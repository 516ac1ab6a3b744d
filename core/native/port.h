/* port.h: the completion port's interface; port_iocp.c, port_uring.c and port_epoll.c stand behind it.
 *
 * One port per worker thread, owned by it. Every function but `post` is the owner's alone. What each driver promises:
 *
 *  1. A submit (accept, receive, send) returns 0, and then exactly one final event follows for the operation, or an error
 *     number, and then no event follows. Nothing is ever delivered inside the submit call.
 *  2. accept and receive are multishot: they deliver any number of events with `final` false before the final one. A
 *     receive stays armed until end of file, an error or a cancel; the driver itself rearms what its kernel disarms.
 *  3. The memory of an operation (the port_socket, the slices and the bytes they point to) is the kernel's until the final
 *     event. A cancel is only a request: the final event still comes, and may well report success.
 *  4. The port supplies receive memory from its buffer_pool. An idle connection owns no buffer; one that has just sent may
 *     hold one for a second, within half of the pool. When the pool is empty, the receive waits inside the driver
 *     (starved) and goes on as buffers come back; no byte is lost.
 *  5. At most one receive and one send are outstanding on a socket, so order is certain.
 *  6. `post` is for any thread: POST_WAKE ends a wait early (posts may collapse into one event), POST_EXIT is the exit
 *     completion and is delivered exactly once for each post. Payload never travels through the port: it is in the
 *     worker's own queue, and the post is only the wake.
 *  7. Events are taken in batches; a socket gets a bounded number of events in each, so none starves another, and a listener
 *     PORT_ACCEPTS_MAX, so that a flood of clients holds up nobody who is here.
 */
#ifndef IOCPD_PORT_H
#define IOCPD_PORT_H

#include "buffer.h"
#include "platform.h"

enum {
    PORT_SLICES_MAX = 64,  /* segments in one send; more than 1,024 fail on Windows */
    PORT_EVENTS_MAX = 256, /* events in one batch */
    PORT_ACCEPTS_MAX = 32, /* connections of a listener in one batch; AcceptEx calls that are outstanding on it */
    PORT_LISTENERS_MAX = 64,
};

/* What an operation ended with. The driver's own number is kept in os_error for the log. */
enum port_error {
    PORT_OK,
    PORT_CANCELLED,
    PORT_RESET,        /* the peer, or a box on the way, has reset the connection */
    PORT_TIMED_OUT,    /* the system gave up retransmitting or keepalive failed */
    PORT_NO_RESOURCES, /* no handle or no memory: the operation may succeed later */
    PORT_FAILED,       /* anything else */
};

enum port_event_kind { PORT_ACCEPTED, PORT_RECEIVED, PORT_SENT, PORT_WOKEN, PORT_EXIT };
enum port_post { POST_WAKE, POST_EXIT };

/* Per-I/O data. */
struct port_operation {
#ifdef _WIN32
    OVERLAPPED overlapped; /* must be first: the completion gives its address back (pinned by a static assert) */
#endif
    struct port_operation *next; /* the driver's lists: ready, starved, readable */
    uint32_t bytes;              /* of a completion that waits in the ready list */
    int32_t os_error;
    uint8_t kind;  /* the driver's */
    uint8_t state; /* the driver's; 0 when nothing is outstanding */
    uint8_t flags; /* the driver's */
    bool outstanding;
};

/* Per-socket data: the completion key. The engine's connection starts with it. */
struct port_socket {
    socket_t handle;
    struct port_operation receive, send;
    /* What is being sent: set by the engine before `send`, pinned until its final event. */
    const port_slice *slices;
    uint32_t slice_count;
    uint32_t flags; /* the driver's */
#ifdef _WIN32
    /* The driver's: what the pending receive fills, when bytes last came, and its place among those that hold a buffer. */
    struct buffer *filling;
    int64_t received_ns;
    struct port_socket *older, *newer;
#endif
    port_slice slice; /* a send of one piece needs no gather list */
};

/* A gather list for a send of several pieces. */
struct port_gather {
    port_slice slices[PORT_SLICES_MAX];
#ifndef _WIN32
    struct msghdr header; /* the driver's: pinned together with the slices */
#endif
    struct port_gather *next;
};

struct port_listener {
    socket_t handle;
    int family; /* AF_INET, AF_INET6: an accept socket has its listener's family */
    struct port_operation accept;
    void *driver_data; /* the driver's, for example its pool of posted accepts */
    uint32_t accepts;  /* the driver's: those that its kernel has */
    void *context;     /* the engine's */
};

struct port_event {
    enum port_event_kind kind;
    bool final;            /* the last event of its operation */
    enum port_error error; /* RECEIVED with PORT_OK and no buffer is end of file */
    int32_t os_error;
    uint32_t bytes;                      /* SENT: how many went out, may be short; also set for an error or a cancel */
    struct port_socket *socket;          /* RECEIVED, SENT */
    struct buffer *buffer;               /* RECEIVED: the engine's from now on, buffer->bytes long, at least 1 */
    struct port_listener *listener;      /* ACCEPTED */
    socket_t accepted;                   /* ACCEPTED: the engine's from now on; SOCKET_NONE for an error */
    struct platform_address peer, local; /* ACCEPTED */
};

struct port_options {
    struct buffer_pool *pool;
};

/* What the worker's statistics show of its port. */
struct port_counters {
    uint64_t waits, events, wakes, starved, overflows, accept_errors;
    uint64_t provided; /* buffers that the port holds ready, without a byte in them */
};

struct port_driver;

/* The part that every driver has; a driver's own struct starts with it. */
struct port {
    const struct port_driver *driver;
    uint64_t owner;   /* platform_thread_id of the worker */
    uint32_t pending; /* operations without their final event; the wake is not counted */
    struct buffer_pool *pool;
    struct port_counters counters; /* bumped by the owner, read by anyone */
};

struct port_driver {
    const char *name;
    /* A real round trip. 0, or an error number with *step naming the call that failed. Any thread. */
    int (*probe)(const char **step);
    /* Called by the owner, which the port belongs to from then on. */
    int (*open)(struct port **out, const struct port_options *options, const char **step);
    /* Any thread, after the owner has ended; asserts that nothing is pending. */
    void (*close)(struct port *port);

    /* Binds the socket to this port; `socket` is the completion key. */
    int (*attach)(struct port *port, struct port_socket *socket);
    /* After the last final event: closes the handle and lets go of the socket. */
    void (*release)(struct port *port, struct port_socket *socket);

    int (*accept)(struct port *port, struct port_listener *listener);
    void (*accept_cancel)(struct port *port, struct port_listener *listener);
    int (*receive)(struct port *port, struct port_socket *socket);
    void (*receive_cancel)(struct port *port, struct port_socket *socket);
    int (*send)(struct port *port, struct port_socket *socket);
    void (*send_cancel)(struct port *port, struct port_socket *socket);

    /* Fills at most `capacity` events (at least 8); waits at most timeout_ns (< 0: for ever, 0: not at all). Returns how many. A
     * failing system call gives 0 events after a short pause, never an error: nobody could act on it. */
    uint32_t (*wait)(struct port *port, struct port_event *events, uint32_t capacity, int64_t timeout_ns);
    /* Any thread. */
    void (*post)(struct port *port, enum port_post what);
};

extern const struct port_driver port_iocp, port_uring, port_epoll;

static inline void port_assert_owner(const struct port *port) { ASSERT(port->owner == platform_thread_id()); }

/* Every submit and every final event goes through these two, so that `pending` is true in each driver. */
static inline void port_begin(struct port *port, struct port_operation *operation) {
    ASSERT(!operation->outstanding);
    operation->outstanding = true;
    port->pending++;
}
static inline void port_end(struct port *port, struct port_operation *operation) {
    ASSERT(operation->outstanding && port->pending > 0);
    operation->outstanding = false;
    port->pending--;
}

/* ---- the drivers' lists of operations: first in, first out ---------------------------------------------------------- */

struct operation_list {
    struct port_operation *first, *last;
    uint32_t count;
};

static inline void list_push(struct operation_list *list, struct port_operation *operation) {
    operation->next = NULL;
    if (list->last) list->last->next = operation;
    else list->first = operation;
    list->last = operation;
    list->count++;
}

static inline struct port_operation *list_pop(struct operation_list *list) {
    struct port_operation *operation = list->first;
    if (!operation) return NULL;
    list->first = operation->next;
    if (!list->first) list->last = NULL;
    list->count--;
    operation->next = NULL;
    return operation;
}

/* It is in the list. Looks at all that are before it. */
static inline void list_remove(struct operation_list *list, struct port_operation *operation) {
    struct port_operation *before = NULL;
    for (struct port_operation *at = list->first; at != operation; at = at->next) before = at;
    if (before) before->next = operation->next;
    else list->first = operation->next;
    if (list->last == operation) list->last = before;
    list->count--;
    operation->next = NULL;
}

#endif
