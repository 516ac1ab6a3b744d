/* port_iocp.c: the completion port of Windows behind port.h.
 *
 * How an I/O completion port really behaves, and what follows for this file:
 *
 * A completion port is a queue of packets in the kernel. A handle is bound to one port for its whole life, with a key
 * of pointer width: here the port_socket or the port_listener. An operation is an OVERLAPPED that we lend to the
 * kernel. Its packet brings key and OVERLAPPED back. Until then the OVERLAPPED and the bytes belong to the kernel,
 * and nothing that we could do shortens that: closing the handle doesn't, and closing the port neither cancels nor
 * wakes anything. So memory is let go of when the packet is here, and never on a timer.
 *
 * CancelIoEx is a request. The packet still comes, and may report success, because the operation may have ended a
 * moment earlier; ERROR_NOT_FOUND says just that. Its result is therefore never looked at. We cancel and reap before
 * we close: closing first leaves it to the provider when the packet comes and what it says.
 *
 * An operation may end at once. By default the packet comes all the same. FILE_SKIP_COMPLETION_PORT_ON_SUCCESS saves
 * that packet, but only where the socket is a true kernel handle (XP1_IFS_HANDLES): a layered provider may send it
 * anyhow. We ask each socket, and where the answer is no, we wait for the packet; an outcome is never taken twice.
 * What ended at once joins the packets in one queue, the ready list, at its tail. A call to wait serves what the list
 * held at its beginning, so that a socket whose every call ends at once can't hold up the others. A call that fails
 * at once sends no packet; it joins the list too, and the engine learns of each broken connection in one way.
 *
 * A receive pins its buffer while it pends. A thousand idle connections would pin a thousand buffers. A WSARecv of
 * zero bytes pins nothing and ends when there is something to read: data, end of file or an error. Only then is a
 * buffer taken, and a second WSARecv fills it, nearly always at once. Then zero bytes again, even if the buffer came
 * back full: if there is more, that call ends at once, and if there isn't, no buffer is held. A receive is always
 * pending on an open connection; it is what tells a reset from an end of file.
 *
 * AcceptEx takes a socket that we must make beforehand. When it asks for data as well, a silent client occupies it;
 * we ask for none. When no AcceptEx is posted, clients wait in the backlog, so a pool of them is, and each is posted
 * anew before its connection is handed on. An accepted socket is half a socket until SO_UPDATE_ACCEPT_CONTEXT:
 * getpeername and shutdown fail without it. When one client has gone, its AcceptEx fails, which says nothing of the
 * next: post again at once. When there is no handle or no memory, posting again at once would spin: the slot stays
 * empty for 100 ms.
 *
 * The error that GetLastError gives for a packet has been through RtlNtStatusToDosError, which makes one of several
 * kinds of disconnect. OVERLAPPED.Internal still holds the NTSTATUS (its documentation calls it the status code of
 * the request), and that is what is mapped here.
 *
 * PostQueuedCompletionStatus needs memory, so it may fail. A wake or an exit that couldn't be posted is noted in the
 * port, and no wait sleeps longer than a second without a look at the note.
 *
 * GetQueuedCompletionStatusEx takes many packets in one call. It reports success for the call; each packet has its
 * own status.
 */
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
    STATE_STARVED,      /* receive: on the starved list */
    STATE_ENDING,       /* receive: the data is delivered, the final event is next */
    STATE_SENDING,
    STATE_POSTED, /* accept slot: AcceptEx is outstanding, or its outcome waits in the ready list */
    STATE_LISTENING,
};

/* port_operation.flags */
enum {
    FLAG_CANCELLED = 1,
    FLAG_QUEUED = 2,   /* listener: it is on the ready list to report something */
    FLAG_ATTACHED = 4, /* listener: its handle is bound to this port, which can be done once */
};

enum { SOCKET_SKIPS = 1 }; /* port_socket.flags: no packet for what ends at once */

