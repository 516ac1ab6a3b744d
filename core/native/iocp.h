/* iocp.h: what the files of the completion port of Windows share: port_iocp.c, iocp_accept.c and iocp_receive.c. */
#ifndef IOCPD_IOCP_H
#define IOCPD_IOCP_H

#include "port.h"

#ifdef _WIN32

#include <assert.h>

enum {
    KEY_WAKE = 1, /* no pointer is this small */
    KEY_EXIT = 2,
    ADDRESS_BYTES = sizeof(struct sockaddr_storage) + 16, /* AcceptEx wants 16 more than the address has */
    RETRY_MS = 100,                                       /* until handles or memory may be there again */
    LOST_POST_MS = 1000,
};

enum { OPERATION_RECEIVE = 1, OPERATION_SEND, OPERATION_ACCEPT, OPERATION_LISTENER };

/* port_operation.state; 0: nothing is outstanding. */
enum {
    STATE_WATCHING = 1, /* receive: of zero bytes */
    STATE_FILLING,      /* receive: into socket->filling */
    STATE_HOLDING,      /* the same, on the list of those that hold a buffer while nothing comes */
    STATE_STARVED,      /* receive: on the starved list */
    STATE_ENDING,       /* receive: the data is delivered, the final event is next */
    STATE_SENDING,
    STATE_POSTED, /* accept slot: AcceptEx is outstanding, or its outcome waits in the ready list */
    STATE_LISTENING,
};

/* port_operation.flags */
enum {
    FLAG_CANCELLED = 1,
    FLAG_QUEUED = 2,    /* listener: it is on the ready list to report something */
    FLAG_ATTACHED = 4,  /* listener: its handle is bound to this port, which can be done once */
    FLAG_GIVE_BACK = 8, /* receive: cancelled by the driver, for its buffer */
};

enum { SOCKET_SKIPS = 1 }; /* port_socket.flags: no packet for what ends at once */

struct accept_slot {
    struct port_operation operation;
    struct accept_pool *pool;
    socket_t handle;
    char addresses[2 * ADDRESS_BYTES];
};

/* A listener's posted accepts; lives from `accept` to its final event. */
struct accept_pool {
    struct accept_pool *next;
    struct port_listener *listener;
    LPFN_ACCEPTEX accept_ex;
    LPFN_GETACCEPTEXSOCKADDRS get_addresses;
    uint32_t posted;     /* slots in STATE_POSTED */
    int64_t retry_at_ns; /* when empty slots are tried again; 0: none is empty */
    struct accept_slot slots[PORT_ACCEPTS_MAX];
};

struct iocp_port {
    struct port base;
    HANDLE handle;
    struct operation_list ready;   /* outcomes, in the order in which they are served */
    struct operation_list starved; /* receives that wait for a buffer */
    uint32_t starved_cancels;
    struct port_socket *oldest, *newest; /* of the receives that hold a buffer, by the time of their last bytes */
    uint32_t held;
    int64_t now_ns; /* when packets were last taken */
    struct accept_pool *accept_pools;
    bool woken;     /* taken from the port, and not yet delivered */
    uint32_t exits; /* likewise */
    OVERLAPPED_ENTRY entries[PORT_EVENTS_MAX];

    /* By any thread. */
    uint32_t wake_posted; /* a wake is on its way: one is enough */
    uint32_t wake_lost, exits_lost;
};

static inline struct iocp_port *iocp_port(struct port *port) { return (struct iocp_port *)port; }

/* A packet gives the OVERLAPPED's address back, which must be the operation's, and the slot's. */
static_assert(offsetof(struct port_operation, overlapped) == 0, "OVERLAPPED is the first member of the per-I/O data");
static_assert(offsetof(struct accept_slot, operation) == 0, "per-I/O data is the first member of the accept slot");
static_assert(offsetof(struct iocp_port, base) == 0, "a driver's port starts with the common part");
static_assert(sizeof(ULONG_PTR) == sizeof(void *), "a completion key holds a pointer");

/* ---- what every operation does ---------------------------------------------------------------------------------- */

static inline void operation_begin(struct iocp_port *port, struct port_operation *operation, uint8_t kind) {
    port_begin(&port->base, operation);
    operation->kind = kind;
    operation->flags &= FLAG_ATTACHED;
}

static inline void operation_end(struct iocp_port *port, struct port_operation *operation) {
    port_end(&port->base, operation);
    operation->state = 0;
}

/* After the call. True: the outcome is here, in bytes and os_error, and no packet will bring it. */
static inline bool operation_is_done(struct port_socket *socket, struct port_operation *operation, int error, DWORD bytes) {
    if (error == WSA_IO_PENDING) return false;
    if (error == 0 && !(socket->flags & SOCKET_SKIPS)) return false;
    operation->os_error = error;
    operation->bytes = error ? 0 : bytes;
    return true;
}

static inline void operation_cancel(socket_t handle, struct port_operation *operation) {
    operation->flags |= FLAG_CANCELLED;
    CancelIoEx((HANDLE)handle, &operation->overlapped); /* whatever it returns, the outcome will come */
}

/* `os_error` is an NTSTATUS (negative) from a packet, or an error number (positive) of a call that failed at once. */
enum port_error iocp_error(int32_t os_error);

/* ---- iocp_accept.c ---------------------------------------------------------------------------------------------- */

int iocp_port_accept(struct port *base, struct port_listener *listener);
void iocp_port_accept_cancel(struct port *base, struct port_listener *listener);
/* Each fills the event, or returns false when there is none. */
bool accept_serve(struct iocp_port *port, struct accept_slot *slot, struct port_event *event);
bool listener_serve(struct iocp_port *port, struct port_listener *listener, struct port_event *event);
/* Posts again what could not be posted for want of a handle or memory, where it is time. */
void accept_retry(struct iocp_port *port, int64_t now_ns);

/* ---- iocp_receive.c --------------------------------------------------------------------------------------------- */

int iocp_port_receive(struct port *base, struct port_socket *socket);
void iocp_port_receive_cancel(struct port *base, struct port_socket *socket);
bool receive_serve(struct iocp_port *port, struct port_socket *socket, struct port_event *event);
/* Goes on with the receives that wait for a buffer, first come first served, as far as there are buffers. */
void receive_retry(struct iocp_port *port);
/* Asks for the buffers back that have been held for long; returns when that is to be done again, INT64_MAX for never. */
int64_t receive_give_back(struct iocp_port *port, int64_t now_ns);
/* Its packet has come: the socket no longer waits with a buffer. */
void receive_held_end(struct iocp_port *port, struct port_socket *socket);

#else

typedef int iocp_is_for_windows; /* a translation unit must hold something */

#endif

#endif
