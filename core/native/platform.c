/* platform.c: what platform.h names. */
#include "platform.h"

#include <stdio.h>

#ifndef _WIN32
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#endif

void platform_assert_failed(const char *what, const char *file, int line) {
    fprintf(stderr, "iocpd: a rule of the engine is broken: %s (%s:%d)\n", what, file, line);
    fflush(stderr);
    abort();
}

/* ---- memory --------------------------------------------------------------------------------------------------------- */

static uint64_t blocks;

void *memory_new(size_t bytes) {
    void *block = calloc(1, bytes);
    if (block) u64_add(&blocks, 1);
    return block;
}

void memory_free(void *block) {
    if (!block) return;
    u64_add(&blocks, (uint64_t)-1);
    free(block);
}

uint64_t memory_blocks(void) { return u64_load(&blocks); }

/* ---- threads -------------------------------------------------------------------------------------------------------- */

struct thread_start {
    void (*run)(void *);
    void *argument;
    char name[16];
};

#ifdef _WIN32

static unsigned __stdcall thread_main(void *block) {
    struct thread_start start = *(struct thread_start *)block;
    memory_free(block);
    start.run(start.argument);
    return 0;
}

int platform_thread_start(platform_thread *thread, void (*run)(void *), void *argument, const char *name) {
    struct thread_start *start = memory_new(sizeof *start);
    if (!start) return ERROR_NOT_ENOUGH_MEMORY;
    start->run = run;
    start->argument = argument;
    (void)name;
    *thread = (HANDLE)_beginthreadex(NULL, 0, thread_main, start, 0, NULL);
    if (*thread) return 0;
    memory_free(start);
    return ERROR_NOT_ENOUGH_MEMORY;
}

void platform_thread_join(platform_thread thread) {
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

uint64_t platform_thread_id(void) { return GetCurrentThreadId(); }
/* Priorities are strict on Windows: a thread below the workers would get nothing at all while they are busy. */
void platform_thread_lower_priority(void) {}
void platform_thread_yield(void) { Sleep(0); }

uint32_t platform_processors(void) {
    DWORD count = GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    return count ? count : 1;
}

void platform_mutex_init(platform_mutex *mutex) { InitializeSRWLock(mutex); }
void platform_mutex_destroy(platform_mutex *mutex) { (void)mutex; }
void platform_mutex_lock(platform_mutex *mutex) { AcquireSRWLockExclusive(mutex); }
void platform_mutex_unlock(platform_mutex *mutex) { ReleaseSRWLockExclusive(mutex); }

int platform_event_open(platform_event *event) {
    *event = CreateEventW(NULL, FALSE, FALSE, NULL);
    return *event ? 0 : (int)GetLastError();
}
void platform_event_close(platform_event event) { CloseHandle(event); }
void platform_event_set(platform_event event) { SetEvent(event); }
void platform_event_wait(platform_event event, uint32_t timeout_ms) { WaitForSingleObject(event, timeout_ms); }

int64_t platform_monotonic_ns(void) {
    static LARGE_INTEGER frequency; /* the same for every caller, so a race only writes the same value twice */
    LARGE_INTEGER count;
    if (!frequency.QuadPart) QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&count);
    int64_t seconds = count.QuadPart / frequency.QuadPart, rest = count.QuadPart % frequency.QuadPart;
    return seconds * 1000000000 + rest * 1000000000 / frequency.QuadPart;
}

int64_t platform_wall_us(void) {
    FILETIME now; /* 100 ns since 1601 */
    GetSystemTimePreciseAsFileTime(&now);
    return (int64_t)(((uint64_t)now.dwHighDateTime << 32 | now.dwLowDateTime) / 10) - 11644473600000000;
}

#else

static void *thread_main(void *block) {
    struct thread_start start = *(struct thread_start *)block;
    memory_free(block);
#ifdef __linux__
    pthread_setname_np(pthread_self(), start.name);
#endif
    start.run(start.argument);
    return NULL;
}

int platform_thread_start(platform_thread *thread, void (*run)(void *), void *argument, const char *name) {
    struct thread_start *start = memory_new(sizeof *start);
    if (!start) return ENOMEM;
    start->run = run;
    start->argument = argument;
    snprintf(start->name, sizeof start->name, "%s", name);
    /* Signals are for the thread that runs Python: a worker takes none. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, NULL, thread_main, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) memory_free(start);
    return error;
}

void platform_thread_join(platform_thread thread) { pthread_join(thread, NULL); }
uint64_t platform_thread_id(void) { return (uint64_t)pthread_self(); }
/* On Linux the nice value is a thread's own, whatever POSIX says (sched(7)), and lowering needs no right. 15 leaves 3 % of a
 * processor beside a worker that is never idle. Measured on one processor, echo's p99 while two clients list 1,000 of 4,000
 * connections without pause, against quiet: 7.5 x with 5, 3.2 x with 10, 1.9 x with 12, 1.4 x with 15. */
void platform_thread_lower_priority(void) { setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 15); }
void platform_thread_yield(void) { sched_yield(); }

