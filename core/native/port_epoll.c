/* port_epoll.c: a completion port made of epoll, for Linux where io_uring is not allowed.
 *
 * epoll tells that something can be done; a completion port tells that it was done. So this driver keeps the operations that
 * are outstanding and performs them itself, inside `wait`:
 *
 *  - Each socket is registered once, edge-triggered for both directions; what the edges said is remembered in its flags, so
 *    arming an operation costs no system call.
 *  - A receive that is outstanding lies in the list `readable` while its socket may have data. `wait` reads a bounded number
 *    of buffers from each and puts it back at the end, so one busy socket starves nobody.
 *  - A send is tried at once, because it nearly always fits; its result still comes with the next `wait` (list `ready`).
 *    If the socket is full, the send is BLOCKED until the edge for writing.
 *  - A cancel is local: the operation goes to `ready` with its final event.
 *  - A listener is level-triggered, since what is left in its backlog must be told again. Out of handles, it is taken off
 *    epoll and tried again after ACCEPT_RETRY_NS; otherwise it would spin.
 *
 * Only operations that are outstanding lie in lists, and `release` asserts that none is, so no list ever holds a dead socket.
 */
#include "port.h"

#ifdef __linux__

#include "port_linux.h"

#include <sys/epoll.h>

enum {
    RECEIVES_PER_WAIT = 8, /* buffers from one socket in one batch */
    BUFFERS_PER_WAIT = 64, /* from all sockets: an echo holds them until the next wait tells that they were sent */
    EPOLL_BATCH = 512,
};

/* port_operation.state */
enum {
    IDLE,
    WAITING,  /* for an edge */
    READABLE, /* receive: in the list readable */
    STARVED,  /* receive: in the list starved, until buffers are back */
    WRITABLE, /* send: in the list writable */
    FINISHED, /* in the list ready, with its final event */
};

/* port_socket.flags: what the edges said last, and whether the last receive filled a buffer */
enum { CAN_READ = 1, PEER_SHUT = 2, FILLS = 4 };

struct epoll_port {
    struct port base;
    int epoll;
    struct linux_wake wake;
    struct operation_list ready, readable, writable, starved;
    struct linux_listeners listeners;
};

static struct epoll_port *epoll_port(struct port *port) { return (struct epoll_port *)port; }

/* The address of the per-socket data or, marked by its lowest bit, of a listener; 0 is the wake. */
static uint64_t key_of_listener(struct port_listener *listener) { return (uint64_t)(uintptr_t)listener | 1; }

static int epoll_port_open(struct port **out, const struct port_options *options, const char **step) {
    struct epoll_port *port = memory_new(sizeof *port);
    *step = "memory";
    if (!port) return ENOMEM;
    port->base.driver = &port_epoll;
    port->base.owner = platform_thread_id();
    port->base.pool = options->pool;
    int error;
    *step = "epoll_create1";
    port->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (port->epoll < 0) {
        error = errno;
        goto no_epoll;
    }
    *step = "eventfd";
    error = linux_wake_open(&port->wake);
    if (error) goto no_wake;
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = 0};
    *step = "epoll_ctl";
    if (epoll_ctl(port->epoll, EPOLL_CTL_ADD, port->wake.handle, &wake)) {
        error = errno;
        goto no_registration;
    }
    *out = &port->base;
    return 0;

no_registration:
    linux_wake_close(&port->wake);
no_wake:
    close(port->epoll);
no_epoll:
    memory_free(port);
    return error;
}

static void epoll_port_close(struct port *base) {
    struct epoll_port *port = epoll_port(base);
    ASSERT(base->pending == 0);
    linux_wake_close(&port->wake);
    close(port->epoll);
    memory_free(port);
}

static int epoll_port_probe(const char **step) {
    *step = "epoll_create1";
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) return errno;
    close(epoll);
    return 0;
}

static int epoll_port_attach(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    socket->flags = 0;
    struct epoll_event both = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = socket};
    return epoll_ctl(epoll_port(base)->epoll, EPOLL_CTL_ADD, socket->handle, &both) ? errno : 0;
}

static void epoll_port_release(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    ASSERT(!socket->receive.outstanding && !socket->send.outstanding);
    close(socket->handle); /* and with the last descriptor it leaves the epoll set */
    socket->handle = SOCKET_NONE;
}

