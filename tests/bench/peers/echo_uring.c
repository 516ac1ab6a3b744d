/* Echo yardstick: the least that a completion server can do. io_uring, one ring and one thread.
 *
 *   echo_uring PORT          (needs liburing 2.3 and Linux 6.1)
 *
 * A buffer's life: the kernel takes it from the provided-buffer ring for a multishot receive; the same buffer is sent
 * straight back; when the send has completed, it returns to the ring. No limits and no queues: a bound, not a product.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFERS = 4096, BUFFER_BYTES = 4096, SQ_ENTRIES = 4096, CQ_ENTRIES = 65536, BACKLOG = 4096 };
enum operation { ACCEPT = 1, RECEIVE, SEND };

static struct io_uring ring;
static struct io_uring_buf_ring *buffer_ring;
static char *buffers;

static uint64_t tag(enum operation operation, int fd, unsigned buffer) {
    return (uint64_t)operation << 56 | (uint64_t)buffer << 32 | (uint32_t)fd;
}

static struct io_uring_sqe *next_sqe(void) {
    struct io_uring_sqe *sqe;
    while (!(sqe = io_uring_get_sqe(&ring))) io_uring_submit(&ring);
    return sqe;
}

static void submit_accept(int listener) {
    struct io_uring_sqe *sqe = next_sqe();
    io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, 0);
    sqe->user_data = tag(ACCEPT, listener, 0);
}

static void submit_receive(int fd) {
    struct io_uring_sqe *sqe = next_sqe();
    io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = 0;
    sqe->user_data = tag(RECEIVE, fd, 0);
}

static void submit_send(int fd, unsigned buffer, unsigned bytes) {
    struct io_uring_sqe *sqe = next_sqe();
    io_uring_prep_send(sqe, fd, buffers + (size_t)buffer * BUFFER_BYTES, bytes, MSG_NOSIGNAL | MSG_WAITALL);
    sqe->user_data = tag(SEND, fd, buffer);
}

static void give_back(unsigned buffer) {
    io_uring_buf_ring_add(buffer_ring, buffers + (size_t)buffer * BUFFER_BYTES, BUFFER_BYTES, (unsigned short)buffer,
                          io_uring_buf_ring_mask(BUFFERS), 0);
    io_uring_buf_ring_advance(buffer_ring, 1);
}

static void complete(const struct io_uring_cqe *cqe) {
    enum operation operation = (enum operation)(cqe->user_data >> 56);
    unsigned buffer = (cqe->user_data >> 32) & 0xffffff;
    int fd = (int)(uint32_t)cqe->user_data;
    bool more = cqe->flags & IORING_CQE_F_MORE;
    switch (operation) {
    case ACCEPT:
        if (cqe->res >= 0) submit_receive(cqe->res);
        if (!more) submit_accept(fd);
        break;
    case RECEIVE:
        if (cqe->res > 0) {
            submit_send(fd, cqe->flags >> IORING_CQE_BUFFER_SHIFT, (unsigned)cqe->res);
            if (!more) submit_receive(fd);
        } else if (cqe->res == -ENOBUFS) {
            submit_receive(fd);
        } else {
            close(fd);
        }
        break;
    case SEND: give_back(buffer); break;
    }
}

static int listen_on(int port) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* accepted sockets inherit it */
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, BACKLOG)) {
        perror("echo_uring");
        exit(1);
    }
    return listener;
}

static void ring_open(void) {
    struct io_uring_params params = {.flags =
                                         IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
                                     .cq_entries = CQ_ENTRIES};
    int error = io_uring_queue_init_params(SQ_ENTRIES, &ring, &params);
    size_t ring_bytes = BUFFERS * sizeof(struct io_uring_buf);
    buffer_ring = mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
    buffers = malloc((size_t)BUFFERS * BUFFER_BYTES);
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)buffer_ring, .ring_entries = BUFFERS, .bgid = 0};
    if (!error) error = io_uring_register_buf_ring(&ring, &registration, 0);
    if (error) {
        fprintf(stderr, "echo_uring: %s\n", strerror(-error));
        exit(1);
    }
    io_uring_buf_ring_init(buffer_ring);
    for (unsigned buffer = 0; buffer < BUFFERS; buffer++) give_back(buffer);
}

int main(int argc, char **argv) {
    int listener = listen_on(argc > 1 ? atoi(argv[1]) : 9000);
    ring_open();
    submit_accept(listener);
    for (;;) {
        io_uring_submit_and_wait(&ring, 1);
        struct io_uring_cqe *cqe;
        unsigned head, count = 0;
        io_uring_for_each_cqe(&ring, head, cqe) {
            complete(cqe);
            count++;
        }
        io_uring_cq_advance(&ring, count);
    }
}
