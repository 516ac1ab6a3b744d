/* Echo peer: libuv, one loop, a buffer and a write request for each message, as its own examples do it.
 *
 *   echo_libuv PORT          (needs libuv)
 */
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

enum { BACKLOG = 4096 };

struct message {
    uv_write_t request; /* first: the callback gets its address */
    uv_buf_t buffer;
};

static void on_close(uv_handle_t *handle) { free(handle); }

static void on_allocate(uv_handle_t *handle, size_t bytes, uv_buf_t *buffer) {
    (void)handle;
    *buffer = uv_buf_init(malloc(bytes), (unsigned)bytes);
}

static void on_written(uv_write_t *request, int status) {
    (void)status;
    struct message *message = (struct message *)request;
    free(message->buffer.base);
    free(message);
}

static void on_read(uv_stream_t *client, ssize_t bytes, const uv_buf_t *buffer) {
    if (bytes > 0) {
        struct message *message = malloc(sizeof *message);
        message->buffer = uv_buf_init(buffer->base, (unsigned)bytes);
        uv_write(&message->request, client, &message->buffer, 1, on_written);
        return;
    }
    free(buffer->base);
    if (bytes < 0) uv_close((uv_handle_t *)client, on_close);
}

static void on_connection(uv_stream_t *listener, int status) {
    if (status < 0) return;
    uv_tcp_t *client = malloc(sizeof *client);
    uv_tcp_init(listener->loop, client);
    if (uv_accept(listener, (uv_stream_t *)client)) {
        uv_close((uv_handle_t *)client, on_close);
        return;
    }
    uv_tcp_nodelay(client, 1);
    uv_read_start((uv_stream_t *)client, on_allocate, on_read);
}

int main(int argc, char **argv) {
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t listener;
    struct sockaddr_in address;
    uv_ip4_addr("127.0.0.1", argc > 1 ? atoi(argv[1]) : 9000, &address);
    uv_tcp_init(loop, &listener);
    int error = uv_tcp_bind(&listener, (struct sockaddr *)&address, 0);
    if (!error) error = uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection);
    if (error) {
        fprintf(stderr, "echo_libuv: %s\n", uv_strerror(error));
        return 1;
    }
    return uv_run(loop, UV_RUN_DEFAULT);
}
