/* iocp_accept.c: accepting with AcceptEx.
 *
 * AcceptEx takes a socket that we must make beforehand. When it asks for data as well, a silent client occupies it;
 * we ask for none. When no AcceptEx is posted, clients wait in the backlog, so a pool of them is, and each is posted
 * anew before its connection is handed on. An accepted socket is half a socket until SO_UPDATE_ACCEPT_CONTEXT:
 * getpeername and shutdown fail without it. When one client has gone, its AcceptEx fails, which says nothing of the
 * next: post again at once. When there is no handle or no memory, posting again at once would spin: the slot stays
 * empty for 100 ms.
 */
#include "iocp.h"

#ifdef _WIN32

static int extension(socket_t handle, GUID id, void *function, DWORD function_bytes) {
    DWORD bytes;
    return WSAIoctl(handle, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof id, function, function_bytes, &bytes, NULL, NULL)
               ? WSAGetLastError()
               : 0;
}

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
    for (int again = 1; iocp_error(error) == PORT_RESET && again < PORT_ACCEPTS_MAX; again++) {
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

void accept_retry(struct iocp_port *port, int64_t now_ns) {
    for (struct accept_pool *pool = port->accept_pools; pool; pool = pool->next) {
        if (pool->retry_at_ns == 0 || now_ns < pool->retry_at_ns) continue;
        pool->retry_at_ns = 0;
        int error = accept_fill(port, pool);
        if (error) accept_back_off(port, pool, error);
    }
}

int iocp_port_accept(struct port *base, struct port_listener *listener) {
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

void iocp_port_accept_cancel(struct port *base, struct port_listener *listener) {
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
    if (iocp_error(os_error) != PORT_NO_RESOURCES) os_error = accept_post(port, slot);
    if (os_error) accept_back_off(port, pool, os_error);
}

bool accept_serve(struct iocp_port *port, struct accept_slot *slot, struct port_event *event) {
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

    event->kind = PORT_ACCEPTED;
    event->listener = listener;
    if (os_error == 0 &&
        (setsockopt(accepted, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (const char *)&listener->handle, sizeof listener->handle) ||
         platform_socket_no_delay(accepted)))
        os_error = WSAECONNRESET; /* whichever error: it was accepted, and is nobody's any more */
    if (os_error) {
        platform_socket_close(accepted);
        event->os_error = os_error;
        event->error = iocp_error(os_error);
        if (event->error == PORT_CANCELLED) return false;
        u64_bump(&port->base.counters.accept_errors, 1);
        return event->error != PORT_NO_RESOURCES; /* of which the listener tells */
    }
    event->accepted = accepted;
    return true;
}

bool listener_serve(struct iocp_port *port, struct port_listener *listener, struct port_event *event) {
    struct accept_pool *pool = listener->driver_data;
    listener->accept.flags &= (uint8_t)~FLAG_QUEUED;
    event->kind = PORT_ACCEPTED;
    event->listener = listener;
    event->os_error = listener->accept.os_error;
    if (!(listener->accept.flags & FLAG_CANCELLED)) {
        event->error = iocp_error(event->os_error);
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

#endif
