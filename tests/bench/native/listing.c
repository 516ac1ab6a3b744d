/* listing: an HTTP client that asks 127.0.0.1 for the same page again and again, on one keep-alive connection.
 *
 *   listing -p PORT -u PATH [-w WARMUP_S] [-d SECONDS]
 *
 * It reads each answer to its end by its Content-Length and never looks into the body, so that it costs next to
 * nothing. It counts the answers that are complete in the SECONDS after the warm-up, goes on asking until SIGTERM, and
 * then prints one JSON object: answers_per_s, bytes (of the last body). An answer other than 200 ends it with status 2.
 */
#define _GNU_SOURCE
#include "common.h"

#include <signal.h>

enum { HEAD_BYTES_MAX = 1 << 14, READ_BYTES = 1 << 16 };

static volatile sig_atomic_t stopped;

static void on_term(int number) {
    (void)number;
    stopped = 1;
}

static _Noreturn void refuse(const char *why) {
    fprintf(stderr, "listing: %s\n", why);
    exit(2);
}

/* Reads the head of an answer, and what of the body came with it; returns the bytes of the body that are still to come.
 * -1 when SIGTERM came first. */
static long read_head(int fd, long *body_bytes) {
    char head[HEAD_BYTES_MAX + 1], *end = NULL;
    size_t length = 0;
    while (!end) {
        ssize_t n = recv(fd, head + length, HEAD_BYTES_MAX - length, 0);
        if (n < 0 && errno == EINTR) return -1;
        if (n <= 0)
            refuse(length == HEAD_BYTES_MAX ? "the head of the answer is too long"
                                            : "the server closed the connection");
        length += (size_t)n;
        head[length] = 0;
        end = strstr(head, "\r\n\r\n");
    }
    if (strncmp(head, "HTTP/1.1 200", 12)) {
        head[strcspn(head, "\r\n")] = 0;
        refuse(head);
    }
    const char *field = strcasestr(head, "\r\ncontent-length:");
    if (!field || field > end) refuse("the answer has no Content-Length");
    *body_bytes = atol(field + strlen("\r\ncontent-length:"));
    return *body_bytes - (long)(length - (size_t)(end + 4 - head));
}

static bool read_answer(int fd, long *body_bytes) {
    static char body[READ_BYTES];
    long rest = read_head(fd, body_bytes);
    while (rest > 0) {
        ssize_t n = recv(fd, body, rest < READ_BYTES ? (size_t)rest : READ_BYTES, 0);
        if (n < 0 && errno == EINTR) return false;
        if (n <= 0) refuse("the server closed the connection within an answer");
        rest -= n;
    }
    return rest == 0;
}

int main(int argc, char **argv) {
    int letter, port = 0;
    double warmup_s = 0, window_s = 1;
    const char *path = "/";
    while ((letter = getopt(argc, argv, "p:u:w:d:")) != -1) switch (letter) {
        case 'p': port = atoi(optarg); break;
        case 'u': path = optarg; break;
        case 'w': warmup_s = atof(optarg); break;
        case 'd': window_s = atof(optarg); break;
        default: return 2;
        }
    if (!port || window_s <= 0) refuse("-p is needed, and -d must be above 0");

    /* No SA_RESTART: the signal must end a receive that waits. */
    struct sigaction action = {.sa_handler = on_term};
    sigaction(SIGTERM, &action, NULL);
    uint64_t begin = now_ns() + (uint64_t)(warmup_s * 1e9), end = begin + (uint64_t)(window_s * 1e9);
    char request[1024];
    int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", path, port);
    long answers = 0, body_bytes = 0;
    int fd = dial(port);
    while (!stopped) {
        if (send(fd, request, (size_t)length, MSG_NOSIGNAL) != length) die("listing: send");
        if (!read_answer(fd, &body_bytes)) break;
        uint64_t now = now_ns();
        answers += now >= begin && now < end;
    }
    printf("{\"answers_per_s\": %.2f, \"bytes\": %ld}\n", (double)answers / window_s, body_bytes);
    return 0;
}