/* The final event comes with the next wait. */
static void finish(struct epoll_port *port, struct port_operation *operation, int os_error, uint32_t bytes) {
    operation->state = FINISHED;
    operation->os_error = os_error;
    operation->bytes = bytes;
    list_push(&port->ready, operation);
}

/* ---- receive -------------------------------------------------------------------------------------------------------- */

static int epoll_port_receive(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct epoll_port *port = epoll_port(base);
    port_begin(base, &socket->receive);
    socket->receive.kind = OPERATION_RECEIVE;
    socket->receive.flags = 0;
    if (socket->flags & CAN_READ) {
        socket->receive.state = READABLE;
        list_push(&port->readable, &socket->receive);
    } else {
        socket->receive.state = WAITING;
    }
    return 0;
}

static void epoll_port_receive_cancel(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct epoll_port *port = epoll_port(base);
    struct port_operation *receive = &socket->receive;
    if (!receive->outstanding || receive->state == FINISHED) return;
    receive->flags |= OPERATION_CANCEL;
    if (receive->state == WAITING) finish(port, receive, ECANCELED, 0);
    /* READABLE: `wait` comes to it next. STARVED: it must not wait for a buffer that it no longer needs. */
    if (receive->state == STARVED) list_move(&port->readable, &port->starved, READABLE);
}

/* The last event: of an end, an error or a cancel. */
static uint32_t receive_end(struct epoll_port *port, struct port_socket *socket, struct port_event *event, enum port_error error,
                            int os_error) {
    socket->receive.state = IDLE;
    port_end(&port->base, &socket->receive);
    *event = (struct port_event){.kind = PORT_RECEIVED, .final = true, .error = error, .os_error = os_error, .socket = socket};
    return 1;
}

/* The first `bytes` of these buffers are filled: an event for each that has some, and the others go back. */
static uint32_t receive_filled(struct port_socket *socket, struct buffer **buffers, uint32_t taken, uint32_t bytes,
                               struct port_event *events) {
    uint32_t count = 0;
    for (; bytes > 0; count++) {
        struct buffer *buffer = buffers[count];
        buffer->bytes = bytes < buffer->pool->buffer_bytes ? bytes : buffer->pool->buffer_bytes;
        bytes -= buffer->bytes;
        events[count] = (struct port_event){.kind = PORT_RECEIVED, .socket = socket, .buffer = buffer, .bytes = buffer->bytes};
    }
    while (taken > count) buffer_free(buffers[--taken]);
    return count;
}

/* One call, for one buffer or, where the last one was filled, for as many as there is room for. *more: the socket may have more.
 */
static uint32_t receive_once(struct epoll_port *port, struct port_socket *socket, struct port_event *events, uint32_t room,
                             bool *more) {
    struct port_operation *receive = &socket->receive;
    struct buffer_pool *pool = port->base.pool;
    struct buffer *buffers[RECEIVES_PER_WAIT];
    struct iovec pieces[RECEIVES_PER_WAIT];
    uint32_t wanted = socket->flags & FILLS ? room : 1, taken = 0;
    *more = false;
    if (receive->flags & OPERATION_CANCEL) return receive_end(port, socket, events, PORT_CANCELLED, 0);
    for (; taken < wanted && (buffers[taken] = buffer_take(pool)); taken++)
        pieces[taken] = (struct iovec){buffers[taken]->memory, pool->buffer_bytes};
    if (!taken) {
        u64_bump(&port->base.counters.starved, 1);
        receive->state = STARVED;
        list_push(&port->starved, receive);
        return 0;
    }
    ssize_t bytes;
    do
        bytes =
            taken == 1 ? recv(socket->handle, pieces->iov_base, pieces->iov_len, 0) : readv(socket->handle, pieces, (int)taken);
    while (bytes < 0 && errno == EINTR);
    int error = bytes < 0 ? errno : 0;
    uint32_t count = receive_filled(socket, buffers, taken, bytes > 0 ? (uint32_t)bytes : 0, events);
    if (bytes == 0 || (error && error != EAGAIN))
        return receive_end(port, socket, events, error ? linux_port_error(error) : PORT_OK, error);
    bool filled = count == taken && count > 0 && events[count - 1].bytes == pool->buffer_bytes;
    if (filled || count > 1) socket->flags |= FILLS;
    else socket->flags &= ~(uint32_t)FILLS;
    /* A short read has emptied a stream socket (epoll(7)); but an end of file behind it makes no edge of its own. */
    *more = filled || (bytes > 0 && socket->flags & PEER_SHUT);
    if (*more) return count;
    socket->flags &= ~(uint32_t)CAN_READ;
    receive->state = WAITING;
    return count;
}

