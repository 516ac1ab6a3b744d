/* flood: connects to 127.0.0.1 and resets, as fast as one processor can, until stdin ends.
 *
 *   flood -p PORT [-a ADDRESSES]
 *
 * Each connection comes from another one of ADDRESSES addresses, 127.0.0.2 and up; each fourth says something before it
 * goes. Prints one JSON object: connects, those of them that failed at once, and seconds.
 */
#define _GNU_SOURCE
#include "common.h"

#include <poll.h>

enum { LOOK_EVERY = 64 };

static bool stdin_has_ended(void) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&input, 1, 0) > 0;
}

int main(int argc, char **argv) {
    static const struct linger none = {.l_onoff = 1, .l_linger = 0};
    int port = 9000, letter, one = 1;
    uint32_t addresses = 1;
    uint64_t connects = 0, failed = 0;
    while ((letter = getopt(argc, argv, "p:a:")) != -1) switch (letter) {
        case 'p': port = atoi(optarg); break;
        case 'a': addresses = (uint32_t)atoi(optarg); break;
        default: exit(2);
        }
    if (addresses < 1 || addresses > 253) {
        fprintf(stderr, "flood: -a must be from 1 to 253\n");
        exit(2);
    }
    struct sockaddr_in to = loopback(1, port);
    uint64_t begin = now_ns();
    for (; connects % LOOK_EVERY || !stdin_has_ended(); connects++) {
        struct sockaddr_in from = loopback(2 + (uint32_t)connects % addresses, 0);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) die("socket");
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&from, sizeof from)) die("bind");
        if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) failed++;
        else if (connects % 4 == 0) (void)!send(fd, "hello", 5, MSG_NOSIGNAL);
        close(fd);
    }
    printf("{\"connects\": %llu, \"failed\": %llu, \"seconds\": %.3f}\n", (unsigned long long)connects,
           (unsigned long long)failed, (double)(now_ns() - begin) / 1e9);
    return 0;
}
