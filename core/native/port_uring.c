/* port_uring.c: a completion port made of io_uring.
 *
 * The ring belongs to the worker that opens it (SINGLE_ISSUER), and completions are only worked off when that worker asks for
 * them (DEFER_TASKRUN), so the kernel never interrupts it. One system call a turn submits everything and takes everything.
 *
 * A receive buffer's life:
 *   1. `refill` takes it from the pool and puts it into the ring of provided buffers; its index in the pool is its id.
 *   2. A multishot receive of any socket takes it; the completion names its id.
 *   3. It goes to the engine with the event; what follows stands in buffer.h. Freed, it is on top of the pool again.
 * When the ring runs dry, the kernel ends receives with ENOBUFS. They are not over for the engine: the operation waits in the
 * list `starved` and is armed again when buffers are back. Nothing is lost, the bytes are in the socket.
 *
 * user_data is the address of the operation with its kind in the lowest bits. An operation lives until its final completion,
 * so a late completion can't hit somebody else's. What was closed stays armed in io_uring (liburing #568): that is why
 * `release` insists that nothing is outstanding.
 */
#include "port.h"

#if defined(__linux__) && defined(__has_include)
#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif
#endif

/* Headers older than Linux 6.1 lack what this driver is made of; the program then has epoll alone. */
#if defined(IORING_SETUP_DEFER_TASKRUN) && defined(IORING_RECV_MULTISHOT)
#define HAVE_URING 1

#include "port_linux.h"

#include <fcntl.h>
#include <linux/time_types.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum {
    SQ_ENTRIES = 1024,
    CQ_ENTRIES = 8 * SQ_ENTRIES, /* a full submission queue of multishot receives may answer many times */
    RING_ENTRIES = 4096,         /* provided buffers: how many the ring can hold */
    RING_FIRST = 64,             /* and how many it holds at first, and how many more each time it runs dry */
    GROUP = 0,
};

/* user_data: the lowest bits */
enum { TAG_NOTHING, TAG_WAKE, TAG_ACCEPT, TAG_RECEIVE, TAG_SEND, TAG_MASK = 7 };

enum { CANCEL_WAITS = 2 }; /* port_operation.flags: it is in the list cancels */

/* port_operation.state */
enum {
    IDLE,
    ARMED,    /* the kernel has it */
    STARVED,  /* receive: in the list starved */
    PAUSED,   /* accept: out of handles, in `listeners` */
    FINISHED, /* in the list ready, with its final event */
};

struct uring_port {
    struct port base;
    int ring;
    int enter; /* the ring's registered index, or the ring */
    uint32_t enter_flags;
    uint32_t *sq_head, *sq_tail, *sq_flags, *cq_head, *cq_tail, *cq_overflow;
    uint32_t sq_mask, cq_mask;
    uint32_t tail; /* of what is prepared; *sq_tail is what the kernel may see */
    uint32_t submitted;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    void *rings;
    size_t rings_bytes, sqes_bytes;
    struct io_uring_buf_ring *buffers;
    uint16_t buffers_tail;
    uint32_t provided, provide; /* in the ring; how many shall be */
    struct operation_list ready, starved, cancels;
    struct linux_listeners listeners;
    struct linux_wake wake;
    bool wake_armed;
};

static struct uring_port *uring_port(struct port *port) { return (struct uring_port *)port; }

/* ---- the ring ------------------------------------------------------------------------------------------------------- */

static int ring_enter(struct uring_port *port, uint32_t minimum, int64_t timeout_ns) {
    uint32_t count = port->tail - port->submitted;
    u32_store_release(port->sq_tail, port->tail);
    struct __kernel_timespec until = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    struct io_uring_getevents_arg argument = {.ts = timeout_ns > 0 ? (uint64_t)(uintptr_t)&until : 0};
    long result = syscall(__NR_io_uring_enter, port->enter, count, minimum,
                          IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG | port->enter_flags, &argument, sizeof argument);
    int error = result < 0 ? errno : 0;
    /* What the kernel took off the queue is submitted, also when the wait behind it failed or ran out of time. */
    port->submitted = u32_load_acquire(port->sq_head);
    return error;
}

