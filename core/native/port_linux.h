/* port_linux.h: what port_epoll.c and port_uring.c share: the wake, lists of operations, accept's back-off, error names. */
#ifndef IOCPD_PORT_LINUX_H
#define IOCPD_PORT_LINUX_H

#include "port.h"

#include <sys/eventfd.h>

enum { ACCEPT_RETRY_NS = 100 * 1000 * 1000 };

enum { OPERATION_RECEIVE = 1, OPERATION_SEND, OPERATION_ACCEPT }; /* port_operation.kind */
enum { OPERATION_CANCEL = 1 };                                    /* port_operation.flags: a cancel was asked for */

static inline enum port_error linux_port_error(int error) {
    switch (error) {
    case 0: return PORT_OK;
    case ECANCELED: return PORT_CANCELLED;
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE: return PORT_RESET;
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH: return PORT_TIMED_OUT;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM: return PORT_NO_RESOURCES;
    default: return PORT_FAILED;
    }
}

static inline void list_move(struct operation_list *to, struct operation_list *from, uint8_t state) {
    for (struct port_operation *operation; (operation = list_pop(from));) {
        operation->state = state;
        list_push(to, operation);
    }
}

/* The final event of an operation that waited in a list. */
static inline void linux_final_event(struct port_event *event, struct port_operation *operation) {
    *event = (struct port_event){.final = true, .error = linux_port_error(operation->os_error), .os_error = operation->os_error};
    event->bytes = operation->bytes;
    if (operation->kind == OPERATION_ACCEPT) {
        event->kind = PORT_ACCEPTED;
        event->listener = CONTAINER_OF(operation, struct port_listener, accept);
        event->accepted = SOCKET_NONE;
    } else if (operation->kind == OPERATION_RECEIVE) {
        event->kind = PORT_RECEIVED;
        event->socket = CONTAINER_OF(operation, struct port_socket, receive);
    } else {
        event->kind = PORT_SENT;
        event->socket = CONTAINER_OF(operation, struct port_socket, send);
    }
}

/* ---- accept ----------------------------------------------------------------------------------------------------------- */

/* Listeners that ran out of handles or memory and are tried again later. */
struct linux_listeners {
    struct port_listener *waiting[PORT_LISTENERS_MAX];
    int64_t due_ns[PORT_LISTENERS_MAX];
    uint32_t count;
};

static inline void listeners_retry(struct linux_listeners *listeners, struct port_listener *listener) {
    ASSERT(listeners->count < PORT_LISTENERS_MAX);
    listeners->waiting[listeners->count] = listener;
    listeners->due_ns[listeners->count++] = platform_monotonic_ns() + ACCEPT_RETRY_NS;
}

static inline void listeners_remove_at(struct linux_listeners *listeners, uint32_t at) {
    listeners->count--;
    for (uint32_t i = at; i < listeners->count; i++) {
        listeners->waiting[i] = listeners->waiting[i + 1];
        listeners->due_ns[i] = listeners->due_ns[i + 1];
    }
}

static inline bool listeners_remove(struct linux_listeners *listeners, const struct port_listener *listener) {
    for (uint32_t i = 0; i < listeners->count; i++) {
        if (listeners->waiting[i] != listener) continue;
        listeners_remove_at(listeners, i);
        return true;
    }
    return false;
}

/* The next listener whose time has come, taken out; in the order of their times. */
static inline struct port_listener *listeners_due(struct linux_listeners *listeners) {
    if (listeners->count == 0 || listeners->due_ns[0] > platform_monotonic_ns()) return NULL;
    struct port_listener *listener = listeners->waiting[0];
    listeners_remove_at(listeners, 0);
    return listener;
}

static inline int64_t listeners_timeout(const struct linux_listeners *listeners, int64_t timeout_ns) {
    if (listeners->count == 0) return timeout_ns;
    int64_t left = listeners->due_ns[0] - platform_monotonic_ns();
    if (left < 0) left = 0;
    return timeout_ns < 0 || left < timeout_ns ? left : timeout_ns;
}

/* An accept's result as an event. A client that has already gone is told as PORT_RESET without a socket. */
static inline void linux_accepted(struct port_event *event, struct port_listener *listener, int handle, int error) {
    *event = (struct port_event){.kind = PORT_ACCEPTED, .listener = listener, .accepted = handle};
    if (!error) {
        error = platform_socket_addresses(handle, &event->peer, &event->local);
        if (!error) return;
        close(handle);
        error = ECONNRESET;
    }
    event->accepted = SOCKET_NONE;
    event->os_error = error;
    event->error = linux_port_error(error);
}

/* ---- wake: an eventfd, and a count of exit completions ------------------------------------------------------------------ */

struct linux_wake {
    int handle;
    uint32_t exits; /* atomic: posted and not yet delivered */
};

static inline int linux_wake_open(struct linux_wake *wake) {
    wake->exits = 0;
    wake->handle = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return wake->handle < 0 ? errno : 0;
}

static inline void linux_wake_close(struct linux_wake *wake) { close(wake->handle); }

static inline void linux_wake_post(struct linux_wake *wake, enum port_post what) {
    if (what == POST_EXIT) u32_add(&wake->exits, 1);
    uint64_t one = 1;
    /* Can only fail when 2^64 - 2 posts wait, and then the port is awake anyhow. */
    while (write(wake->handle, &one, sizeof one) < 0 && errno == EINTR) {}
}

/* After the port has told that the eventfd is readable. Exits that find no room are posted again. */
static inline uint32_t linux_wake_take(struct linux_wake *wake, struct port_event *events, uint32_t capacity) {
    uint64_t value;
    while (read(wake->handle, &value, sizeof value) < 0 && errno == EINTR) {}
    uint32_t count = 0;
    if (capacity > 0) events[count++] = (struct port_event){.kind = PORT_WOKEN, .final = true};
    uint32_t exits = u32_exchange(&wake->exits, 0);
    for (; exits > 0 && count < capacity; exits--) events[count++] = (struct port_event){.kind = PORT_EXIT, .final = true};
    for (; exits > 0; exits--) linux_wake_post(wake, POST_EXIT);
    return count;
}

#endif
