/* loadgen: closed-loop TCP echo load on 127.0.0.1, from one epoll thread.
 *
 *   loadgen -p PORT [-c CONNECTIONS] [-s BYTES] [-P DEPTH] [-w WARMUP_S] [-d SECONDS] [-S SERVER_PID] [-l]
 *
 * Each connection keeps DEPTH messages of BYTES in flight and sends the next one when one has come back. Every byte
 * that comes back is compared: each connection sends its own stretch of one random pattern, so a server that mixes
 * connections up, or reorders, changes or invents bytes, is found out. After the window nothing new is sent, and what
 * is still in flight gets DRAIN_S to come back. With -l a message is a line of lower-case letters, LF included, and
 * comes back in upper case.
 *
 * Prints one JSON object. Of the window alone: msgs_per_s, p50_us .. max_us, server_cpu_s (user and system time of
 * SERVER_PID, all threads), load_cpu_s (the same of this program), seconds. Of the whole run: mismatches
 * (connections with a wrong byte), errors (connections that broke), lost_bytes (sent and not back at the end).
 */
#define _GNU_SOURCE
#include "common.h"

#include <ctype.h>
#include <fcntl.h>
#include <sys/epoll.h>

enum { PATTERN_BYTES = 1 << 18, CHUNK_BYTES = 1 << 16, EVENTS_MAX = 512, POLL_MS = 20, DRAIN_S = 5 };

struct connection {
    int fd;               /* -1 once it has failed */
    size_t start;         /* where its stream begins in the pattern */
    uint64_t sent;        /* bytes */
    uint64_t received;    /* bytes */
    uint64_t *sent_at_ns; /* by message number, modulo depth */
};

static struct {
    int port, connections, bytes, depth, server_pid;
    double warmup_s, window_s;
    bool lines;
} option = {.port = 9000, .connections = 50, .bytes = 64, .depth = 1, .warmup_s = 0.5, .window_s = 2};

static struct {
    struct histogram times;
    uint64_t mismatches, errors;
} result;

/* What is sent, and what comes back. One chunk longer than the period, so that a chunk is contiguous wherever it begins. */
static uint8_t pattern[PATTERN_BYTES + CHUNK_BYTES], answer[PATTERN_BYTES + CHUNK_BYTES];
static size_t period = PATTERN_BYTES; /* -l: whole lines */
static uint8_t buffer[CHUNK_BYTES];
static int poller;
static bool measuring;

static void pattern_make(void) {
    uint64_t x = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < PATTERN_BYTES; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        pattern[i] = option.lines ? (uint8_t)('a' + (x >> 32) % 26) : (uint8_t)(x >> 32);
    }
    if (option.lines) {
        period -= period % (size_t)option.bytes;
        for (size_t i = (size_t)option.bytes - 1; i < period; i += (size_t)option.bytes) pattern[i] = '\n';
    }
    memcpy(pattern + period, pattern, CHUNK_BYTES);
    for (size_t i = 0; i < period + CHUNK_BYTES; i++) answer[i] = option.lines ? (uint8_t)toupper(pattern[i]) : pattern[i];
}

static size_t place(const struct connection *c, uint64_t offset) { return (c->start + offset) % period; }

static void connection_open(struct connection *c, int number) {
    c->fd = dial(option.port);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->start = (size_t)((uint64_t)number * period / (uint64_t)option.connections);
    if (option.lines) c->start -= c->start % (size_t)option.bytes;
    c->sent_at_ns = calloc((size_t)option.depth, sizeof *c->sent_at_ns);
    if (!c->sent_at_ns) die("calloc");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl");
}

static void connection_fail(struct connection *c, uint64_t *count) {
    close(c->fd);
    c->fd = -1;
    ++*count;
}

/* Sends until DEPTH messages are in flight or the send buffer is full; then the edge of EPOLLOUT brings it back. */
static void connection_fill(struct connection *c) {
    uint64_t bytes = (uint64_t)option.bytes, depth = (uint64_t)option.depth;
    uint64_t goal = (c->received / bytes + depth) * bytes;
    while (c->sent < goal) {
        size_t want = goal - c->sent < CHUNK_BYTES ? (size_t)(goal - c->sent) : CHUNK_BYTES;
        uint64_t now = now_ns();
        ssize_t n = send(c->fd, pattern + place(c, c->sent), want, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) {
            connection_fail(c, &result.errors);
            return;
        }
        for (uint64_t m = (c->sent + bytes - 1) / bytes; m * bytes < c->sent + (uint64_t)n; m++)
            c->sent_at_ns[m % depth] = now;
        c->sent += (uint64_t)n;
    }
}