/* A zeroed entry, or NULL when the queue is full and the kernel takes nothing (no memory). */
static struct io_uring_sqe *ring_entry(struct uring_port *port) {
    if (port->tail - port->submitted > port->sq_mask) {
        ring_enter(port, 0, 0);
        if (port->tail - port->submitted > port->sq_mask) return NULL;
    }
    struct io_uring_sqe *entry = &port->sqes[port->tail++ & port->sq_mask];
    memset(entry, 0, sizeof *entry);
    return entry;
}

static int ring_open(struct uring_port *port, const char **step) {
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
                 IORING_SETUP_SUBMIT_ALL,
        .cq_entries = CQ_ENTRIES,
    };
    *step = "io_uring_setup";
    port->ring = (int)syscall(__NR_io_uring_setup, SQ_ENTRIES, &parameters);
    if (port->ring < 0) return errno;
    const uint32_t needed =
        IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_EXT_ARG | IORING_FEAT_FAST_POLL;
    *step = "io_uring_setup: features";
    if ((parameters.features & needed) != needed) return ENOSYS;

    size_t sq_bytes = parameters.sq_off.array + parameters.sq_entries * sizeof(uint32_t);
    size_t cq_bytes = parameters.cq_off.cqes + parameters.cq_entries * sizeof(struct io_uring_cqe);
    port->rings_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
    port->sqes_bytes = parameters.sq_entries * sizeof(struct io_uring_sqe);
    *step = "mmap of the rings";
    port->rings =
        mmap(NULL, port->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, port->ring, IORING_OFF_SQ_RING);
    if (port->rings == MAP_FAILED) return port->rings = NULL, errno;
    void *sqes = mmap(NULL, port->sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, port->ring, IORING_OFF_SQES);
    if (sqes == MAP_FAILED) return errno;
    port->sqes = sqes;

    uint8_t *base = port->rings;
    port->sq_head = (uint32_t *)(void *)(base + parameters.sq_off.head);
    port->sq_tail = (uint32_t *)(void *)(base + parameters.sq_off.tail);
    port->sq_flags = (uint32_t *)(void *)(base + parameters.sq_off.flags);
    port->sq_mask = parameters.sq_entries - 1;
    port->cq_head = (uint32_t *)(void *)(base + parameters.cq_off.head);
    port->cq_tail = (uint32_t *)(void *)(base + parameters.cq_off.tail);
    port->cq_overflow = (uint32_t *)(void *)(base + parameters.cq_off.overflow);
    port->cq_mask = parameters.cq_entries - 1;
    port->cqes = (struct io_uring_cqe *)(void *)(base + parameters.cq_off.cqes);
    uint32_t *array = (uint32_t *)(void *)(base + parameters.sq_off.array);
    for (uint32_t i = 0; i < parameters.sq_entries; i++) array[i] = i;

    /* A registered ring saves the kernel a look-up of the descriptor in each call. It is an extra: older kernels lack it. */
    port->enter = port->ring;
    struct io_uring_rsrc_update self = {.offset = (uint32_t)-1, .data = (uint64_t)port->ring};
    if (syscall(__NR_io_uring_register, port->ring, IORING_REGISTER_RING_FDS, &self, 1) == 1) {
        port->enter = (int)self.offset;
        port->enter_flags = IORING_ENTER_REGISTERED_RING;
    }
    return 0;
}

static int ring_provide_open(struct uring_port *port, const char **step) {
    *step = "mmap of the buffer ring";
    size_t bytes = RING_ENTRIES * sizeof(struct io_uring_buf);
    void *ring = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED) return errno;
    port->buffers = ring;
    struct io_uring_buf_reg registration = {.ring_addr = (uint64_t)(uintptr_t)ring, .ring_entries = RING_ENTRIES, .bgid = GROUP};
    *step = "io_uring_register of the buffer ring";
    if (syscall(__NR_io_uring_register, port->ring, IORING_REGISTER_PBUF_RING, &registration, 1)) return errno;
    port->provide = RING_FIRST;
    return 0;
}