struct operation_list {
    struct port_operation *first, *last;
    uint32_t count;
};

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
    struct accept_pool *accept_pools;
    bool woken;     /* taken from the port, and not yet delivered */
    uint32_t exits; /* likewise */
    OVERLAPPED_ENTRY entries[PORT_EVENTS_MAX];

    /* By any thread. */
    uint32_t wake_posted; /* a wake is on its way: one is enough */
    uint32_t wake_lost, exits_lost;
};

static struct iocp_port *iocp_port(struct port *port) { return (struct iocp_port *)port; }

/* A packet gives the OVERLAPPED's address back, which must be the operation's, and the slot's. */
static_assert(offsetof(struct port_operation, overlapped) == 0, "OVERLAPPED is the first member of the per-I/O data");
static_assert(offsetof(struct accept_slot, operation) == 0, "per-I/O data is the first member of the accept slot");
static_assert(offsetof(struct iocp_port, base) == 0, "a driver's port starts with the common part");
static_assert(sizeof(ULONG_PTR) == sizeof(void *), "a completion key holds a pointer");

/* ---- errors ----------------------------------------------------------------------------------------------------- */

/* `os_error` is an NTSTATUS (negative) from a packet, or an error number (positive) of a call that failed at once. */
static enum port_error error_of(int32_t os_error) {
    switch ((uint32_t)os_error) {
    case 0: return PORT_OK;

    case 0xC0000120u: /* STATUS_CANCELLED */
    case ERROR_OPERATION_ABORTED: return PORT_CANCELLED;

    case 0xC000020Du: /* STATUS_CONNECTION_RESET */
    case 0xC000020Cu: /* STATUS_CONNECTION_DISCONNECTED */
    case 0xC000013Cu: /* STATUS_REMOTE_DISCONNECT */
    case 0xC000013Bu: /* STATUS_LOCAL_DISCONNECT: by the system; we never close under an operation */
    case 0xC000013Eu: /* STATUS_LINK_FAILED */
    case 0xC0000241u: /* STATUS_CONNECTION_ABORTED */
    case 0xC0000140u: /* STATUS_INVALID_CONNECTION: it was reset before it was accepted */
    case 0xC000023Au: /* STATUS_CONNECTION_INVALID */
    case 0xC00000C9u: /* STATUS_NETWORK_NAME_DELETED */
    case 0xC00000C4u: /* STATUS_UNEXPECTED_NETWORK_ERROR */
    case ERROR_NETNAME_DELETED:
    case WSAENETRESET:
    case WSAECONNABORTED:
    case WSAECONNRESET: return PORT_RESET;

    case 0xC00000B5u: /* STATUS_IO_TIMEOUT */
    case 0xC000013Fu: /* STATUS_LINK_TIMEOUT */
    case 0xC000023Cu: /* STATUS_NETWORK_UNREACHABLE */
    case 0xC000023Du: /* STATUS_HOST_UNREACHABLE */
    case WSAENETUNREACH:
    case WSAEHOSTUNREACH:
    case WSAETIMEDOUT: return PORT_TIMED_OUT;

    case 0xC000009Au: /* STATUS_INSUFFICIENT_RESOURCES */
    case 0xC0000017u: /* STATUS_NO_MEMORY */
    case 0xC0000044u: /* STATUS_QUOTA_EXCEEDED */
    case 0xC0000007u: /* STATUS_PAGEFILE_QUOTA */
    case 0xC00000A1u: /* STATUS_WORKING_SET_QUOTA */
    case 0xC000012Du: /* STATUS_COMMITMENT_LIMIT */
    case 0xC000011Fu: /* STATUS_TOO_MANY_OPENED_FILES */
    case 0xC000013Du: /* STATUS_REMOTE_RESOURCES */
    case 0xC0000209u: /* STATUS_TOO_MANY_ADDRESSES */
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_NO_SYSTEM_RESOURCES:
    case ERROR_NOT_ENOUGH_QUOTA:
    case WSAEMFILE:
    case WSAENOBUFS: return PORT_NO_RESOURCES;

    default: return PORT_FAILED;
    }
}

/* ---- lists ------------------------------------------------------------------------------------------------------ */

static void list_push(struct operation_list *list, struct port_operation *operation) {
    operation->next = NULL;
    if (list->last) list->last->next = operation;
    else list->first = operation;
    list->last = operation;
    list->count++;
}