uint32_t platform_processors(void) {
    /* What this process may use, which taskset and containers narrow. */
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return (uint32_t)CPU_COUNT(&set);
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (uint32_t)count : 1;
}

void platform_mutex_init(platform_mutex *mutex) { pthread_mutex_init(mutex, NULL); } /* can't fail without attributes */
void platform_mutex_destroy(platform_mutex *mutex) { pthread_mutex_destroy(mutex); }
void platform_mutex_lock(platform_mutex *mutex) { pthread_mutex_lock(mutex); }
void platform_mutex_unlock(platform_mutex *mutex) { pthread_mutex_unlock(mutex); }

int platform_event_open(platform_event *event) {
    *event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return *event < 0 ? errno : 0;
}
void platform_event_close(platform_event event) { close(event); }
void platform_event_set(platform_event event) {
    uint64_t one = 1;
    while (write(event, &one, sizeof one) < 0 && errno == EINTR) {}
}
void platform_event_wait(platform_event event, uint32_t timeout_ms) {
    struct pollfd readable = {.fd = event, .events = POLLIN};
    uint64_t value;
    if (poll(&readable, 1, timeout_ms > INT_MAX ? -1 : (int)timeout_ms) > 0 && read(event, &value, sizeof value) < 0) return;
}

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
int64_t platform_monotonic_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
int64_t platform_wall_us(void) { return clock_ns(CLOCK_REALTIME) / 1000; }

#endif

/* ---- sockets -------------------------------------------------------------------------------------------------------- */

#ifdef _WIN32
int platform_sockets_begin(void) {
    WSADATA data;
    return WSAStartup(MAKEWORD(2, 2), &data);
}
void platform_sockets_end(void) { WSACleanup(); }
int platform_last_error(void) { return WSAGetLastError(); }
void platform_socket_close(socket_t handle) { closesocket(handle); }
#else
int platform_sockets_begin(void) { return 0; }
void platform_sockets_end(void) {}
int platform_last_error(void) { return errno; }
void platform_socket_close(socket_t handle) { close(handle); }
#endif

void platform_error_text(int error, char *text, size_t bytes) {
#ifdef _WIN32
    const DWORD flags = FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS;
    WCHAR wide[256];
    DWORD english = MAKELANGID(LANG_ENGLISH, SUBLANG_ENGLISH_US);
    DWORD length = FormatMessageW(flags, NULL, (DWORD)error, english, wide, 256, NULL);
    if (!length) length = FormatMessageW(flags, NULL, (DWORD)error, 0, wide, 256, NULL); /* a Windows that has no English */
    while (length > 0 && wcschr(L"\r\n. ", wide[length - 1])) length--;
    int written = length ? WideCharToMultiByte(CP_UTF8, 0, wide, (int)length, text, (int)bytes - 1, NULL, NULL) : 0;
    if (written > 0) text[written] = 0;
    else snprintf(text, bytes, "error %d", error);
#else
    snprintf(text, bytes, "%s", strerror(error));
#endif
}

static int socket_set(socket_t handle, int level, int name, int value) {
    return setsockopt(handle, level, name, (const char *)&value, sizeof value) ? platform_last_error() : 0;
}

void platform_socket_reset_on_close(socket_t handle) {
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(handle, SOL_SOCKET, SO_LINGER, (const char *)&none, sizeof none);
}

int platform_socket_shutdown_send(socket_t handle) {
#ifdef _WIN32
    return shutdown(handle, SD_SEND) ? platform_last_error() : 0;
#else
    return shutdown(handle, SHUT_WR) ? platform_last_error() : 0;
#endif
}

int platform_socket_no_delay(socket_t handle) { return socket_set(handle, IPPROTO_TCP, TCP_NODELAY, 1); }

#ifdef _WIN32
/* TCP_INFO_v0 and SIO_TCP_INFO of mstcpip.h, since Windows 10 1703, which older headers don't have. */
struct windows_tcp_info {
    ULONG state, mss;
    ULONG64 connected_ms;
    BOOLEAN timestamps;
    ULONG rtt_us, rest[32];
};

