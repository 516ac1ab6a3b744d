/* platform.h: sockets, threads, clocks and atomics, the same on Windows and Linux.
 *
 * Beside the port_*.c files this is the only place with #ifdef _WIN32. Everything is a thin static inline: a name for
 * what both systems have. It is written so that MSVC takes it: no statement expressions, attributes or builtins outside
 * a branch that only gcc and clang see.
 *
 * Atomics: plain C11 _Atomic needs an experimental switch in MSVC, so the few operations that the engine uses are spelled
 * out here, one function for each width and memory order: none stands for relaxed, _ordered for sequentially consistent, as
 * are add, exchange and swap_if. `_bump` is for a counter with one writer: it needs no locked
 * instruction, and other threads may read it at any time.
 */
#ifndef IOCPD_PLATFORM_H
#define IOCPD_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#include <winsock2.h> /* first: the others need what it declares, and a windows.h before it would declare winsock 1 */

#include <mswsock.h>
#include <process.h>
#include <windows.h>
#include <ws2tcpip.h>
typedef SOCKET socket_t;
#define SOCKET_NONE INVALID_SOCKET
typedef WSABUF port_slice;
#else
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
typedef int socket_t;
#define SOCKET_NONE (-1)
typedef struct iovec port_slice;
#endif

/* ---- assertions: kept in release builds; a broken invariant here would mean somebody else's bytes ------------------- */

void platform_assert_failed(const char *what, const char *file, int line);
#define ASSERT(condition) ((condition) ? (void)0 : platform_assert_failed(#condition, __FILE__, __LINE__))

#define CONTAINER_OF(pointer, type, member) ((type *)(void *)((char *)(pointer) - offsetof(type, member)))

/* ---- atomics ------------------------------------------------------------------------------------------------------- */

#if defined(_MSC_VER) && !defined(__clang__)

static inline uint64_t u64_load(const uint64_t *p) { return (uint64_t)ReadNoFence64((const volatile LONG64 *)p); }
static inline uint64_t u64_load_acquire(const uint64_t *p) { return (uint64_t)ReadAcquire64((const volatile LONG64 *)p); }
static inline void u64_store(uint64_t *p, uint64_t v) { WriteNoFence64((volatile LONG64 *)p, (LONG64)v); }
static inline void u64_store_release(uint64_t *p, uint64_t v) { WriteRelease64((volatile LONG64 *)p, (LONG64)v); }
static inline uint64_t u64_add(uint64_t *p, uint64_t n) {
    return (uint64_t)InterlockedExchangeAdd64((volatile LONG64 *)p, (LONG64)n);
}
static inline uint32_t u32_load(const uint32_t *p) { return (uint32_t)ReadNoFence((const volatile LONG *)p); }
static inline uint32_t u32_load_acquire(const uint32_t *p) { return (uint32_t)ReadAcquire((const volatile LONG *)p); }
static inline uint32_t u32_load_ordered(uint32_t *p) { return (uint32_t)InterlockedOr((volatile LONG *)p, 0); }
static inline void u32_store(uint32_t *p, uint32_t v) { WriteNoFence((volatile LONG *)p, (LONG)v); }
static inline void u32_store_release(uint32_t *p, uint32_t v) { WriteRelease((volatile LONG *)p, (LONG)v); }
static inline uint32_t u32_add(uint32_t *p, uint32_t n) { return (uint32_t)InterlockedExchangeAdd((volatile LONG *)p, (LONG)n); }
static inline uint32_t u32_exchange(uint32_t *p, uint32_t v) {
    return (uint32_t)InterlockedExchange((volatile LONG *)p, (LONG)v);
}
static inline bool u32_swap_if(uint32_t *p, uint32_t expected, uint32_t v) {
    return (uint32_t)InterlockedCompareExchange((volatile LONG *)p, (LONG)v, (LONG)expected) == expected;
}
static inline void *pointer_load_acquire(void *const *p) { return ReadPointerAcquire((PVOID const volatile *)p); }
static inline void pointer_store_release(void **p, void *v) { WritePointerRelease((PVOID volatile *)p, v); }
static inline void *pointer_exchange(void **p, void *v) { return InterlockedExchangePointer((PVOID volatile *)p, v); }
static inline bool pointer_swap_if(void **p, void *expected, void *v) {
    return InterlockedCompareExchangePointer((PVOID volatile *)p, v, expected) == expected;
}

#else

