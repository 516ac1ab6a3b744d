/* Fan-out yardstick: accepts clients on PORT; a request on PORT+1 makes it send 256 bytes to each, in a plain loop.
 *
 *   fanout_bare PORT
 *
 * No queues, and a client that leaves is sent to all the same: a bound, not a product.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS_MAX = 65536, EVENTS_MAX = 256, MESSAGE_BYTES = 256, BACKLOG = 4096 };

static int listen_on(int port, int poller) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, BACKLOG)) {
        perror("fanout_bare");
        exit(1);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    return listener;
}

int main(int argc, char **argv) {
    static int clients[CLIENTS_MAX];
    char message[MESSAGE_BYTES], request[4096];
    int one = 1, count = 0, port = argc > 1 ? atoi(argv[1]) : 9000, poller = epoll_create1(0);
    int listener = listen_on(port, poller);
    int trigger = listen_on(port + 1, poller);
    memset(message, 'a', sizeof message);
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int ready = epoll_wait(poller, events, EVENTS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener) {
                int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (client < 0 || count == CLIENTS_MAX) continue;
                setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                clients[count++] = client;
            } else {
                int asker = accept(trigger, NULL, NULL);
                if (recv(asker, request, sizeof request, 0) > 0)
                    for (int j = 0; j < count; j++) send(clients[j], message, sizeof message, MSG_NOSIGNAL);
                close(asker);
            }
        }
    }
}
