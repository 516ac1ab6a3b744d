/* fanout: how long does one message take to reach every one of N TCP clients on 127.0.0.1?
 *
 *   fanout -p PORT -n CLIENTS -m MESSAGE_FILE -T TRIGGER_PORT -f REQUEST_FILE
 *          [-i PREAMBLE_FILE -k TOKEN] [-w SETTLE_S] [-a ANSWER] [-R SHOTS] [-o LIMIT_S] [-S SERVER_PID]
 *
 * Opens CLIENTS connections to PORT. With -i, sends the preamble on each and reads until TOKEN has come (a
 * subscription). For SETTLE_S, whatever else comes to clients with a preamble is dropped. Then, SHOTS times: connects
 * to TRIGGER_PORT, sends the bytes of REQUEST_FILE and waits until each client has received exactly the bytes of
 * MESSAGE_FILE. With -a, the answer to the request must begin with ANSWER.
 *
 * Prints one JSON object: for each shot first_ms and last_ms (from before the request is sent until the first and the
 * last client are complete), server_cpu_s (user and system time of SERVER_PID over all shots), missing (clients that
 * were not complete after LIMIT_S), mismatches (clients that got a wrong byte or one too many), errors (clients that
 * broke).
 */
#define _GNU_SOURCE
#include "common.h"

#include <fcntl.h>
#include <sys/epoll.h>

enum { SHOTS_MAX = 1000, EVENTS_MAX = 1024, FILE_BYTES_MAX = 1 << 20, READ_BYTES = 1 << 16, POLL_MS = 50 };
enum { PAUSE_US = 100000, ANSWER_S = 5 };

struct file {
    char *bytes;
    size_t length;
};

struct client {
    int fd; /* -1 once it has failed */
    size_t received;
};

static struct {
    int port, clients, trigger_port, shots, server_pid;
    double settle_s, limit_s;
    struct file message, request, preamble;
    const char *token, *answer;
} option = {.clients = 1000, .shots = 3, .settle_s = 0.3, .limit_s = 20};

static struct {
    double first_ms[SHOTS_MAX], last_ms[SHOTS_MAX];
    long missing, mismatches, errors;
} result;

static int poller;
static char buffer[READ_BYTES];

static struct file file_read(const char *path) {
    struct file whole = {.bytes = malloc(FILE_BYTES_MAX)};
    FILE *file = fopen(path, "rb");
    if (!file || !whole.bytes) die(path);
    whole.length = fread(whole.bytes, 1, FILE_BYTES_MAX, file);
    fclose(file);
    return whole;
}

static void send_all(int fd, struct file file) {
    if (send(fd, file.bytes, file.length, MSG_NOSIGNAL) != (ssize_t)file.length) die("send");
}

static void await_token(int fd, const char *token) {
    char text[8192];
    size_t length = 0;
    do {
        ssize_t n = recv(fd, text + length, sizeof text - 1 - length, 0);
        if (n <= 0) {
            fprintf(stderr, "fanout: a client was closed before %s came\n", token);
            exit(2);
        }
        length += (size_t)n;
        text[length] = 0;
    } while (!strstr(text, token));
}

static void client_open(struct client *c) {
    c->fd = dial(option.port);
    if (option.preamble.length) send_all(c->fd, option.preamble);
    if (option.token) await_token(c->fd, option.token);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl");
}

/* True when this read completed the client's message. */
static bool client_receive(struct client *c) {
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return false;
    bool wrong = n > 0 && (c->received + (size_t)n > option.message.length ||
                           memcmp(buffer, option.message.bytes + c->received, (size_t)n));
    if (n <= 0 || wrong) {
        ++*(wrong ? &result.mismatches : &result.errors);
        close(c->fd);
        c->fd = -1;
        return false;
    }
    c->received += (size_t)n;
    return c->received == option.message.length;
}

/* A protocol may have more to say after its token: NATS sends each client a PING after two seconds. */
static void settle(void) {
    uint64_t end = now_ns() + (uint64_t)(option.settle_s * 1e9);
    if (!option.preamble.length) {
        usleep((useconds_t)(option.settle_s * 1e6));
        return;
    }
    while (now_ns() < end) {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(poller, events, EVENTS_MAX, POLL_MS);
        for (int i = 0; i < n; i++) recv(((struct client *)events[i].data.ptr)->fd, buffer, sizeof buffer, 0);
    }
}