static void count_messages(const struct connection *c, uint64_t before, uint64_t after) {
    uint64_t now = now_ns();
    for (uint64_t m = before; m < after; m++)
        histogram_add(&result.times, now - c->sent_at_ns[m % (uint64_t)option.depth]);
}

/* Receives all that has come: a read that does not fill the buffer was the last. */
static void connection_receive(struct connection *c) {
    ssize_t n;
    do {
        n = recv(c->fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            connection_fail(c, &result.errors);
            return;
        }
        if (c->received + (uint64_t)n > c->sent || memcmp(buffer, answer + place(c, c->received), (size_t)n)) {
            connection_fail(c, &result.mismatches);
            return;
        }
        uint64_t before = c->received / (uint64_t)option.bytes;
        c->received += (uint64_t)n;
        if (measuring) count_messages(c, before, c->received / (uint64_t)option.bytes);
    } while (n == sizeof buffer);
}

static uint64_t in_flight_bytes(const struct connection *connections) {
    uint64_t sum = 0;
    for (int i = 0; i < option.connections; i++)
        if (connections[i].fd >= 0) sum += connections[i].sent - connections[i].received;
    return sum;
}

static void parse(int argc, char **argv) {
    int letter;
    while ((letter = getopt(argc, argv, "p:c:s:P:w:d:S:l")) != -1) switch (letter) {
        case 'p': option.port = atoi(optarg); break;
        case 'c': option.connections = atoi(optarg); break;
        case 's': option.bytes = atoi(optarg); break;
        case 'P': option.depth = atoi(optarg); break;
        case 'w': option.warmup_s = atof(optarg); break;
        case 'd': option.window_s = atof(optarg); break;
        case 'S': option.server_pid = atoi(optarg); break;
        case 'l': option.lines = true; break;
        default: exit(2);
        }
    if (option.connections < 1 || option.bytes < 1 || option.depth < 1) {
        fprintf(stderr, "loadgen: -c, -s and -P must be at least 1\n");
        exit(2);
    }
    if (option.lines && option.bytes > CHUNK_BYTES) {
        fprintf(stderr, "loadgen: with -l, -s must be at most %d\n", CHUNK_BYTES);
        exit(2);
    }
}

int main(int argc, char **argv) {
    parse(argc, argv);
    raise_file_limit();
    pattern_make();
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct connection *connections = calloc((size_t)option.connections, sizeof *connections);
    if (poller < 0 || !connections) die("loadgen");
    for (int i = 0; i < option.connections; i++) connection_open(&connections[i], i);
    for (int i = 0; i < option.connections; i++) connection_fill(&connections[i]);

    uint64_t begin = now_ns() + (uint64_t)(option.warmup_s * 1e9), end = begin + (uint64_t)(option.window_s * 1e9);
    double server_cpu_s = 0, load_cpu_s = 0;
    bool stopping = false;
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(poller, events, EVENTS_MAX, POLL_MS);
        uint64_t now = now_ns();
        if (!measuring && !stopping && now >= begin) {
            measuring = true;
            begin = now;
            server_cpu_s = process_cpu_s(option.server_pid), load_cpu_s = process_cpu_s(getpid());
        } else if (measuring && now >= end) {
            measuring = false;
            stopping = true;
            end = now;
            server_cpu_s = process_cpu_s(option.server_pid) - server_cpu_s;
            load_cpu_s = process_cpu_s(getpid()) - load_cpu_s;
        }
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events != EPOLLOUT) connection_receive(c);
            if (c->fd >= 0 && !stopping) connection_fill(c);
        }
        if (stopping && (!in_flight_bytes(connections) || now > end + DRAIN_S * 1000000000ull)) break;
    }

    double seconds = (double)(end - begin) / 1e9;
    printf("{\"msgs_per_s\": %.0f, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, "
           "\"max_us\": %.1f, "
           "\"server_cpu_s\": %.2f, \"load_cpu_s\": %.2f, \"seconds\": %.3f, "
           "\"mismatches\": %llu, \"errors\": %llu, \"lost_bytes\": %llu}\n",
           (double)result.times.count / seconds, percentile_us(&result.times, .5), percentile_us(&result.times, .9),
           percentile_us(&result.times, .99), percentile_us(&result.times, .999), (double)result.times.max_ns / 1e3, server_cpu_s, load_cpu_s, seconds,
           (unsigned long long)result.mismatches, (unsigned long long)result.errors,
           (unsigned long long)in_flight_bytes(connections));
    return 0;
}
