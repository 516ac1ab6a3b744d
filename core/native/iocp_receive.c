/* iocp_receive.c: receiving with WSARecv.
 *
 * A receive pins its buffer while it pends. A thousand idle connections would pin a thousand buffers. A WSARecv of
 * zero bytes pins nothing and ends when there is something to read: data, end of file or an error. Only then is a
 * buffer taken, and a second WSARecv fills it, nearly always at once. Then zero bytes again, even if the buffer came
 * back full: if there is more, that call ends at once, and if there isn't, no buffer is held. A receive is always
 * pending on an open connection; it is what tells a reset from an end of file.
 *
 * That is two calls for each message. A connection that sends often is spared one of them: when bytes come within
 * HOLD_MS of the last, the next WSARecv gets its buffer at once and holds it while it pends. Half of the pool may be held like
 * that. What nothing has come into for HOLD_MS is asked for again with CancelIoEx, and the connection waits with
 * zero bytes; so is the oldest when another connection finds the pool empty. A cancelled WSARecv has taken bytes or
 * has not; either way its packet says so, and nothing is lost.
 */
#include "iocp.h"

#ifdef _WIN32

enum { HOLD_MS = 1000 };

/* ---- buffers that are held ----------------------------------------------------------------------------------------- */

static void held_begin(struct iocp_port *port, struct port_socket *socket) {
    socket->older = port->newest;
    socket->newer = NULL;
    if (port->newest) port->newest->newer = socket;
    else port->oldest = socket;
    port->newest = socket;
    port->held++;
}

void receive_held_end(struct iocp_port *port, struct port_socket *socket) {
    if (socket->older) socket->older->newer = socket->newer;
    else port->oldest = socket->newer;
    if (socket->newer) socket->newer->older = socket->older;
    else port->newest = socket->older;
    port->held--;
    socket->receive.state = STATE_FILLING;
}

static void held_ask_back(struct iocp_port *port) {
    struct port_socket *socket = port->oldest;
    receive_held_end(port, socket);
    socket->receive.flags |= FLAG_GIVE_BACK;
    CancelIoEx((HANDLE)socket->handle, &socket->receive.overlapped); /* whatever it returns, the outcome will come */
}

int64_t receive_give_back(struct iocp_port *port, int64_t now_ns) {
    for (; port->oldest; held_ask_back(port)) {
        int64_t due_ns = port->oldest->received_ns + HOLD_MS * INT64_C(1000000);
        if (now_ns < due_ns) return due_ns;
    }
    return INT64_MAX;
}

/* ---- calls -------------------------------------------------------------------------------------------------------- */

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

static bool receive_into_buffer(struct port_socket *socket, uint8_t state) {
    port_slice into;
    port_slice_set(&into, socket->filling->memory, socket->filling->pool->buffer_bytes);
    return receive_start(socket, state, &into);
}

static bool receive_fill(struct iocp_port *port, struct port_socket *socket) {
    socket->filling = buffer_take(port->base.pool);
    if (!socket->filling) {
        socket->receive.state = STATE_STARVED;
        list_push(&port->starved, &socket->receive);
        u64_bump(&port->base.counters.starved, 1);
        if (port->oldest) held_ask_back(port);
        return false;
    }
    return receive_into_buffer(socket, STATE_FILLING);
}

/* After bytes. */
static bool receive_again(struct iocp_port *port, struct port_socket *socket) {
    struct buffer_pool *pool = port->base.pool;
    bool often = port->now_ns - socket->received_ns < HOLD_MS * INT64_C(1000000);
    socket->received_ns = port->now_ns;
    if (!often || port->held >= pool->limit / 2 || buffer_available(pool) < pool->limit / 2) return receive_watch(socket);
    socket->filling = buffer_take(pool);
    if (!socket->filling) return receive_watch(socket);
    if (receive_into_buffer(socket, STATE_HOLDING)) return true;
    held_begin(port, socket);
    return false;
}

void receive_retry(struct iocp_port *port) {
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

int iocp_port_receive(struct port *base, struct port_socket *socket) {
    struct iocp_port *port = iocp_port(base);
    port_assert_owner(base);
    operation_begin(port, &socket->receive, OPERATION_RECEIVE);
    if (receive_watch(socket)) list_push(&port->ready, &socket->receive);
    return 0;
}

void iocp_port_receive_cancel(struct port *base, struct port_socket *socket) {
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

bool receive_serve(struct iocp_port *port, struct port_socket *socket, struct port_event *event) {
    struct port_operation *operation = &socket->receive;
    bool cancelled = (operation->flags & FLAG_CANCELLED) != 0, gave_back = (operation->flags & FLAG_GIVE_BACK) != 0;
    operation->flags &= (uint8_t)~FLAG_GIVE_BACK;
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
        } else if (receive_again(port, socket)) {
            list_push(&port->ready, operation);
        }
        return true;
    }

    if (buffer) buffer_free(buffer);
    if (gave_back && !cancelled && iocp_error(operation->os_error) == PORT_CANCELLED) {
        if (receive_watch(socket)) list_push(&port->ready, operation);
        return false;
    }
    bool filled = operation->state == STATE_FILLING || operation->state == STATE_HOLDING;
    bool end_of_file = filled && operation->os_error == 0;
    event->os_error = operation->os_error;
    event->error = iocp_error(operation->os_error);
    if (event->error == PORT_OK && !end_of_file) event->error = PORT_CANCELLED;
    event->final = true;
    operation_end(port, operation);
    return true;
}

#endif