static void refill(struct uring_port *port) {
    uint16_t tail = port->buffers_tail;
    while (port->provided < port->provide) {
        struct buffer *buffer = buffer_take(port->base.pool);
        if (!buffer) break;
        /* Field by field: the ring's tail overlays the reserved field of the first entry. */
        struct io_uring_buf *entry = &port->buffers->bufs[tail++ & (RING_ENTRIES - 1)];
        entry->addr = (uint64_t)(uintptr_t)buffer->memory;
        entry->len = port->base.pool->buffer_bytes;
        entry->bid = (uint16_t)buffer->index;
        port->provided++;
    }
    if (tail == port->buffers_tail) return;
    port->buffers_tail = tail;
    /* Release: the kernel must see the entries before the tail that covers them. */
    __atomic_store_n(&port->buffers->tail, tail, __ATOMIC_RELEASE);
}

/* Those that the ring still holds; only when the kernel is done with it. */
static void ring_take_back(struct uring_port *port) {
    for (uint32_t i = 1; i <= port->provided; i++) {
        uint16_t at = (uint16_t)(port->buffers_tail - i);
        buffer_free(buffer_at(port->base.pool, port->buffers->bufs[at & (RING_ENTRIES - 1)].bid));
    }
    port->provided = 0;
}

static void uring_port_close(struct port *base) {
    struct uring_port *port = uring_port(base);
    ASSERT(base->pending == 0);
    if (port->enter_flags && base->owner == platform_thread_id()) { /* a thread's end does this, a probe's caller lives on */
        struct io_uring_rsrc_update self = {.offset = (uint32_t)port->enter};
        syscall(__NR_io_uring_register, port->ring, IORING_UNREGISTER_RING_FDS, &self, 1);
    }
    linux_wake_close(&port->wake);
    if (port->ring >= 0) close(port->ring);
    if (port->buffers) {
        ring_take_back(port);
        munmap(port->buffers, RING_ENTRIES * sizeof(struct io_uring_buf));
    }
    if (port->sqes) munmap(port->sqes, port->sqes_bytes);
    if (port->rings) munmap(port->rings, port->rings_bytes);
    memory_free(port);
}

static int uring_port_open(struct port **out, const struct port_options *options, const char **step) {
    struct uring_port *port = memory_new(sizeof *port);
    *step = "memory";
    if (!port) return ENOMEM;
    port->base.driver = &port_uring;
    port->base.owner = platform_thread_id();
    port->base.pool = options->pool;
    port->ring = -1;
    *step = "eventfd";
    int error = linux_wake_open(&port->wake);
    if (!error) error = ring_open(port, step);
    if (!error) error = ring_provide_open(port, step);
    if (error) {
        uring_port_close(&port->base);
        return error;
    }
    refill(port);
    *out = &port->base;
    return 0;
}

/* ---- submits -------------------------------------------------------------------------------------------------------- */

static uint64_t tagged(struct port_operation *operation, uint32_t tag) { return (uint64_t)(uintptr_t)operation | tag; }

static int uring_port_attach(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    socket->flags = 0;
    return 0;
}

static void uring_port_release(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    ASSERT(!socket->receive.outstanding && !socket->send.outstanding);
    close(socket->handle);
    socket->handle = SOCKET_NONE;
}

static bool receive_arm(struct uring_port *port, struct port_socket *socket) {
    struct io_uring_sqe *entry = ring_entry(port);
    if (!entry) return false;
    entry->opcode = IORING_OP_RECV;
    entry->fd = socket->handle;
    entry->ioprio = IORING_RECV_MULTISHOT;
    entry->flags = IOSQE_BUFFER_SELECT;
    entry->buf_group = GROUP;
    entry->user_data = tagged(&socket->receive, TAG_RECEIVE);
    socket->receive.state = ARMED;
    return true;
}

static int uring_port_receive(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    if (!receive_arm(uring_port(base), socket)) return ENOMEM;
    port_begin(base, &socket->receive);
    socket->receive.kind = OPERATION_RECEIVE;
    socket->receive.flags = 0;
    return 0;
}