static void check_answer(int fd) {
    struct timeval limit = {.tv_sec = ANSWER_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char text[1024];
    ssize_t n = recv(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    if (!strncmp(text, option.answer, strlen(option.answer))) return;
    fprintf(stderr, "fanout: the request was answered with: %.*s\n", (int)strcspn(text, "\r\n"), text);
    exit(2);
}

static void shoot(struct client *clients, int shot) {
    int trigger = dial(option.trigger_port), complete = 0, open = 0;
    for (int i = 0; i < option.clients; i++) {
        clients[i].received = 0;
        open += clients[i].fd >= 0;
    }
    uint64_t start = now_ns();
    double ms = 0;
    send_all(trigger, option.request);
    while (complete < open && ms < option.limit_s * 1e3) {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(poller, events, EVENTS_MAX, POLL_MS);
        for (int i = 0; i < n; i++) {
            if (!client_receive(events[i].data.ptr)) continue;
            ms = (double)(now_ns() - start) / 1e6;
            if (!complete++) result.first_ms[shot] = ms;
            result.last_ms[shot] = ms;
        }
        ms = (double)(now_ns() - start) / 1e6;
    }
    result.missing += option.clients - complete;
    if (option.answer) check_answer(trigger);
    close(trigger);
}

static void print_times(const char *name, const double *times) {
    printf("\"%s\": [", name);
    for (int i = 0; i < option.shots; i++) printf("%s%.3f", i ? ", " : "", times[i]);
    printf("], ");
}

static void parse(int argc, char **argv) {
    int letter;
    while ((letter = getopt(argc, argv, "p:n:m:T:f:i:k:w:a:R:o:S:")) != -1) switch (letter) {
        case 'p': option.port = atoi(optarg); break;
        case 'n': option.clients = atoi(optarg); break;
        case 'm': option.message = file_read(optarg); break;
        case 'T': option.trigger_port = atoi(optarg); break;
        case 'f': option.request = file_read(optarg); break;
        case 'i': option.preamble = file_read(optarg); break;
        case 'k': option.token = optarg; break;
        case 'w': option.settle_s = atof(optarg); break;
        case 'a': option.answer = optarg; break;
        case 'R': option.shots = atoi(optarg); break;
        case 'o': option.limit_s = atof(optarg); break;
        case 'S': option.server_pid = atoi(optarg); break;
        default: exit(2);
        }
    if (!option.port || !option.trigger_port || option.clients < 1 || !option.message.length ||
        !option.request.length || option.shots < 1 || option.shots > SHOTS_MAX) {
        fprintf(stderr, "fanout: -p, -T, -m and -f are needed; -n and -R at least 1, -R at most %d\n", SHOTS_MAX);
        exit(2);
    }
}

int main(int argc, char **argv) {
    parse(argc, argv);
    raise_file_limit();
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct client *clients = calloc((size_t)option.clients, sizeof *clients);
    if (poller < 0 || !clients) die("fanout");
    for (int i = 0; i < option.clients; i++) client_open(&clients[i]);
    settle();

    double server_cpu_s = process_cpu_s(option.server_pid);
    for (int shot = 0; shot < option.shots; shot++) {
        shoot(clients, shot);
        usleep(PAUSE_US);
    }
    server_cpu_s = process_cpu_s(option.server_pid) - server_cpu_s;

    /* A copy too many would come after the last shot as well. */
    struct epoll_event late;
    if (epoll_wait(poller, &late, 1, 0) > 0) client_receive(late.data.ptr);
    printf("{");
    print_times("first_ms", result.first_ms);
    print_times("last_ms", result.last_ms);
    printf("\"server_cpu_s\": %.2f, \"missing\": %ld, \"mismatches\": %ld, \"errors\": %ld}\n", server_cpu_s,
           result.missing, result.mismatches, result.errors);
    return 0;
}