static struct port_operation *list_pop(struct operation_list *list) {
    struct port_operation *operation = list->first;
    list->first = operation->next;
    if (!list->first) list->last = NULL;
    list->count--;
    return operation;
}

/* ---- life of a port --------------------------------------------------------------------------------------------- */

static int extension(socket_t handle, GUID id, void *function, DWORD function_bytes) {
    DWORD bytes;
    return WSAIoctl(handle, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof id, function, function_bytes, &bytes, NULL, NULL)
               ? WSAGetLastError()
               : 0;
}

static int iocp_port_probe(const char **step) {
    *step = "CreateIoCompletionPort";
    HANDLE handle = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
    if (!handle) return (int)GetLastError();

    OVERLAPPED_ENTRY entry;
    ULONG count;
    int error = 0;
    *step = "PostQueuedCompletionStatus";
    if (!PostQueuedCompletionStatus(handle, 0, KEY_WAKE, NULL)) error = (int)GetLastError();
    if (!error) {
        *step = "GetQueuedCompletionStatusEx";
        if (!GetQueuedCompletionStatusEx(handle, &entry, 1, &count, 1000, FALSE)) error = (int)GetLastError();
        else if (entry.lpCompletionKey != KEY_WAKE) error = ERROR_INVALID_DATA;
    }
    CloseHandle(handle);
    return error;
}

static int iocp_port_open(struct port **out, const struct port_options *options, const char **step) {
    *step = "memory";
    struct iocp_port *port = memory_new(sizeof *port);
    if (!port) return ERROR_NOT_ENOUGH_MEMORY;
    *step = "CreateIoCompletionPort";
    port->handle = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
    if (!port->handle) {
        int error = (int)GetLastError();
        memory_free(port);
        return error;
    }
    port->base.driver = &port_iocp;
    port->base.owner = platform_thread_id();
    port->base.pool = options->pool;
    *out = &port->base;
    return 0;
}

static void iocp_port_close(struct port *base) {
    struct iocp_port *port = iocp_port(base);
    ASSERT(base->pending == 0 && port->ready.count == 0 && port->starved.count == 0 && !port->accept_pools);
    CloseHandle(port->handle);
    memory_free(port);
}

static bool provider_has_true_handles(socket_t handle) {
    WSAPROTOCOL_INFOW provider;
    int bytes = sizeof provider;
    return getsockopt(handle, SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&provider, &bytes) == 0 &&
           (provider.dwServiceFlags1 & XP1_IFS_HANDLES) != 0;
}

static int iocp_port_attach(struct port *base, struct port_socket *socket) {
    struct iocp_port *port = iocp_port(base);
    port_assert_owner(base);
    if (!CreateIoCompletionPort((HANDLE)socket->handle, port->handle, (ULONG_PTR)socket, 0)) return (int)GetLastError();
    const UCHAR modes = FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE;
    bool skips = provider_has_true_handles(socket->handle) && SetFileCompletionNotificationModes((HANDLE)socket->handle, modes);
    socket->flags = skips ? SOCKET_SKIPS : 0;
    return 0;
}

static void iocp_port_release(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    ASSERT(!socket->receive.outstanding && !socket->send.outstanding && !socket->filling);
    platform_socket_close(socket->handle);
    socket->handle = SOCKET_NONE;
}

/* ---- what every operation does ---------------------------------------------------------------------------------- */

static void operation_begin(struct iocp_port *port, struct port_operation *operation, uint8_t kind) {
    port_begin(&port->base, operation);
    operation->kind = kind;
    operation->flags &= FLAG_ATTACHED;
}

static void operation_end(struct iocp_port *port, struct port_operation *operation) {
    port_end(&port->base, operation);
    operation->state = 0;
}

/* After the call. True: the outcome is here, in bytes and os_error, and no packet will bring it. */
static bool operation_is_done(struct port_socket *socket, struct port_operation *operation, int error, DWORD bytes) {
    if (error == WSA_IO_PENDING) return false;
    if (error == 0 && !(socket->flags & SOCKET_SKIPS)) return false;
    operation->os_error = error;
    operation->bytes = error ? 0 : bytes;
    return true;
}

