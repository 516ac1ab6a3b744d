/* paced: TCP echo load on 127.0.0.1 at a steady rate, whatever the server does, from one epoll thread.
 *
 *   paced -p PORT [-c CONNECTIONS] [-a ADDRESSES] [-s BYTES] [-r MESSAGES_PER_S]
 *
 * Message n is due n / rate after the begin, on connection n modulo CONNECTIONS, and is sent then even if others have not
 * come back. Its time is from when it was due until its last byte is back, so that a server that stalls is charged for each
 * message that it kept from being sent. Every byte that comes back is compared. The connections come from ADDRESSES
 * addresses, 127.0.0.1 and up.
 *
 * Says "ready" when all are connected. For each line "SECONDS" on stdin it prints one JSON object about the messages that
 * were due in so many seconds from then on: messages, those of them that were not back LATE_S after the last was due
 * (unanswered), p50_us .. max_us; and of the whole run mismatches (connections with a wrong byte) and errors (connections
 * that broke). It ends with stdin.
 */
#define _GNU_SOURCE
#include "common.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

enum { PATTERN_BYTES = 1 << 16, CHUNK_BYTES = 1 << 14, EVENTS_MAX = 512, LATE_S = 10 };

struct connection {
    int fd; /* -1 once it has failed */
    uint64_t number;
    uint64_t due, sent, received; /* bytes */
};

static struct {
    int port, connections, addresses, bytes;
    double rate;
} option = {.port = 9000, .connections = 50, .addresses = 1, .bytes = 64, .rate = 1000};

static struct {
    bool open;
    uint64_t first, last; /* messages, the last not included */
    struct histogram times;
} window;

static uint8_t pattern[PATTERN_BYTES + CHUNK_BYTES], buffer[CHUNK_BYTES];
static uint64_t begin_ns, next_message, mismatches, errors;
static int poller, timer;

static void pattern_make(void) {
    uint64_t x = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < PATTERN_BYTES; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        pattern[i] = (uint8_t)(x >> 32);
    }
    memcpy(pattern + PATTERN_BYTES, pattern, CHUNK_BYTES);
}

/* Each connection has a stretch of its own. */
static const uint8_t *at(const struct connection *c, uint64_t offset) {
    return pattern + (c->number * 977 + offset) % PATTERN_BYTES;
}

static uint64_t due_ns(uint64_t message) { return begin_ns + (uint64_t)((double)message * 1e9 / option.rate); }

static void connection_fail(struct connection *c, uint64_t *count) {
    close(c->fd);
    c->fd = -1;
    ++*count;
}

static void connection_send(struct connection *c) {
    while (c->sent < c->due) {
        size_t want = c->due - c->sent < CHUNK_BYTES ? (size_t)(c->due - c->sent) : CHUNK_BYTES;
        ssize_t n = send(c->fd, at(c, c->sent), want, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return; /* the edge of EPOLLOUT brings it back */
        if (n < 0) {
            connection_fail(c, &errors);
            return;
        }
        c->sent += (uint64_t)n;
    }
}

static void count_messages(const struct connection *c, uint64_t before, uint64_t after) {
    uint64_t now = now_ns(), bytes = (uint64_t)option.bytes;
    for (uint64_t m = before / bytes; m < after / bytes; m++) {
        uint64_t message = m * (uint64_t)option.connections + c->number;
        if (window.open && message >= window.first && message < window.last)
            histogram_add(&window.times, now - due_ns(message));
    }
}

static void connection_receive(struct connection *c) {
    ssize_t n;
    do {
        n = recv(c->fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            connection_fail(c, &errors);
            return;
        }
        if (c->received + (uint64_t)n > c->sent || memcmp(buffer, at(c, c->received), (size_t)n)) {
            connection_fail(c, &mismatches);
            return;
        }
        count_messages(c, c->received, c->received + (uint64_t)n);
        c->received += (uint64_t)n;
    } while (n == sizeof buffer);
}

static void send_what_is_due(struct connection *connections) {
    for (uint64_t now = now_ns(); due_ns(next_message) <= now; next_message++) {
        struct connection *c = &connections[next_message % (uint64_t)option.connections];
        if (c->fd < 0) continue;
        c->due += (uint64_t)option.bytes;
        connection_send(c);
    }
}

static void window_report(void) {
    const struct histogram *times = &window.times;
    uint64_t messages = window.last - window.first;
    if (!window.open || (times->count < messages && now_ns() < due_ns(window.last) + LATE_S * 1000000000ull)) return;
    window.open = false;
    printf("{\"messages\": %llu, \"unanswered\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, "
           "\"max_us\": %.1f, \"mismatches\": %llu, \"errors\": %llu}\n",
           (unsigned long long)messages, (unsigned long long)(messages - times->count), percentile_us(times, .5),
           percentile_us(times, .99), percentile_us(times, .999), (double)times->max_ns / 1e3,
           (unsigned long long)mismatches, (unsigned long long)errors);
    fflush(stdout);
}

/* False: stdin has ended. */
static bool command(void) {
    char line[64];
    ssize_t n = read(STDIN_FILENO, line, sizeof line - 1);
    if (n <= 0) return false;
    line[n] = 0;
    memset(&window, 0, sizeof window);
    window.open = true;
    window.first = next_message;
    window.last = next_message + (uint64_t)(atof(line) * option.rate);
    return true;
}

static void watch(int fd, uint32_t what, void *data) {
    struct epoll_event event = {.events = what, .data.ptr = data};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

static void wake_when_next_is_due(void) {
    uint64_t ns = due_ns(next_message);
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL)) die("timerfd_settime");
}

static void parse(int argc, char **argv) {
    int letter;
    while ((letter = getopt(argc, argv, "p:c:a:s:r:")) != -1) switch (letter) {
        case 'p': option.port = atoi(optarg); break;
        case 'c': option.connections = atoi(optarg); break;
        case 'a': option.addresses = atoi(optarg); break;
        case 's': option.bytes = atoi(optarg); break;
        case 'r': option.rate = atof(optarg); break;
        default: exit(2);
        }
    if (option.connections < 1 || option.addresses < 1 || option.addresses > 254 || option.bytes < 1 || option.rate <= 0) {
        fprintf(stderr, "paced: -c, -s and -r must be at least 1, -a from 1 to 254\n");
        exit(2);
    }
}

int main(int argc, char **argv) {
    parse(argc, argv);
    raise_file_limit();
    pattern_make();
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct connection *connections = calloc((size_t)option.connections, sizeof *connections);
    if (poller < 0 || !connections) die("paced");
    for (int i = 0; i < option.connections; i++) {
        struct connection *c = &connections[i];
        c->number = (uint64_t)i;
        c->fd = dial_from(1 + (uint32_t)(i % option.addresses), option.port);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        watch(c->fd, EPOLLIN | EPOLLOUT | EPOLLET, c);
    }
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (timer < 0) die("timerfd_create");
    watch(timer, EPOLLIN, &timer);
    watch(STDIN_FILENO, EPOLLIN, NULL);
    printf("ready\n");
    fflush(stdout);

    begin_ns = now_ns();
    wake_when_next_is_due();
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(poller, events, EVENTS_MAX, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            uint64_t ticks;
            if (!c && !command()) return 0;
            if ((void *)c == &timer) (void)!read(timer, &ticks, sizeof ticks);
            if (!c || (void *)c == &timer || c->fd < 0) continue;
            if (events[i].events != EPOLLOUT) connection_receive(c);
            if (c->fd >= 0) connection_send(c);
        }
        send_what_is_due(connections);
        wake_when_next_is_due();
        window_report();
    }
}