static uint32_t receive_all(struct epoll_port *port, struct port_event *events, uint32_t capacity) {
    uint32_t count = 0;
    /* Those that were there at the start, each once: what a socket has beyond its share waits for the next batch. */
    for (uint32_t left = port->readable.count; left > 0 && count < capacity; left--) {
        struct port_operation *receive = list_pop(&port->readable);
        struct port_socket *socket = CONTAINER_OF(receive, struct port_socket, receive);
        uint32_t until = capacity - count < RECEIVES_PER_WAIT ? capacity : count + RECEIVES_PER_WAIT;
        bool more = true;
        while (more && count < until) count += receive_once(port, socket, events + count, until - count, &more);
        if (more) list_push(&port->readable, receive);
    }
    return count;
}

/* ---- send ----------------------------------------------------------------------------------------------------------- */

/* The plain call for one piece: the kernel then copies no header and no list. */
static ssize_t send_slices(const struct port_socket *socket) {
    if (socket->slice_count == 1) return send(socket->handle, socket->slices->iov_base, socket->slices->iov_len, MSG_NOSIGNAL);
    struct msghdr message = {.msg_iov = (struct iovec *)socket->slices, .msg_iovlen = socket->slice_count};
    return sendmsg(socket->handle, &message, MSG_NOSIGNAL);
}

static void send_once(struct epoll_port *port, struct port_socket *socket) {
    struct port_operation *send = &socket->send;
    if (send->flags & OPERATION_CANCEL) {
        finish(port, send, ECANCELED, 0);
        return;
    }
    ssize_t bytes;
    do bytes = send_slices(socket);
    while (bytes < 0 && errno == EINTR);
    if (bytes >= 0) {
        finish(port, send, 0, (uint32_t)bytes);
    } else if (errno == EAGAIN) {
        send->state = WAITING;
    } else {
        finish(port, send, errno, 0);
    }
}

static int epoll_port_send(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    port_begin(base, &socket->send);
    socket->send.kind = OPERATION_SEND;
    socket->send.flags = 0;
    send_once(epoll_port(base), socket);
    return 0;
}

static void epoll_port_send_cancel(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct port_operation *send = &socket->send;
    if (!send->outstanding || send->state == FINISHED) return;
    send->flags |= OPERATION_CANCEL; /* WRITABLE: `wait` comes to it next */
    if (send->state == WAITING) finish(epoll_port(base), send, ECANCELED, 0);
}

/* ---- accept --------------------------------------------------------------------------------------------------------- */

static int epoll_port_accept(struct port *base, struct port_listener *listener) {
    port_assert_owner(base);
    struct epoll_event incoming = {.events = EPOLLIN, .data.u64 = key_of_listener(listener)};
    if (epoll_ctl(epoll_port(base)->epoll, EPOLL_CTL_ADD, listener->handle, &incoming)) return errno;
    port_begin(base, &listener->accept);
    listener->accept.kind = OPERATION_ACCEPT;
    listener->accept.state = WAITING;
    listener->driver_data = NULL;
    return 0;
}

static void epoll_port_accept_cancel(struct port *base, struct port_listener *listener) {
    port_assert_owner(base);
    struct epoll_port *port = epoll_port(base);
    if (!listener->accept.outstanding || listener->accept.state == FINISHED) return;
    listeners_remove(&port->listeners, listener);
    epoll_ctl(port->epoll, EPOLL_CTL_DEL, listener->handle, NULL);
    finish(port, &listener->accept, ECANCELED, 0);
}

static void listener_watch(struct epoll_port *port, struct port_listener *listener, uint32_t what) {
    struct epoll_event event = {.events = what, .data.u64 = key_of_listener(listener)};
    epoll_ctl(port->epoll, EPOLL_CTL_MOD, listener->handle, &event);
}