static void operation_cancel(socket_t handle, struct port_operation *operation) {
    operation->flags |= FLAG_CANCELLED;
    CancelIoEx((HANDLE)handle, &operation->overlapped); /* whatever it returns, the outcome will come */
}

/* ---- accept ----------------------------------------------------------------------------------------------------- */

/* One AcceptEx. 0, or why the call failed. */
static int accept_start(struct accept_slot *slot) {
    struct accept_pool *pool = slot->pool;
    const DWORD flags = WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT;
    slot->handle = WSASocketW(pool->listener->family, SOCK_STREAM, IPPROTO_TCP, NULL, 0, flags);
    if (slot->handle == SOCKET_NONE) return WSAGetLastError();
    slot->operation.kind = OPERATION_ACCEPT;
    slot->operation.state = STATE_POSTED;
    memset(&slot->operation.overlapped, 0, sizeof slot->operation.overlapped);
    DWORD bytes;
    BOOL done = pool->accept_ex(pool->listener->handle, slot->handle, slot->addresses, 0, ADDRESS_BYTES, ADDRESS_BYTES, &bytes,
                                &slot->operation.overlapped);
    int error = done ? 0 : WSAGetLastError();
    if (error == 0 || error == WSA_IO_PENDING) { /* the listener skips no packet: one follows in both cases */
        pool->posted++;
        return 0;
    }
    slot->operation.state = 0;
    platform_socket_close(slot->handle);
    slot->handle = SOCKET_NONE;
    return error;
}

/* Fills one slot. 0, or why it can't be done now. */
static int accept_post(struct iocp_port *port, struct accept_slot *slot) {
    int error = accept_start(slot);
    /* Of a client that has gone already the call itself may complain: the next one is waiting. */
    for (int again = 1; error_of(error) == PORT_RESET && again < PORT_ACCEPTS_MAX; again++) {
        u64_bump(&port->base.counters.accept_errors, 1);
        error = accept_start(slot);
    }
    if (error) u64_bump(&port->base.counters.accept_errors, 1);
    return error;
}

/* Posts each slot that is empty, until one can't be. */
static int accept_fill(struct iocp_port *port, struct accept_pool *pool) {
    for (int i = 0; i < PORT_ACCEPTS_MAX; i++) {
        if (pool->slots[i].operation.state) continue;
        int error = accept_post(port, &pool->slots[i]);
        if (error) return error;
    }
    return 0;
}

/* The listener itself has something to say: a shortage, or its end. */
static void accept_report(struct iocp_port *port, struct port_listener *listener, int32_t os_error) {
    listener->accept.os_error = os_error;
    if (listener->accept.flags & FLAG_QUEUED) return;
    listener->accept.flags |= FLAG_QUEUED;
    list_push(&port->ready, &listener->accept);
}

static void accept_back_off(struct iocp_port *port, struct accept_pool *pool, int32_t os_error) {
    pool->retry_at_ns = platform_monotonic_ns() + RETRY_MS * INT64_C(1000000);
    accept_report(port, pool->listener, os_error);
}

static void accept_retry(struct iocp_port *port, int64_t now_ns) {
    for (struct accept_pool *pool = port->accept_pools; pool; pool = pool->next) {
        if (pool->retry_at_ns == 0 || now_ns < pool->retry_at_ns) continue;
        pool->retry_at_ns = 0;
        int error = accept_fill(port, pool);
        if (error) accept_back_off(port, pool, error);
    }
}

