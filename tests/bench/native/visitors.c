/* visitors: connections to 127.0.0.1 that come, have one message echoed, and go, over and over, from one epoll thread.
 *
 *   visitors -p PORT [-c CONNECTIONS] [-s BYTES] [-w WARMUP_S] [-d SECONDS] [-S SERVER_PID]
 *
 * CONNECTIONS are under way at a time. Each connects, sends BYTES, compares what comes back, closes its side, reads the end
 * of the stream and is followed by the next. Each end is an orderly one, so a port is not free again for a minute: the
 * visitors take turns in coming from many addresses of the loopback.
 *
 * Prints one JSON object. Of the window alone: per_s, p50_us, p99_us (from connect to the end of the stream), server_cpu_s
 * (user and system time of SERVER_PID, all threads), load_cpu_s, seconds. Of the whole run: mismatches (a wrong byte, or
 * one too many or too few) and errors (a connection that was refused or broke).
 */
#define _GNU_SOURCE
#include "common.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/epoll.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24 /* the port is chosen by connect, for this destination alone */
#endif

enum { EVENTS_MAX = 512, POLL_MS = 20, BYTES_MAX = 1 << 16, SOURCES = 250 };

struct visitor {
    int fd;
    int sent, received; /* bytes */
    uint64_t begin_ns;
};

static struct {
    int port, connections, bytes, server_pid;
    double warmup_s, window_s;
} option = {.port = 9000, .connections = 50, .bytes = 64, .warmup_s = 0.3, .window_s = 2};

static struct {
    struct histogram times; /* of whole visits */
    uint64_t mismatches, errors;
} result;

static uint8_t message[BYTES_MAX];
static int poller;
static bool measuring;
static uint32_t comers;

static void visitor_come(struct visitor *v) {
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 256 * (1 + comers++ % SOURCES))};
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)option.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    *v = (struct visitor){.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), .begin_ns = now_ns()};
    if (v->fd < 0) die("socket");
    setsockopt(v->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(v->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(v->fd, (struct sockaddr *)&from, sizeof from)) die("bind");
    if (connect(v->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = v};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, v->fd, &event)) die("epoll_ctl");
}

static void visitor_go(struct visitor *v, uint64_t *why) {
    close(v->fd);
    if (why) ++*why;
    visitor_come(v);
}

static void visitor_end(struct visitor *v) {
    if (v->received < option.bytes) {
        visitor_go(v, &result.mismatches);
        return;
    }
    if (measuring) histogram_add(&result.times, now_ns() - v->begin_ns);
    visitor_go(v, NULL);
}

static void visitor_receive(struct visitor *v) {
    static uint8_t buffer[BYTES_MAX];
    for (;;) {
        ssize_t n = recv(v->fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) {
            visitor_go(v, &result.errors);
            return;
        }
        if (n == 0) {
            visitor_end(v);
            return;
        }
        if (v->received + n > v->sent || memcmp(buffer, message + v->received, (size_t)n)) {
            visitor_go(v, &result.mismatches);
            return;
        }
        v->received += (int)n;
        if (v->received == option.bytes) shutdown(v->fd, SHUT_WR);
    }
}

/* False: it broke, and the next one has come. */
static bool visitor_send(struct visitor *v) {
    while (v->sent < option.bytes) {
        ssize_t n = send(v->fd, message + v->sent, (size_t)(option.bytes - v->sent), MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return true;
        if (n < 0) {
            visitor_go(v, &result.errors);
            return false;
        }
        v->sent += (int)n;
    }
    return true;
}

static void parse(int argc, char **argv) {
    int letter;
    while ((letter = getopt(argc, argv, "p:c:s:w:d:S:")) != -1) switch (letter) {
        case 'p': option.port = atoi(optarg); break;
        case 'c': option.connections = atoi(optarg); break;
        case 's': option.bytes = atoi(optarg); break;
        case 'w': option.warmup_s = atof(optarg); break;
        case 'd': option.window_s = atof(optarg); break;
        case 'S': option.server_pid = atoi(optarg); break;
        default: exit(2);
        }
    if (option.connections < 1 || option.bytes < 1 || option.bytes > BYTES_MAX) {
        fprintf(stderr, "visitors: -c must be at least 1, and -s from 1 to %d\n", BYTES_MAX);
        exit(2);
    }
}

int main(int argc, char **argv) {
    parse(argc, argv);
    raise_file_limit();
    for (int i = 0; i < option.bytes; i++) message[i] = (uint8_t)(i * 2654435761u >> 13);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct visitor *visitors = calloc((size_t)option.connections, sizeof *visitors);
    if (poller < 0 || !visitors) die("visitors");
    for (int i = 0; i < option.connections; i++) visitor_come(&visitors[i]);

    uint64_t begin = now_ns() + (uint64_t)(option.warmup_s * 1e9), end = UINT64_MAX, now;
    double server_cpu_s = 0, load_cpu_s = 0;
    do {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(poller, events, EVENTS_MAX, POLL_MS);
        now = now_ns();
        if (!measuring && now >= begin) {
            measuring = true;
            begin = now, end = now + (uint64_t)(option.window_s * 1e9);
            server_cpu_s = process_cpu_s(option.server_pid), load_cpu_s = process_cpu_s(getpid());
        }
        for (int i = 0; i < n; i++) {
            struct visitor *v = events[i].data.ptr;
            if (events[i].events & EPOLLOUT && !visitor_send(v)) continue;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) visitor_receive(v);
        }
    } while (now < end);
    double seconds = (double)(now - begin) / 1e9;
    server_cpu_s = process_cpu_s(option.server_pid) - server_cpu_s, load_cpu_s = process_cpu_s(getpid()) - load_cpu_s;

    printf("{\"per_s\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"server_cpu_s\": %.2f, \"load_cpu_s\": %.2f, \"seconds\": %.3f, "
           "\"mismatches\": %llu, \"errors\": %llu}\n",
           (double)result.times.count / seconds, percentile_us(&result.times, .5), percentile_us(&result.times, .99), server_cpu_s, load_cpu_s, seconds,
           (unsigned long long)result.mismatches, (unsigned long long)result.errors);
    return 0;
}