static int uring_port_send(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    struct io_uring_sqe *entry = ring_entry(uring_port(base));
    if (!entry) return ENOMEM;
    entry->fd = socket->handle;
    entry->msg_flags = MSG_NOSIGNAL; /* what fits ends it: that a slow peer goes on reading is seen by that */
    entry->user_data = tagged(&socket->send, TAG_SEND);
    if (socket->slice_count == 1) {
        entry->opcode = IORING_OP_SEND;
        entry->addr = (uint64_t)(uintptr_t)socket->slices->iov_base;
        entry->len = (uint32_t)socket->slices->iov_len;
    } else {
        struct port_gather *gather = CONTAINER_OF(socket->slices, struct port_gather, slices);
        gather->header = (struct msghdr){.msg_iov = gather->slices, .msg_iovlen = socket->slice_count};
        entry->opcode = IORING_OP_SENDMSG;
        entry->addr = (uint64_t)(uintptr_t)&gather->header;
        entry->len = 1;
    }
    port_begin(base, &socket->send);
    socket->send.kind = OPERATION_SEND;
    socket->send.state = ARMED;
    socket->send.flags = 0;
    return 0;
}

/* One of those that the kernel has, PORT_ACCEPTS_MAX at most, as on Windows. A multishot accept would bring all that wait at
 * once, and the bytes of those who are here would stand behind them in the queue. */
static bool accept_arm(struct uring_port *port, struct port_listener *listener) {
    struct io_uring_sqe *entry = ring_entry(port);
    if (!entry) return false;
    entry->opcode = IORING_OP_ACCEPT;
    entry->fd = listener->handle;
    entry->accept_flags = SOCK_CLOEXEC;
    entry->user_data = tagged(&listener->accept, TAG_ACCEPT);
    listener->accepts++;
    listener->accept.state = ARMED;
    return true;
}

static void accept_pause(struct uring_port *port, struct port_listener *listener) {
    listener->accept.state = PAUSED;
    listeners_retry(&port->listeners, listener);
}

static void accept_fill(struct uring_port *port, struct port_listener *listener) {
    while (listener->accepts < PORT_ACCEPTS_MAX && accept_arm(port, listener)) {}
    if (!listener->accepts) accept_pause(port, listener);
}

static int uring_port_accept(struct port *base, struct port_listener *listener) {
    port_assert_owner(base);
    /* io_uring takes a non-blocking descriptor as the wish not to wait at all. */
    int flags = fcntl(listener->handle, F_GETFL);
    if (flags < 0 || fcntl(listener->handle, F_SETFL, flags & ~O_NONBLOCK)) return errno;
    if (!accept_arm(uring_port(base), listener)) return ENOMEM;
    port_begin(base, &listener->accept);
    listener->accept.kind = OPERATION_ACCEPT;
    listener->accept.flags = 0;
    accept_fill(uring_port(base), listener);
    return 0;
}

/* ---- cancels -------------------------------------------------------------------------------------------------------- */

static void finish(struct uring_port *port, struct port_operation *operation, int os_error) {
    operation->state = FINISHED;
    operation->os_error = os_error;
    operation->bytes = 0;
    list_push(&port->ready, operation);
}

static bool cancel_submit(struct uring_port *port, struct port_operation *operation) {
    static const uint32_t tags[] = {
        [OPERATION_RECEIVE] = TAG_RECEIVE, [OPERATION_SEND] = TAG_SEND, [OPERATION_ACCEPT] = TAG_ACCEPT};
    struct io_uring_sqe *entry = ring_entry(port);
    if (!entry) return false;
    entry->opcode = IORING_OP_ASYNC_CANCEL;
    entry->fd = -1;
    entry->addr = tagged(operation, tags[operation->kind]);
    if (operation->kind == OPERATION_ACCEPT) entry->cancel_flags = IORING_ASYNC_CANCEL_ALL;
    entry->user_data = TAG_NOTHING; /* its own result says nothing that the operation's final completion does not */
    return true;
}