static int iocp_port_accept(struct port *base, struct port_listener *listener) {
    struct iocp_port *port = iocp_port(base);
    port_assert_owner(base);
    ASSERT(!listener->accept.outstanding);
    struct accept_pool *pool = memory_new(sizeof *pool);
    if (!pool) return ERROR_NOT_ENOUGH_MEMORY;
    pool->listener = listener;
    for (int i = 0; i < PORT_ACCEPTS_MAX; i++) {
        pool->slots[i].pool = pool;
        pool->slots[i].handle = SOCKET_NONE;
    }

    GUID accept_ex = WSAID_ACCEPTEX, get_addresses = WSAID_GETACCEPTEXSOCKADDRS;
    int error = extension(listener->handle, accept_ex, &pool->accept_ex, sizeof pool->accept_ex);
    if (!error) error = extension(listener->handle, get_addresses, &pool->get_addresses, sizeof pool->get_addresses);
    if (!error && !CreateIoCompletionPort((HANDLE)listener->handle, port->handle, (ULONG_PTR)listener, 0)) {
        error = (int)GetLastError();
        /* Accepting anew on the same handle: it is bound already. */
        if (error == ERROR_INVALID_PARAMETER && listener->accept.flags & FLAG_ATTACHED) error = 0;
    }
    if (error) goto failed;
    listener->accept.flags |= FLAG_ATTACHED;
    error = accept_fill(port, pool);
    if (error && pool->posted == 0) goto failed;

    operation_begin(port, &listener->accept, OPERATION_LISTENER);
    listener->accept.state = STATE_LISTENING;
    listener->driver_data = pool;
    pool->next = port->accept_pools;
    port->accept_pools = pool;
    if (error) accept_back_off(port, pool, error);
    return 0;

failed:
    memory_free(pool);
    return error;
}

static void iocp_port_accept_cancel(struct port *base, struct port_listener *listener) {
    struct iocp_port *port = iocp_port(base);
    port_assert_owner(base);
    if (!listener->accept.outstanding || listener->accept.flags & FLAG_CANCELLED) return;
    struct accept_pool *pool = listener->driver_data;
    listener->accept.flags |= FLAG_CANCELLED;
    pool->retry_at_ns = 0;
    for (int i = 0; i < PORT_ACCEPTS_MAX; i++)
        if (pool->slots[i].operation.state) operation_cancel(listener->handle, &pool->slots[i].operation);
    if (pool->posted == 0) accept_report(port, listener, 0);
}

static void accept_refill(struct iocp_port *port, struct accept_slot *slot, int32_t os_error) {
    struct accept_pool *pool = slot->pool;
    if (pool->listener->accept.flags & FLAG_CANCELLED) {
        if (pool->posted == 0) accept_report(port, pool->listener, 0);
        return;
    }
    if (error_of(os_error) != PORT_NO_RESOURCES) os_error = accept_post(port, slot);
    if (os_error) accept_back_off(port, pool, os_error);
}

static bool accept_serve(struct iocp_port *port, struct accept_slot *slot, struct port_event *event) {
    struct accept_pool *pool = slot->pool;
    struct port_listener *listener = pool->listener; /* the pool may end, but the listener is the engine's */
    socket_t accepted = slot->handle;
    int32_t os_error = slot->operation.os_error;

    if (os_error == 0) { /* before the slot is posted anew, which reuses this memory */
        struct sockaddr *local, *peer;
        int local_bytes, peer_bytes;
        pool->get_addresses(slot->addresses, 0, ADDRESS_BYTES, ADDRESS_BYTES, &local, &local_bytes, &peer, &peer_bytes);
        platform_address_from(&event->local, local);
        platform_address_from(&event->peer, peer);
    }
    slot->handle = SOCKET_NONE;
    slot->operation.state = 0;
    pool->posted--;
    accept_refill(port, slot, os_error);

    if (os_error == 0 &&
        (setsockopt(accepted, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (const char *)&listener->handle, sizeof listener->handle) ||
         platform_socket_no_delay(accepted)))
        os_error = WSAGetLastError();
    if (os_error) {
        platform_socket_close(accepted);
        if (error_of(os_error) != PORT_CANCELLED) u64_bump(&port->base.counters.accept_errors, 1);
        return false;
    }
    event->kind = PORT_ACCEPTED;
    event->listener = listener;
    event->accepted = accepted;
    return true;
}