static inline uint64_t u64_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t u64_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void u64_store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void u64_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t u64_add(uint64_t *p, uint64_t n) { return __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST); }
static inline uint32_t u32_load(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint32_t u32_load_acquire(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint32_t u32_load_ordered(uint32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline void u32_store(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void u32_store_release(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint32_t u32_add(uint32_t *p, uint32_t n) { return __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST); }
static inline uint32_t u32_exchange(uint32_t *p, uint32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
static inline bool u32_swap_if(uint32_t *p, uint32_t expected, uint32_t v) {
    return __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static inline void *pointer_load_acquire(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void pointer_store_release(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void *pointer_exchange(void **p, void *v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
static inline bool pointer_swap_if(void **p, void *expected, void *v) {
    return __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

#endif

static inline void u64_bump(uint64_t *p, uint64_t n) { u64_store(p, u64_load(p) + n); }
static inline void u32_bump(uint32_t *p, uint32_t n) { u32_store(p, u32_load(p) + n); }

/* ---- memory (platform.c) --------------------------------------------------------------------------------------------- */

/* Zeroed; NULL without memory. Blocks are counted, so that a leak shows as a number other than 0 at the end. */
void *memory_new(size_t bytes);
void memory_free(void *block); /* NULL is allowed */
uint64_t memory_blocks(void);

/* ---- threads, locks, clocks (platform.c) ---------------------------------------------------------------------------- */

#ifdef _WIN32
typedef HANDLE platform_thread;
typedef SRWLOCK platform_mutex;
typedef HANDLE platform_event;
#else
typedef pthread_t platform_thread;
typedef pthread_mutex_t platform_mutex;
typedef int platform_event;
#endif

/* 0, or the system's error number. */
int platform_thread_start(platform_thread *thread, void (*run)(void *), void *argument, const char *name);
void platform_thread_join(platform_thread thread);
/* A number that is this thread's alone while it lives; never 0. */
uint64_t platform_thread_id(void);
void platform_thread_lower_priority(void); /* the calling thread's; best effort */
void platform_thread_yield(void);
uint32_t platform_processors(void);

void platform_mutex_init(platform_mutex *mutex);
void platform_mutex_destroy(platform_mutex *mutex);
void platform_mutex_lock(platform_mutex *mutex);
void platform_mutex_unlock(platform_mutex *mutex);
/* Auto-reset: set wakes one waiter, or the next one to come. Setting takes no lock, so a worker may do it. */
int platform_event_open(platform_event *event);
void platform_event_close(platform_event event);
void platform_event_set(platform_event event);
/* Waits at most timeout_ms; may return early. */
void platform_event_wait(platform_event event, uint32_t timeout_ms);

/* Nanoseconds of a clock that never goes back. */
int64_t platform_monotonic_ns(void);
/* Microseconds since 1970 (UTC). */
int64_t platform_wall_us(void);

/* ---- sockets (platform.c) -------------------------------------------------------------------------------------------- */

/* An IPv4 address is kept as ::ffff:a.b.c.d, so that one comparison serves both families. */
struct platform_address {
    uint8_t ip[16];
    uint16_t port;
};

int platform_sockets_begin(void); /* WSAStartup; 0 or an error number */
void platform_sockets_end(void);
int platform_last_error(void); /* errno | WSAGetLastError() */
/* The system's words for it, always terminated. */
void platform_error_text(int error, char *text, size_t bytes);
void platform_socket_close(socket_t handle);
/* The next close sends a reset and throws away what is queued. */
void platform_socket_reset_on_close(socket_t handle);
/* SD_SEND: end of file for the peer. 0 or an error number. */
int platform_socket_shutdown_send(socket_t handle);
int platform_socket_no_delay(socket_t handle);
/* The smoothed round trip time of a connection in microseconds; -1: the system does not tell. */
int64_t platform_socket_rtt_us(socket_t handle);
void platform_address_from(struct platform_address *out, const struct sockaddr *from);
/* Both ends of a connected socket. 0, or an error number when the peer has already gone. */
int platform_socket_addresses(socket_t handle, struct platform_address *peer, struct platform_address *local);
/* A bound, listening, non-blocking socket; `family` is 4 or 6. *step names the call that failed. */
int platform_socket_listen(socket_t *out, const struct platform_address *at, int family, uint32_t scope_id, bool dual_stack,
                           int backlog, const char **step);
/* Where a listening socket ended up, for a port of 0. */
int platform_socket_local(socket_t handle, struct platform_address *local);

static inline void port_slice_set(port_slice *slice, const void *data, size_t bytes) {
#ifdef _WIN32
    slice->buf = (CHAR *)data;
    slice->len = (ULONG)bytes;
#else
    slice->iov_base = (void *)data;
    slice->iov_len = bytes;
#endif
}

#endif