static uint32_t accept_some(struct epoll_port *port, struct port_listener *listener, struct port_event *events,
                            uint32_t capacity) {
    uint32_t count = 0;
    while (count < capacity) {
        int handle = accept4(listener->handle, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        int error = handle < 0 ? errno : 0;
        if (error == EAGAIN || error == EWOULDBLOCK) break;
        if (error == EINTR) continue;
        linux_accepted(&events[count], listener, handle, error);
        if (events[count].error == PORT_NO_RESOURCES) {
            listener_watch(port, listener, 0);
            listeners_retry(&port->listeners, listener);
            u64_bump(&port->base.counters.accept_errors, 1);
            return count + 1;
        }
        count++;
    }
    return count;
}

/* ---- wait ----------------------------------------------------------------------------------------------------------- */

static uint32_t deliver_ready(struct epoll_port *port, struct port_event *events, uint32_t capacity) {
    uint32_t count = 0;
    while (count < capacity && port->ready.first) {
        struct port_operation *operation = list_pop(&port->ready);
        operation->state = IDLE;
        port_end(&port->base, operation);
        linux_final_event(&events[count++], operation);
    }
    return count;
}

static void socket_edge(struct epoll_port *port, struct port_socket *socket, uint32_t what) {
    if (what & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        socket->flags |= CAN_READ;
        if (what & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) socket->flags |= PEER_SHUT;
        if (socket->receive.outstanding && socket->receive.state == WAITING) {
            socket->receive.state = READABLE;
            list_push(&port->readable, &socket->receive);
        }
    }
    if (what & (EPOLLOUT | EPOLLHUP | EPOLLERR) && socket->send.outstanding && socket->send.state == WAITING) {
        socket->send.state = WRITABLE;
        list_push(&port->writable, &socket->send);
    }
}

static uint32_t epoll_port_wait(struct port *base, struct port_event *events, uint32_t capacity, int64_t timeout_ns) {
    port_assert_owner(base);
    struct epoll_port *port = epoll_port(base);
    u64_bump(&base->counters.waits, 1);

    /* Half of the batch at most for what was finished at once, so that what the kernel says always gets a share. */
    uint32_t count = deliver_ready(port, events, capacity / 2);
    for (struct port_listener *listener; (listener = listeners_due(&port->listeners));) listener_watch(port, listener, EPOLLIN);
    if (port->starved.first && buffer_available(base->pool)) list_move(&port->readable, &port->starved, READABLE);
    if (count || port->ready.first || port->readable.first) timeout_ns = 0;
    timeout_ns = listeners_timeout(&port->listeners, timeout_ns);

    struct epoll_event told[EPOLL_BATCH];
    int timeout_ms = timeout_ns < 0 ? -1 : (int)((timeout_ns + 999999) / 1000000);
    int told_count = epoll_wait(port->epoll, told, EPOLL_BATCH, timeout_ms);
    for (int i = 0; i < told_count; i++) {
        uint64_t key = told[i].data.u64;
        if (key == 0) {
            count += linux_wake_take(&port->wake, events + count, capacity - count);
        } else if (key & 1) {
            struct port_listener *listener = (struct port_listener *)(uintptr_t)(key & ~(uint64_t)1);
            uint32_t share = (capacity - count) / 2; /* the rest is told again */
            if (share > PORT_ACCEPTS_MAX) share = PORT_ACCEPTS_MAX;
            if (listener->accept.state == WAITING) count += accept_some(port, listener, events + count, share);
        } else {
            socket_edge(port, told[i].data.ptr, told[i].events);
        }
    }
    for (struct port_operation *send; (send = list_pop(&port->writable));)
        send_once(port, CONTAINER_OF(send, struct port_socket, send));
    uint32_t room = capacity - count;
    count += receive_all(port, events + count, room < BUFFERS_PER_WAIT ? room : BUFFERS_PER_WAIT);
    u64_bump(&base->counters.events, count);
    return count;
}

static void epoll_port_post(struct port *base, enum port_post what) { linux_wake_post(&epoll_port(base)->wake, what); }

const struct port_driver port_epoll = {
    .name = "epoll",
    .probe = epoll_port_probe,
    .open = epoll_port_open,
    .close = epoll_port_close,
    .attach = epoll_port_attach,
    .release = epoll_port_release,
    .accept = epoll_port_accept,
    .accept_cancel = epoll_port_accept_cancel,
    .receive = epoll_port_receive,
    .receive_cancel = epoll_port_receive_cancel,
    .send = epoll_port_send,
    .send_cancel = epoll_port_send_cancel,
    .wait = epoll_port_wait,
    .post = epoll_port_post,
};

#else
typedef int port_epoll_is_for_linux; /* a translation unit must not be empty */
#endif