static bool listener_serve(struct iocp_port *port, struct port_listener *listener, struct port_event *event) {
    struct accept_pool *pool = listener->driver_data;
    listener->accept.flags &= (uint8_t)~FLAG_QUEUED;
    event->kind = PORT_ACCEPTED;
    event->listener = listener;
    event->os_error = listener->accept.os_error;
    if (!(listener->accept.flags & FLAG_CANCELLED)) {
        event->error = error_of(event->os_error);
        return true;
    }
    if (pool->posted > 0) return false; /* of no interest any more; the last slot reports again */
    event->error = PORT_CANCELLED;
    event->final = true;
    struct accept_pool **link = &port->accept_pools;
    while (*link != pool) link = &(*link)->next;
    *link = pool->next;
    memory_free(pool);
    listener->driver_data = NULL;
    operation_end(port, &listener->accept);
    return true;
}

/* ---- receive ---------------------------------------------------------------------------------------------------- */

/* True: the outcome is here. */
static bool receive_start(struct port_socket *socket, uint8_t state, port_slice *into) {
    struct port_operation *operation = &socket->receive;
    DWORD bytes = 0, flags = 0;
    operation->state = state;
    memset(&operation->overlapped, 0, sizeof operation->overlapped);
    int failed = WSARecv(socket->handle, into, 1, &bytes, &flags, &operation->overlapped, NULL);
    return operation_is_done(socket, operation, failed ? WSAGetLastError() : 0, bytes);
}

static bool receive_watch(struct port_socket *socket) {
    static char nowhere[1];
    port_slice into;
    port_slice_set(&into, nowhere, 0);
    return receive_start(socket, STATE_WATCHING, &into);
}

static bool receive_fill(struct iocp_port *port, struct port_socket *socket) {
    socket->filling = buffer_take(port->base.pool);
    if (!socket->filling) {
        socket->receive.state = STATE_STARVED;
        list_push(&port->starved, &socket->receive);
        u64_bump(&port->base.counters.starved, 1);
        return false;
    }
    port_slice into;
    port_slice_set(&into, socket->filling->memory, socket->filling->pool->buffer_bytes);
    return receive_start(socket, STATE_FILLING, &into);
}

/* Goes on with the receives that wait for a buffer, first come first served, as far as there are buffers. */
static void receive_retry(struct iocp_port *port) {
    struct buffer_pool *pool = port->base.pool;
    for (uint32_t turns = port->starved.count; turns > 0; turns--) {
        if (buffer_available(pool) == 0 && port->starved_cancels == 0) return;
        struct port_operation *operation = list_pop(&port->starved);
        if (operation->flags & FLAG_CANCELLED) {
            port->starved_cancels--;
            operation->state = STATE_ENDING;
            list_push(&port->ready, operation);
        } else if (receive_fill(port, CONTAINER_OF(operation, struct port_socket, receive))) {
            list_push(&port->ready, operation);
        }
    }
}

static int iocp_port_receive(struct port *base, struct port_socket *socket) {
    struct iocp_port *port = iocp_port(base);
    port_assert_owner(base);
    operation_begin(port, &socket->receive, OPERATION_RECEIVE);
    if (receive_watch(socket)) list_push(&port->ready, &socket->receive);
    return 0;
}

static void iocp_port_receive_cancel(struct port *base, struct port_socket *socket) {
    struct iocp_port *port = iocp_port(base);
    port_assert_owner(base);
    if (!socket->receive.outstanding || socket->receive.flags & FLAG_CANCELLED) return;
    if (socket->receive.state == STATE_STARVED) {
        socket->receive.flags |= FLAG_CANCELLED;
        port->starved_cancels++;
    } else {
        operation_cancel(socket->handle, &socket->receive);
    }
}

static bool receive_serve(struct iocp_port *port, struct port_socket *socket, struct port_event *event) {
    struct port_operation *operation = &socket->receive;
    bool cancelled = (operation->flags & FLAG_CANCELLED) != 0;
    if (operation->state == STATE_WATCHING && operation->os_error == 0 && !cancelled && !receive_fill(port, socket)) return false;

    event->kind = PORT_RECEIVED;
    event->socket = socket;
    struct buffer *buffer = socket->filling;
    socket->filling = NULL;
    if (buffer && operation->bytes > 0) {
        buffer->bytes = event->bytes = operation->bytes;
        event->buffer = buffer;
        if (cancelled || operation->os_error) {
            operation->state = STATE_ENDING;
            list_push(&port->ready, operation);
        } else if (receive_watch(socket)) {
            list_push(&port->ready, operation);
        }
        return true;
    }

    if (buffer) buffer_free(buffer);
    bool end_of_file = operation->state == STATE_FILLING && operation->os_error == 0;
    event->os_error = operation->os_error;
    event->error = error_of(operation->os_error);
    if (event->error == PORT_OK && !end_of_file) event->error = PORT_CANCELLED;
    event->final = true;
    operation_end(port, operation);
    return true;
}

