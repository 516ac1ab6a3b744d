/* send.c: bytes go out. */
#include "rig.h"

static void sends_keep_order_with_gather_lists_of_64(struct rig *rig) {
    enum { SENDS = 200, BYTES = 2 << 20 };
    socket_t client;
    struct stream reader;
    uint8_t *data = pattern_new(11, BYTES);
    struct connection *connection = rig_connect(rig, &client);
    stream_read(&reader, client, 11);
    size_t done = 0;
    uint32_t step = 0;
    for (int i = 0; i < SENDS; i++) {
        uint32_t slices = i % 3 ? PORT_SLICES_MAX : 1 + (uint32_t)i % PORT_SLICES_MAX;
        size_t at = done;
        for (uint32_t k = 0; k < slices; k++) { /* pieces of 1 to 160 bytes */
            size_t bytes = 1 + ++step * 7919u % 160;
            port_slice_set(&connection->gather.slices[k], data + at, bytes);
            at += bytes;
        }
        CHECK(at <= BYTES);
        if (slices == 1) rig_send(rig, connection, data + done, at - done);
        else rig_send_gather(rig, connection, slices);
        UNTIL(rig, !connection->sending);
        CHECK(connection->send_error == PORT_OK);
        done = (size_t)connection->sent_bytes; /* a short count is taken up from where it ended */
    }
    CHECK(platform_socket_shutdown_send(connection->socket.handle) == 0);
    stream_join(&reader);
    CHECK(reader.whole && !reader.by_error && reader.bytes == done);
    free(data);
    client_close(client);
}

static void large_send_is_whole(struct rig *rig) {
    enum { BYTES = 8 << 20 };
    socket_t client;
    struct stream reader;
    uint8_t *data = pattern_new(12, BYTES);
    struct connection *connection = rig_connect(rig, &client);
    stream_read(&reader, client, 12);
    rig_send_whole(rig, connection, data, BYTES);
    UNTIL(rig, connection->unsent_bytes == 0);
    CHECK(connection->send_error == PORT_OK && connection->sent_bytes == BYTES);
    CHECK(platform_socket_shutdown_send(connection->socket.handle) == 0);
    stream_join(&reader);
    CHECK(reader.whole && !reader.by_error && reader.bytes == BYTES);
    free(data);
    client_close(client);
}

static void large_gathered_send_is_whole(struct rig *rig) {
    enum { PIECE = 64 << 10, BYTES = PIECE * PORT_SLICES_MAX };
    socket_t client;
    struct stream reader;
    uint8_t *data = pattern_new(13, BYTES);
    struct connection *connection = rig_connect(rig, &client);
    stream_read(&reader, client, 13);
    for (uint32_t i = 0; i < PORT_SLICES_MAX; i++) port_slice_set(&connection->gather.slices[i], data + (size_t)i * PIECE, PIECE);
    rig_send_gather(rig, connection, PORT_SLICES_MAX);
    UNTIL(rig, !connection->sending);
    size_t done = (size_t)connection->sent_bytes;
    if (done < BYTES) rig_send_whole(rig, connection, data + done, BYTES - done);
    UNTIL(rig, connection->sent_bytes == BYTES);
    CHECK(platform_socket_shutdown_send(connection->socket.handle) == 0);
    stream_join(&reader);
    CHECK(reader.whole && !reader.by_error && reader.bytes == BYTES);
    free(data);
    client_close(client);
}

static void both_directions_go_at_once(struct rig *rig) {
    enum { BYTES = 4 << 20 };
    socket_t client;
    struct stream reader, writer;
    uint8_t *data = pattern_new(14, BYTES);
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    stream_read(&reader, client, 14);
    stream_write(&writer, client, 15, BYTES);
    rig_send_whole(rig, connection, data, BYTES);
    UNTIL(rig, connection->unsent_bytes == 0 && connection->byte_count == BYTES);
    CHECK(platform_socket_shutdown_send(connection->socket.handle) == 0);
    stream_join(&reader);
    stream_join(&writer);
    CHECK(reader.whole && reader.bytes == BYTES && writer.whole && pattern_is(15, 0, connection->bytes, BYTES));
    free(data);
    client_close(client);
}

static void cancel_of_send_to_a_peer_that_never_reads_ends_once(struct rig *rig) {
    enum { BYTES = 32 << 20 };
    socket_t client;
    uint8_t *data = pattern_new(16, BYTES);
    struct connection *connection = rig_connect(rig, &client);
    rig_send_until_blocked(rig, connection, data, BYTES);
    uint32_t finals = connection->send_finals;
    rig_send_cancel(rig, connection);
    rig_send_cancel(rig, connection);
    UNTIL(rig, !connection->sending);
    CHECK(connection->send_finals == finals + 1 && connection->sent_bytes < BYTES);
    rig_send_cancel(rig, connection);
    rig_quiet(rig, 50000000);
    rig_release(rig, connection);
    client_close(client);
    free(data);
}