int64_t platform_socket_rtt_us(socket_t handle) {
    const DWORD sio_tcp_info = _WSAIORW(IOC_VENDOR, 39);
    DWORD version = 0, bytes = 0;
    struct windows_tcp_info info = {0};
    if (WSAIoctl(handle, sio_tcp_info, &version, sizeof version, &info, sizeof info, &bytes, NULL, NULL)) return -1;
    return bytes >= offsetof(struct windows_tcp_info, rest) ? (int64_t)info.rtt_us : -1;
}
#else
int64_t platform_socket_rtt_us(socket_t handle) {
    struct tcp_info info;
    socklen_t bytes = sizeof info;
    return getsockopt(handle, IPPROTO_TCP, TCP_INFO, &info, &bytes) ? -1 : (int64_t)info.tcpi_rtt;
}
#endif

void platform_address_from(struct platform_address *out, const struct sockaddr *from) {
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    memset(out, 0, sizeof *out);
    if (from->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)from;
        memcpy(out->ip, mapped, sizeof mapped);
        memcpy(out->ip + 12, &v4->sin_addr, 4);
        out->port = ntohs(v4->sin_port);
    } else if (from->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)from;
        memcpy(out->ip, &v6->sin6_addr, 16);
        out->port = ntohs(v6->sin6_port);
    }
}

int platform_socket_local(socket_t handle, struct platform_address *local) {
    struct sockaddr_storage at;
    socklen_t bytes = sizeof at;
    if (getsockname(handle, (struct sockaddr *)&at, &bytes)) return platform_last_error();
    platform_address_from(local, (const struct sockaddr *)&at);
    return 0;
}

int platform_socket_addresses(socket_t handle, struct platform_address *peer, struct platform_address *local) {
    struct sockaddr_storage at;
    socklen_t bytes = sizeof at;
    if (getpeername(handle, (struct sockaddr *)&at, &bytes)) return platform_last_error();
    platform_address_from(peer, (const struct sockaddr *)&at);
    return platform_socket_local(handle, local);
}

static socket_t socket_new(int family) {
#ifdef _WIN32
    return WSASocketW(family, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
#else
    return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
#endif
}

/* What a client does not take waits in our queue, which has a bound and costs a reference for each of many, and not in the
 * kernel, where it may be 4 MB for each client, copied once more, and freed all at once by the close, behind which everybody
 * else stands. What is on its way does not count, so that nobody who reads is slowed down: socket options in
 * Documentation/networking/ip-sysctl (tcp_notsent_lowat). A system that does not know the option serves without it. Windows keeps
 * a send pending beyond SO_SNDBUF of itself. */
static void socket_bound_unsent(socket_t handle) {
#ifdef _WIN32
    (void)handle;
#else
    enum { UNSENT_BYTES = 128 * 1024 };
    socket_set(handle, IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES);
#endif
}

/* Nobody else may take the port while we have it, but we may take it back while old connections linger. */
static int socket_own_port(socket_t handle) {
#ifdef _WIN32
    return socket_set(handle, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1); /* SO_REUSEADDR there lets anybody in */
#else
    return socket_set(handle, SOL_SOCKET, SO_REUSEADDR, 1);
#endif
}

/* Windows holds 200 at most unless it is asked in this form, which is for more (listen: SOMAXCONN_HINT), and refuses the rest. */
static int backlog_of(int backlog) {
#ifdef _WIN32
    return backlog > 200 ? -backlog : backlog; /* SOMAXCONN_HINT, which older headers lack */
#else
    return backlog;
#endif
}

int platform_socket_listen(socket_t *out, const struct platform_address *at, int family, uint32_t scope_id, bool dual_stack,
                           int backlog, const char **step) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(at->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(at->port), .sin6_scope_id = scope_id};
    memcpy(&v4.sin_addr, at->ip + 12, 4);
    memcpy(&v6.sin6_addr, at->ip, 16);
    const struct sockaddr *address = family == 4 ? (const struct sockaddr *)&v4 : (const struct sockaddr *)&v6;
    socklen_t address_bytes = family == 4 ? sizeof v4 : sizeof v6;

    *step = "socket";
    socket_t handle = socket_new(family == 4 ? AF_INET : AF_INET6);
    if (handle == SOCKET_NONE) return platform_last_error();
    *step = "setsockopt";
    int error = socket_own_port(handle);
    if (!error) error = platform_socket_no_delay(handle); /* Linux: accepted sockets inherit it, */
    socket_bound_unsent(handle);                          /* and this */
    if (!error && family == 6) error = socket_set(handle, IPPROTO_IPV6, IPV6_V6ONLY, dual_stack ? 0 : 1);
    if (!error && (*step = "bind", bind(handle, address, address_bytes))) error = platform_last_error();
    if (!error && (*step = "listen", listen(handle, backlog_of(backlog)))) error = platform_last_error();
    if (error) {
        platform_socket_close(handle);
        return error;
    }
    *out = handle;
    return 0;
}