/* ---- send ------------------------------------------------------------------------------------------------------- */

static int iocp_port_send(struct port *base, struct port_socket *socket) {
    struct iocp_port *port = iocp_port(base);
    struct port_operation *operation = &socket->send;
    port_assert_owner(base);
    ASSERT(socket->slice_count > 0 && socket->slice_count <= PORT_SLICES_MAX);
    operation_begin(port, operation, OPERATION_SEND);
    operation->state = STATE_SENDING;
    memset(&operation->overlapped, 0, sizeof operation->overlapped);
    DWORD bytes = 0;
    int failed =
        WSASend(socket->handle, (port_slice *)socket->slices, socket->slice_count, &bytes, 0, &operation->overlapped, NULL);
    if (operation_is_done(socket, operation, failed ? WSAGetLastError() : 0, bytes)) list_push(&port->ready, operation);
    return 0;
}

static void iocp_port_send_cancel(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    if (socket->send.outstanding) operation_cancel(socket->handle, &socket->send);
}

static bool send_serve(struct iocp_port *port, struct port_socket *socket, struct port_event *event) {
    event->kind = PORT_SENT;
    event->socket = socket;
    event->bytes = socket->send.bytes;
    event->os_error = socket->send.os_error;
    event->error = error_of(socket->send.os_error);
    event->final = true;
    operation_end(port, &socket->send);
    return true;
}

/* ---- wait and post ---------------------------------------------------------------------------------------------- */

/* Packets from the kernel to the ready list. False: the call itself failed. */
static bool take_packets(struct iocp_port *port, DWORD timeout_ms) {
    ULONG count = 0;
    BOOL taken = GetQueuedCompletionStatusEx(port->handle, port->entries, PORT_EVENTS_MAX, &count, timeout_ms, FALSE);
    bool works = taken || GetLastError() == WAIT_TIMEOUT;
    if (!taken) count = 0;
    for (ULONG i = 0; i < count; i++) {
        OVERLAPPED_ENTRY *entry = &port->entries[i];
        if (entry->lpCompletionKey == KEY_WAKE) {
            /* Before the engine looks into its queue: whoever puts something there later posts again. */
            u32_exchange(&port->wake_posted, 0);
            port->woken = true;
        } else if (entry->lpCompletionKey == KEY_EXIT) {
            port->exits++;
        } else {
            struct port_operation *operation = (struct port_operation *)(void *)entry->lpOverlapped;
            LONG status = (LONG)operation->overlapped.Internal;
            ASSERT(operation->state != 0);
            operation->bytes = entry->dwNumberOfBytesTransferred;
            operation->os_error = status < 0 ? status : 0;
            list_push(&port->ready, operation);
        }
    }
    if (u32_load(&port->wake_lost) && u32_exchange(&port->wake_lost, 0)) {
        u32_exchange(&port->wake_posted, 0);
        port->woken = true;
    }
    if (u32_load(&port->exits_lost)) port->exits += u32_exchange(&port->exits_lost, 0);
    return works;
}

static bool operation_serve(struct iocp_port *port, struct port_operation *operation, struct port_event *event) {
    memset(event, 0, sizeof *event);
    event->accepted = SOCKET_NONE;
    switch (operation->kind) {
    case OPERATION_RECEIVE: return receive_serve(port, CONTAINER_OF(operation, struct port_socket, receive), event);
    case OPERATION_SEND: return send_serve(port, CONTAINER_OF(operation, struct port_socket, send), event);
    case OPERATION_ACCEPT: return accept_serve(port, (struct accept_slot *)(void *)operation, event);
    case OPERATION_LISTENER: return listener_serve(port, CONTAINER_OF(operation, struct port_listener, accept), event);
    default: ASSERT(!"an operation of no kind"); return false;
    }
}