static void cancelled_send_says_what_went_out(struct rig *rig) {
    enum { BYTES = 32 << 20 };
    socket_t client;
    struct stream reader;
    uint8_t *data = pattern_new(17, BYTES);
    struct connection *connection = rig_connect(rig, &client);
    rig_send_until_blocked(rig, connection, data, BYTES);
    rig_send_cancel(rig, connection);
    UNTIL(rig, !connection->sending);
    uint64_t sent = connection->sent_bytes;
    stream_read(&reader, client, 17);
    CHECK(platform_socket_shutdown_send(connection->socket.handle) == 0);
    stream_join(&reader);
    CHECK(reader.whole && !reader.by_error);
    /* What the peer has is a beginning of what was sent, and what was said to be out is there. */
    CHECK(reader.bytes >= sent && reader.bytes <= BYTES);
    free(data);
    client_close(client);
}

static void blocked_send_goes_on_when_the_peer_reads(struct rig *rig) {
    enum { BYTES = 32 << 20 };
    socket_t client;
    struct stream reader;
    uint8_t *data = pattern_new(18, BYTES);
    struct connection *connection = rig_connect(rig, &client);
    rig_send_until_blocked(rig, connection, data, BYTES);
    stream_read(&reader, client, 18);
    while (connection->sent_bytes < BYTES) {
        UNTIL(rig, !connection->sending);
        CHECK(connection->send_error == PORT_OK);
        size_t done = (size_t)connection->sent_bytes;
        if (done < BYTES) rig_send(rig, connection, data + done, BYTES - done);
    }
    CHECK(platform_socket_shutdown_send(connection->socket.handle) == 0);
    stream_join(&reader);
    CHECK(reader.whole && reader.bytes == BYTES);
    free(data);
    client_close(client);
}

/* Not on a completion port, whose send ends when all of it is taken. */
static void send_that_fits_in_part_ends_with_that_part(struct rig *rig) {
    enum { BYTES = 64 << 20 };
    socket_t client;
    uint8_t *data = pattern_new(17, BYTES);
    struct connection *connection = rig_connect(rig, &client);
    rig_send(rig, connection, data, BYTES);
    UNTIL(rig, !connection->sending);
    CHECK(connection->send_error == PORT_OK && connection->sent_bytes > 0 && connection->sent_bytes < BYTES);
    free(data);
    client_close(client);
}

static void reset_under_a_blocked_send_is_reported_as_reset(struct rig *rig) {
    enum { BYTES = 32 << 20 };
    socket_t client;
    uint8_t *data = pattern_new(19, BYTES);
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    rig_send_until_blocked(rig, connection, data, BYTES);
    client_reset(client);
    UNTIL(rig, !connection->sending && !connection->receiving);
    /* Both operations end; a part may still count as sent, and then the next send says it. */
    if (connection->send_error == PORT_OK) {
        if (rig_try_send(rig, connection, data, 1) == 0) UNTIL(rig, !connection->sending);
        else connection->send_error = PORT_RESET;
    }
    CHECK(connection->send_error == PORT_RESET);
    free(data);
}

static void send_after_a_reset_fails_and_the_port_goes_on(struct rig *rig) {
    socket_t client, other;
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    client_reset(client);
    UNTIL(rig, connection->receive_finals == 1);
    for (int i = 0; i < 3; i++) {
        if (rig_try_send(rig, connection, "too late", 8)) continue;
        UNTIL(rig, !connection->sending);
        CHECK(connection->send_error != PORT_OK && connection->send_error != PORT_CANCELLED);
    }
    rig_release(rig, connection);
    struct connection *good = rig_connect(rig, &other);
    rig_send(rig, good, "fine", 4);
    UNTIL(rig, !good->sending);
    client_expect(other, "fine", 4);
    client_close(other);
}

const struct test send_tests[] = {
    TEST(sends_keep_order_with_gather_lists_of_64),
    TEST(large_send_is_whole),
    TEST(large_gathered_send_is_whole),
    TEST(both_directions_go_at_once),
    TEST(cancel_of_send_to_a_peer_that_never_reads_ends_once),
    TEST(cancelled_send_says_what_went_out),
    TEST(blocked_send_goes_on_when_the_peer_reads),
    TEST_OF(io_uring, send_that_fits_in_part_ends_with_that_part),
    TEST_OF(epoll, send_that_fits_in_part_ends_with_that_part),
    TEST(reset_under_a_blocked_send_is_reported_as_reset),
    TEST(send_after_a_reset_fails_and_the_port_goes_on),
    {NULL, NULL, NULL, {0, 0}},
};