/* Until there is an entry. */
static void cancel_wait(struct uring_port *port, struct port_operation *operation) {
    operation->flags |= CANCEL_WAITS;
    list_push(&port->cancels, operation);
}

/* The kernel has ended it before it could be asked. */
static void cancel_drop(struct uring_port *port, struct port_operation *operation) {
    if (!(operation->flags & CANCEL_WAITS)) return;
    operation->flags &= (uint8_t)~CANCEL_WAITS;
    list_remove(&port->cancels, operation);
}

static void cancel(struct uring_port *port, struct port_operation *operation) {
    if (!operation->outstanding || operation->state == FINISHED || operation->flags & OPERATION_CANCEL) return;
    operation->flags |= OPERATION_CANCEL;
    /* STARVED operations are looked at by the next wait. */
    if (operation->state == ARMED && !cancel_submit(port, operation)) cancel_wait(port, operation);
}

static void uring_port_receive_cancel(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    cancel(uring_port(base), &socket->receive);
}

static void uring_port_send_cancel(struct port *base, struct port_socket *socket) {
    port_assert_owner(base);
    cancel(uring_port(base), &socket->send);
}

static void uring_port_accept_cancel(struct port *base, struct port_listener *listener) {
    port_assert_owner(base);
    struct uring_port *port = uring_port(base);
    struct port_operation *accept = &listener->accept;
    if (!accept->outstanding || accept->state == FINISHED || accept->flags & OPERATION_CANCEL) return;
    accept->flags |= OPERATION_CANCEL;
    listeners_remove(&port->listeners, listener);
    if (!listener->accepts) finish(port, accept, ECANCELED);
    else if (!cancel_submit(port, accept)) accept_pause(port, listener);
}

/* ---- completions ---------------------------------------------------------------------------------------------------- */

static void end(struct uring_port *port, struct port_operation *operation) {
    operation->state = IDLE;
    port_end(&port->base, operation);
}

/* Each of these fills one event and says whether there is one. */

