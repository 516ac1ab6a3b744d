/* port_iocp.c: the completion port of Windows behind port.h. Accepts are in iocp_accept.c, receives in iocp_receive.c.
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
#include "iocp.h"

#ifdef _WIN32

/* ---- errors ----------------------------------------------------------------------------------------------------- */

enum port_error iocp_error(int32_t os_error) {
    switch ((uint32_t)os_error) {
    case 0: return PORT_OK;

    case 0xC0000120u: /* STATUS_CANCELLED */
    case ERROR_OPERATION_ABORTED: return PORT_CANCELLED;

    case 0xC000020Du: /* STATUS_CONNECTION_RESET */
    case 0xC000020Cu: /* STATUS_CONNECTION_DISCONNECTED */
    case 0xC000013Cu: /* STATUS_REMOTE_DISCONNECT */
    case 0xC000013Bu: /* STATUS_LOCAL_DISCONNECT: by the system; we never close under an operation */
    case 0xC000013Eu: /* STATUS_LINK_FAILED */
    case 0xC0000140u: /* STATUS_INVALID_CONNECTION: it was reset before it was accepted */
    case 0xC000023Au: /* STATUS_CONNECTION_INVALID */
    case 0xC00000C9u: /* STATUS_NETWORK_NAME_DELETED */
    case 0xC00000C4u: /* STATUS_UNEXPECTED_NETWORK_ERROR */
    case 0xC000023Fu: /* STATUS_PORT_UNREACHABLE */
    case ERROR_NETNAME_DELETED:
    case WSAECONNRESET: return PORT_RESET;

    case 0xC00000B5u:  /* STATUS_IO_TIMEOUT */
    case 0xC000013Fu:  /* STATUS_LINK_TIMEOUT */
    case 0xC000023Cu:  /* STATUS_NETWORK_UNREACHABLE */
    case 0xC000023Du:  /* STATUS_HOST_UNREACHABLE */
    case 0xC000A012u:  /* STATUS_HOPLIMIT_EXCEEDED */
    case WSAENETRESET: /* keepalive has found it dead */
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

    /* Also STATUS_CONNECTION_ABORTED and WSAECONNABORTED: this side's system gave it up, which is not the client's doing. */
    default: return PORT_FAILED;
    }
}

/* ---- life of a port --------------------------------------------------------------------------------------------- */

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
    ASSERT(base->pending == 0 && port->ready.count == 0 && port->starved.count == 0 && port->held == 0 && !port->accept_pools);
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
    socket->received_ns = 0;
    return 0;
}

static void iocp_port_release(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    ASSERT(!socket->receive.outstanding && !socket->send.outstanding && !socket->filling);
    platform_socket_close(socket->handle);
    socket->handle = SOCKET_NONE;
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
    event->error = iocp_error(socket->send.os_error);
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
            if (operation->state == STATE_HOLDING) receive_held_end(port, CONTAINER_OF(operation, struct port_socket, receive));
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
        int64_t give_back_ns = receive_give_back(port, now_ns);
        if (!take_packets(port, pause_ms(port, now_ns, give_back_ns < until_ns ? give_back_ns : until_ns))) {
            Sleep(1);
            until_ns = 0;
        }
        port->now_ns = platform_monotonic_ns();
        uint32_t count = serve(port, events, capacity);
        if (count > 0) {
            u64_bump(&base->counters.events, count);
            return count;
        }
        now_ns = port->now_ns;
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