static void post_serve(struct port_event *event, enum port_event_kind kind) {
    memset(event, 0, sizeof *event);
    event->accepted = SOCKET_NONE;
    event->kind = kind;
    event->final = true;
}

static uint32_t serve(struct iocp_port *port, struct port_event *events, uint32_t capacity) {
    uint32_t count = 0;
    if (port->woken && count < capacity) {
        port->woken = false;
        u64_bump(&port->base.counters.wakes, 1);
        post_serve(&events[count++], PORT_WOKEN);
    }
    for (; port->exits > 0 && count < capacity; port->exits--) post_serve(&events[count++], PORT_EXIT);
    /* What joins the list meanwhile is for the next turn. */
    for (uint32_t turns = port->ready.count; turns > 0 && count < capacity; turns--)
        if (operation_serve(port, list_pop(&port->ready), &events[count])) count++;
    return count;
}

/* How long the kernel may keep us, at most until `until_ns`. */
static DWORD pause_ms(const struct iocp_port *port, int64_t now_ns, int64_t until_ns) {
    if (port->ready.count > 0 || port->woken || port->exits > 0) return 0;
    int64_t pause_ns = LOST_POST_MS * INT64_C(1000000);
    /* Starved while the pool says it has some: there was no memory to make them. */
    if (port->starved.count > 0 && buffer_available(port->base.pool) > 0) pause_ns = RETRY_MS * INT64_C(1000000);
    if (until_ns - now_ns < pause_ns) pause_ns = until_ns - now_ns;
    for (const struct accept_pool *pool = port->accept_pools; pool; pool = pool->next)
        if (pool->retry_at_ns && pool->retry_at_ns - now_ns < pause_ns) pause_ns = pool->retry_at_ns - now_ns;
    return pause_ns > 0 ? (DWORD)((pause_ns + 999999) / 1000000) : 0; /* up, or the last millisecond would spin */
}

static uint32_t iocp_port_wait(struct port *base, struct port_event *events, uint32_t capacity, int64_t timeout_ns) {
    struct iocp_port *port = iocp_port(base);
    port_assert_owner(base);
    int64_t now_ns = platform_monotonic_ns();
    int64_t until_ns = timeout_ns < 0 || timeout_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + timeout_ns;
    u64_bump(&base->counters.waits, 1);
    for (;;) {
        accept_retry(port, now_ns);
        receive_retry(port);
        if (!take_packets(port, pause_ms(port, now_ns, until_ns))) {
            Sleep(1);
            until_ns = 0;
        }
        uint32_t count = serve(port, events, capacity);
        if (count > 0) {
            u64_bump(&base->counters.events, count);
            return count;
        }
        now_ns = platform_monotonic_ns();
        if (now_ns >= until_ns) return 0;
    }
}

static void iocp_port_post(struct port *base, enum port_post what) {
    struct iocp_port *port = iocp_port(base);
    if (what == POST_EXIT) {
        if (!PostQueuedCompletionStatus(port->handle, 0, KEY_EXIT, NULL)) u32_add(&port->exits_lost, 1);
        return;
    }
    if (u32_exchange(&port->wake_posted, 1)) return;
    if (!PostQueuedCompletionStatus(port->handle, 0, KEY_WAKE, NULL)) u32_exchange(&port->wake_lost, 1);
}

const struct port_driver port_iocp = {
    .name = "iocp",
    .probe = iocp_port_probe,
    .open = iocp_port_open,
    .close = iocp_port_close,
    .attach = iocp_port_attach,
    .release = iocp_port_release,
    .accept = iocp_port_accept,
    .accept_cancel = iocp_port_accept_cancel,
    .receive = iocp_port_receive,
    .receive_cancel = iocp_port_receive_cancel,
    .send = iocp_port_send,
    .send_cancel = iocp_port_send_cancel,
    .wait = iocp_port_wait,
    .post = iocp_port_post,
};

#else

typedef int port_iocp_is_for_windows; /* a translation unit must hold something */

#endif