static bool complete_receive(struct uring_port *port, struct port_operation *receive, const struct io_uring_cqe *cqe,
                             struct port_event *event) {
    struct port_socket *socket = CONTAINER_OF(receive, struct port_socket, receive);
    struct buffer *buffer = NULL;
    if (cqe->flags & IORING_CQE_F_BUFFER) { /* also with an error: a cancelled receive may have taken one (compio #746) */
        buffer = buffer_at(port->base.pool, cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        port->provided--;
    }
    bool more = cqe->flags & IORING_CQE_F_MORE;
    if (!more) cancel_drop(port, receive);
    *event = (struct port_event){.kind = PORT_RECEIVED, .socket = socket};
    if (cqe->res > 0) {
        buffer->bytes = event->bytes = (uint32_t)cqe->res;
        event->buffer = buffer;
        if (more) return true;
        /* The kernel has ended the multishot, though not the stream. */
        if (receive->flags & OPERATION_CANCEL) finish(port, receive, ECANCELED);
        else if (!receive_arm(port, socket)) receive->state = STARVED, list_push(&port->starved, receive);
        return true;
    }
    if (buffer) buffer_free(buffer);
    if (more) return false;
    if (cqe->res == -ENOBUFS) {
        u64_bump(&port->base.counters.starved, 1);
        if (port->provide < RING_ENTRIES) port->provide += RING_FIRST;
        receive->state = STARVED;
        list_push(&port->starved, receive);
        return false;
    }
    event->final = true;
    event->os_error = -cqe->res;
    event->error = linux_port_error(-cqe->res);
    end(port, receive);
    return true;
}

static bool complete_send(struct uring_port *port, struct port_operation *send, const struct io_uring_cqe *cqe,
                          struct port_event *event) {
    *event = (struct port_event){.kind = PORT_SENT, .final = true, .socket = CONTAINER_OF(send, struct port_socket, send)};
    cancel_drop(port, send);
    if (cqe->res >= 0) {
        event->bytes = (uint32_t)cqe->res;
    } else {
        event->os_error = -cqe->res;
        event->error = linux_port_error(-cqe->res);
    }
    end(port, send);
    return true;
}

static bool complete_accept(struct uring_port *port, struct port_operation *accept, const struct io_uring_cqe *cqe,
                            struct port_event *event) {
    struct port_listener *listener = CONTAINER_OF(accept, struct port_listener, accept);
    bool cancelled = accept->flags & OPERATION_CANCEL, paused = accept->state == PAUSED;
    listener->accepts--;
    linux_accepted(event, listener, cqe->res, cqe->res < 0 ? -cqe->res : 0);
    bool no_resources = event->error == PORT_NO_RESOURCES;
    /* What is true of all of them is told once, and the cancel with the final event. */
    bool told = !(cancelled && cqe->res == -ECANCELED) && !(paused && no_resources);
    if (no_resources && told) u64_bump(&port->base.counters.accept_errors, 1);
    if (cancelled) {
        if (listener->accepts) return told;
        listeners_remove(&port->listeners, listener);
        finish(port, accept, ECANCELED);
    } else if (!paused) {
        if (no_resources) accept_pause(port, listener);
        else accept_fill(port, listener);
    }
    return told;
}

static uint32_t reap(struct uring_port *port, struct port_event *events, uint32_t capacity) {
    uint32_t head = *port->cq_head, tail = u32_load_acquire(port->cq_tail), count = 0;
    /* Two to spare: a wake may come with an exit. */
    for (; head != tail && count + 2 < capacity; head++) {
        const struct io_uring_cqe *cqe = &port->cqes[head & port->cq_mask];
        struct port_operation *operation = (struct port_operation *)(uintptr_t)(cqe->user_data & ~(uint64_t)TAG_MASK);
        switch (cqe->user_data & TAG_MASK) {
        case TAG_RECEIVE: count += complete_receive(port, operation, cqe, &events[count]); break;
        case TAG_SEND: count += complete_send(port, operation, cqe, &events[count]); break;
        case TAG_ACCEPT: count += complete_accept(port, operation, cqe, &events[count]); break;
        case TAG_WAKE:
            port->wake_armed = false;
            count += linux_wake_take(&port->wake, events + count, capacity - count);
            break;
        default: break;
        }
    }
    u32_store_release(port->cq_head, head);
    return count;
}

/* ---- wait ----------------------------------------------------------------------------------------------------------- */

static void wake_arm(struct uring_port *port) {
    struct io_uring_sqe *entry = port->wake_armed ? NULL : ring_entry(port);
    if (!entry) return;
    entry->opcode = IORING_OP_POLL_ADD; /* a read would leave memory of ours with the kernel when the port closes */
    entry->fd = port->wake.handle;
    entry->poll32_events = POLLIN;
    entry->user_data = TAG_WAKE;
    port->wake_armed = true;
}

/* What waited for a buffer, a queue entry or a time. */
static void resume(struct uring_port *port) {
    for (uint32_t left = port->starved.count; left > 0; left--) {
        struct port_operation *receive = list_pop(&port->starved);
        struct port_socket *socket = CONTAINER_OF(receive, struct port_socket, receive);
        if (receive->flags & OPERATION_CANCEL) finish(port, receive, ECANCELED);
        else if (port->provided == 0 || !receive_arm(port, socket)) list_push(&port->starved, receive);
    }
    for (uint32_t left = port->cancels.count; left > 0; left--) {
        struct port_operation *operation = list_pop(&port->cancels);
        operation->flags &= (uint8_t)~CANCEL_WAITS;
        if (!cancel_submit(port, operation)) cancel_wait(port, operation);
    }
    for (struct port_listener *listener; (listener = listeners_due(&port->listeners));) {
        bool cancelled = listener->accept.flags & OPERATION_CANCEL;
        if (!(cancelled ? cancel_submit(port, &listener->accept) : accept_arm(port, listener))) accept_pause(port, listener);
    }
}

static uint32_t deliver_ready(struct uring_port *port, struct port_event *events, uint32_t capacity) {
    uint32_t count = 0;
    while (count < capacity && port->ready.first) {
        struct port_operation *operation = list_pop(&port->ready);
        end(port, operation);
        linux_final_event(&events[count++], operation);
    }
    return count;
}

static uint32_t uring_port_wait(struct port *base, struct port_event *events, uint32_t capacity, int64_t timeout_ns) {
    port_assert_owner(base);
    struct uring_port *port = uring_port(base);
    u64_bump(&base->counters.waits, 1);
    refill(port);
    resume(port);
    wake_arm(port);
    uint32_t count = deliver_ready(port, events, capacity / 2);
    bool again =
        count || port->ready.first || port->cancels.first || !port->wake_armed || (port->starved.first && port->provided);
    if (again || u32_load_acquire(port->cq_tail) != *port->cq_head) timeout_ns = 0;
    timeout_ns = listeners_timeout(&port->listeners, timeout_ns);

    int error = ring_enter(port, timeout_ns == 0 ? 0 : 1, timeout_ns);
    if (error == EAGAIN || error == ENOMEM) usleep(1000); /* the kernel is out of memory: what is queued stays queued */
    u64_store(&base->counters.overflows, u32_load(port->cq_overflow));
    count += reap(port, events + count, capacity - count);
    u64_store(&base->counters.provided, port->provided);
    u64_bump(&base->counters.events, count);
    return count;
}

static void uring_port_post(struct port *base, enum port_post what) { linux_wake_post(&uring_port(base)->wake, what); }

/* ---- probe ---------------------------------------------------------------------------------------------------------- */

static int probe_round_trip(struct port *port, int ours, int theirs, const char **step) {
    struct port_socket socket = {.handle = ours};
    struct port_event events[8];
    *step = "send to ourselves";
    if (write(theirs, "?", 1) != 1) return errno;
    *step = "io_uring receive";
    int error = uring_port_receive(port, &socket);
    if (error) return error;
    bool received = false;
    int os_error = ETIMEDOUT;
    for (int turn = 0; turn < 100 && socket.receive.outstanding; turn++) {
        uint32_t count = uring_port_wait(port, events, 8, 10 * 1000 * 1000);
        for (uint32_t i = 0; i < count; i++) {
            if (events[i].kind != PORT_RECEIVED) continue;
            if (events[i].buffer) {
                received = true;
                buffer_free(events[i].buffer);
                uring_port_receive_cancel(port, &socket);
            } else {
                os_error = events[i].os_error;
            }
        }
    }
    if (socket.receive.outstanding) port->pending = 0; /* the ring dies with it: nothing can come any more */
    return received ? 0 : os_error;
}

static int uring_port_probe(const char **step) {
    struct buffer_pool pool;
    int pair[2] = {-1, -1}, error;
    *step = "memory";
    if (buffer_pool_init(&pool, 64, 64)) return ENOMEM;
    struct port *port = NULL;
    error = uring_port_open(&port, &(struct port_options){.pool = &pool}, step);
    if (!error && (*step = "socketpair", socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))) error = errno;
    if (!error) error = probe_round_trip(port, pair[0], pair[1], step);
    if (pair[0] >= 0) close(pair[0]), close(pair[1]);
    if (port) uring_port_close(port);
    buffer_pool_destroy(&pool);
    return error;
}

#else

/* Not in this build: the driver is there, and says so. */
#ifdef __linux__
static int uring_port_probe(const char **step) {
    *step = "built without <linux/io_uring.h> of Linux 6.1 or newer";
    return ENOSYS;
}
#endif

#endif

#ifdef __linux__
const struct port_driver port_uring = {
    .name = "io_uring",
    .probe = uring_port_probe,
#ifdef HAVE_URING
    .open = uring_port_open,
    .close = uring_port_close,
    .attach = uring_port_attach,
    .release = uring_port_release,
    .accept = uring_port_accept,
    .accept_cancel = uring_port_accept_cancel,
    .receive = uring_port_receive,
    .receive_cancel = uring_port_receive_cancel,
    .send = uring_port_send,
    .send_cancel = uring_port_send_cancel,
    .wait = uring_port_wait,
    .post = uring_port_post,
#endif
};
#else
typedef int port_uring_is_for_linux; /* a translation unit must not be empty */
#endif
