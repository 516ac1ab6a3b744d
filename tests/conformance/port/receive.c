/* receive.c: bytes come in. */
#include "rig.h"

static void received_bytes_are_whole_and_in_order(struct rig *rig) {
    enum { BYTES = 4 << 20 };
    socket_t client;
    struct stream writer;
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    stream_write(&writer, client, 1, BYTES);
    UNTIL(rig, connection->byte_count == BYTES || u32_load_acquire(&writer.ended) > 1);
    stream_join(&writer);
    CHECK(writer.whole && pattern_is(1, 0, connection->bytes, BYTES));
    CHECK(connection->receiving && connection->receive_finals == 0);
    client_close(client);
}

static void half_close_is_end_of_file_and_sending_goes_on(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    client_send(client, "abc", 3);
    client_shutdown(client);
    UNTIL(rig, connection->receive_finals == 1);
    CHECK(connection->end_of_file && received_is(connection, "abc", 3));
    for (int i = 0; i < 3; i++) {
        rig_send(rig, connection, "still here", 10);
        UNTIL(rig, !connection->sending);
        CHECK(connection->send_error == PORT_OK);
        client_expect(client, "still here", 10);
    }
    CHECK(platform_socket_shutdown_send(connection->socket.handle) == 0);
    client_expect_end(client);
    rig_quiet(rig, 30000000);
    client_close(client);
}

static void bytes_before_end_of_file_are_delivered_first(struct rig *rig) {
    enum { BYTES = 100000 }; /* many buffers, and all of it there before the receive is */
    uint8_t *data = pattern_new(2, BYTES);
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    client_send(client, data, BYTES);
    client_close(client);
    rig_receive(rig, connection);
    UNTIL(rig, connection->receive_finals == 1);
    CHECK(connection->end_of_file && received_is(connection, data, BYTES));
    free(data);
}

static void end_of_file_is_told_once(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    client_close(client);
    UNTIL(rig, connection->receive_finals == 1);
    CHECK(connection->end_of_file && connection->byte_count == 0);
    rig_receive_cancel(rig, connection); /* too late, and no harm */
    rig_quiet(rig, 30000000);
}

static void reset_is_reported_as_reset(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    rig_quiet(rig, 10000000);
    client_reset(client);
    UNTIL(rig, connection->receive_finals == 1);
    CHECK(connection->receive_error == PORT_RESET && connection->byte_count == 0);
    rig_quiet(rig, 30000000);
}

static void close_with_unread_bytes_is_reported_as_reset(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    rig_send(rig, connection, "unread", 6);
    UNTIL(rig, connection->send_finals == 1 && client_waiting(client) == 6);
    client_close(client);
    UNTIL(rig, connection->receive_finals == 1);
    CHECK(connection->receive_error == PORT_RESET);
}

/* ---- cancel ----------------------------------------------------------------------------------------------------- */

static void cancel_of_receive_delivers_one_final_event(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    rig_quiet(rig, 10000000);
    rig_receive_cancel(rig, connection);
    rig_receive_cancel(rig, connection);
    UNTIL(rig, connection->receive_finals == 1);
    CHECK(connection->receive_error == PORT_CANCELLED && connection->byte_count == 0);
    rig_receive_cancel(rig, connection);
    rig_quiet(rig, 50000000);
    client_close(client);
}

static void cancel_before_the_first_wait_delivers_one_final_event(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    client_send(client, "abc", 3);
    rig_receive(rig, connection);
    rig_receive_cancel(rig, connection);
    UNTIL(rig, connection->receive_finals == 1);
    rig_quiet(rig, 30000000);
    if (connection->byte_count == 0) { /* then they are still in the socket */
        rig_receive(rig, connection);
        UNTIL(rig, connection->byte_count == 3);
    }
    CHECK(received_is(connection, "abc", 3));
    client_close(client);
}

static void cancel_of_nothing_does_nothing(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    rig_receive_cancel(rig, connection);
    rig_send_cancel(rig, connection);
    rig_quiet(rig, 30000000);
    rig_receive(rig, connection);
    client_send(client, "abc", 3);
    UNTIL(rig, connection->byte_count == 3);
    CHECK(connection->receive_finals == 0);
    client_close(client);
}

static void paused_receive_loses_no_byte(struct rig *rig) {
    enum { BYTES = 2 << 20 };
    socket_t client;
    struct stream writer;
    struct connection *connection = rig_connect(rig, &client);
    stream_write(&writer, client, 3, BYTES);
    uint32_t pauses = 0;
    for (uint32_t step = 0; connection->byte_count < BYTES; step++) {
        if (!connection->receiving) rig_receive(rig, connection);
        /* Cancelled in each state that a receive has: before it waits, with data on its way (a wake ends the wait
         * before they are here), with data delivered. */
        if (step % 3) rig->driver->post(rig->port, POST_WAKE);
        for (uint32_t turns = step % 4; turns > 0; turns--) rig_turn(rig, 20000000);
        rig_receive_cancel(rig, connection);
        UNTIL(rig, !connection->receiving);
        CHECK(connection->receive_error == PORT_CANCELLED);
        pauses++;
    }
    stream_join(&writer);
    CHECK(writer.whole && connection->byte_count == BYTES && pattern_is(3, 0, connection->bytes, BYTES));
    CHECK(pauses == connection->receive_finals);
    client_close(client);
}

/* ---- buffers ---------------------------------------------------------------------------------------------------- */

static void idle_connection_holds_no_buffer(struct rig *rig) {
    enum { CLIENTS = 50 };
    socket_t clients[CLIENTS];
    rig_turn(rig, 0); /* a driver may keep some for the port as a whole */
    uint32_t available = buffer_available(&rig->pool);
    for (int i = 0; i < CLIENTS; i++) rig_receive(rig, rig_connect(rig, &clients[i]));
    rig_quiet(rig, 20000000);
    CHECK(buffer_available(&rig->pool) == available);
    for (int i = 0; i < CLIENTS; i++) client_close(clients[i]);
}

static void connection_that_fell_silent_holds_no_buffer(struct rig *rig) {
    enum { CLIENTS = 20 };
    socket_t clients[CLIENTS];
    struct connection *connections[CLIENTS];
    rig_turn(rig, 0);
    uint32_t available = buffer_available(&rig->pool);
    uint8_t *data = pattern_new(4, rig->pool.buffer_bytes); /* exactly one buffer: nothing says that it was the end */
    for (int i = 0; i < CLIENTS; i++) {
        connections[i] = rig_connect(rig, &clients[i]);
        rig_receive(rig, connections[i]);
        client_send(clients[i], data, rig->pool.buffer_bytes);
    }
    for (int i = 0; i < CLIENTS; i++) UNTIL(rig, connections[i]->byte_count == rig->pool.buffer_bytes);
    rig_quiet(rig, 30000000);
    CHECK(buffer_available(&rig->pool) == available);
    free(data);
    for (int i = 0; i < CLIENTS; i++) client_close(clients[i]);
}

/* A driver may take several buffers at a time from who sends much: what it does not fill it gives back, and a single byte, or
 * just as much as they hold, is not lost between two ways of receiving. */
static void messages_of_all_sizes_are_whole_and_hold_no_buffer(struct rig *rig) {
    const uint32_t one = rig->pool.buffer_bytes;
    const uint32_t sizes[] = {1,           one,      3 * one,  1,   1,   one + 1, 4 * one - 1, 8 * one, 1,
                              8 * one + 1, 20 * one, 16 * one, one, one, 1};
    socket_t client;
    uint32_t sent = 0;
    rig_turn(rig, 0);
    uint32_t available = buffer_available(&rig->pool);
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    uint8_t *data = pattern_new(7, 100 * one);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        client_send(client, data + sent, sizes[i]);
        sent += sizes[i];
        UNTIL(rig, connection->byte_count == sent);
    }
    CHECK(received_is(connection, data, sent) && connection->receiving);
    UNTIL(rig, buffer_available(&rig->pool) == available); /* on Windows, a second after the last message */
    client_send(client, data + sent, 5 * one);
    client_close(client); /* the end right behind it */
    UNTIL(rig, connection->receive_finals == 1);
    CHECK(connection->end_of_file && received_is(connection, data, sent + 5 * one));
    free(data);
}

/* Takes data into held buffers until the pool has none left, and no event comes any more. */
static void drain_pool(struct rig *rig) {
    UNTIL(rig, u64_load(&rig->port->counters.starved) > 0);
    for (int quiet = 0; quiet < 3;) quiet = rig_turn(rig, 20000000) ? 0 : quiet + 1;
    CHECK(buffer_available(&rig->pool) == 0);
}

static void receive_goes_on_after_pool_was_empty_without_losing_a_byte(struct rig *rig) {
    enum { BYTES = 1 << 20 };
    socket_t client;
    struct stream writer;
    struct connection *connection = rig_connect(rig, &client);
    connection->hold = true;
    rig_receive(rig, connection);
    stream_write(&writer, client, 5, BYTES);
    for (int i = 0; connection->byte_count < BYTES; i++) {
        if (connection->byte_count + (size_t)rig->pool.limit * rig->pool.buffer_bytes < BYTES && i < 20) {
            size_t before = connection->byte_count;
            drain_pool(rig);
            CHECK(connection->receiving);
            rig_quiet(rig, 10000000); /* no buffer, no event, no end */
            rig_free_held(connection, i % 2 ? connection->held_count : 1);
            UNTIL(rig, connection->byte_count > before);
        } else {
            rig_free_held(connection, connection->held_count);
            rig_turn(rig, 20000000);
        }
    }
    stream_join(&writer);
    CHECK(writer.whole && connection->byte_count == BYTES && pattern_is(5, 0, connection->bytes, BYTES));
    client_close(client);
}

static void every_starved_receive_goes_on(struct rig *rig) {
    enum { CLIENTS = 30, BYTES = 6000 };
    socket_t clients[CLIENTS];
    struct connection *connections[CLIENTS];
    uint8_t *data = pattern_new(6, BYTES);
    for (int i = 0; i < CLIENTS; i++) {
        connections[i] = rig_connect(rig, &clients[i]);
        connections[i]->hold = true;
        rig_receive(rig, connections[i]);
    }
    for (int i = 0; i < CLIENTS; i++) client_send(clients[i], data, BYTES);
    drain_pool(rig);
    for (;;) {
        size_t bytes = 0, before = 0;
        for (int i = 0; i < CLIENTS; i++) before += connections[i]->byte_count;
        if (before == (size_t)CLIENTS * BYTES) break;
        for (int i = 0; i < CLIENTS; i++) rig_free_held(connections[i], connections[i]->held_count);
        int64_t until_ns = platform_monotonic_ns() + LIMIT_NS;
        do {
            rig_turn(rig, 20000000);
            bytes = 0;
            for (int i = 0; i < CLIENTS; i++) bytes += connections[i]->byte_count;
            CHECK(platform_monotonic_ns() < until_ns);
        } while (bytes == before);
    }
    for (int i = 0; i < CLIENTS; i++) {
        CHECK(received_is(connections[i], data, BYTES) && connections[i]->receiving);
        client_close(clients[i]);
    }
    free(data);
}

static void starved_receive_can_be_cancelled_and_taken_up_again(struct rig *rig) {
    enum { BYTES = 200000 };
    socket_t client, other;
    struct stream writer;
    struct connection *connection = rig_connect(rig, &client), *bystander = rig_connect(rig, &other);
    connection->hold = true;
    rig_receive(rig, connection);
    rig_receive(rig, bystander);
    stream_write(&writer, client, 7, BYTES);
    drain_pool(rig);
    client_send(other, "me too", 6);
    rig_quiet(rig, 20000000);
    rig_receive_cancel(rig, connection);
    UNTIL(rig, connection->receive_finals == 1); /* though there is still no buffer */
    CHECK(connection->receive_error == PORT_CANCELLED && bystander->receive_finals == 0);
    rig_free_held(connection, connection->held_count);
    connection->hold = false;
    UNTIL(rig, bystander->byte_count == 6);
    rig_receive(rig, connection);
    UNTIL(rig, connection->byte_count == BYTES);
    stream_join(&writer);
    CHECK(pattern_is(7, 0, connection->bytes, BYTES));
    client_close(client);
    client_close(other);
}

static void end_of_a_starved_connection_is_told_when_buffers_are_back(struct rig *rig) {
    enum { BYTES = 200000 };
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    uint8_t *data = pattern_new(8, BYTES);
    connection->hold = true;
    rig_receive(rig, connection);
    client_send(client, data, BYTES);
    client_close(client);
    drain_pool(rig);
    for (int64_t until_ns = platform_monotonic_ns() + LIMIT_NS; connection->receiving;) {
        rig_free_held(connection, connection->held_count);
        rig_turn(rig, 20000000);
        CHECK(platform_monotonic_ns() < until_ns);
    }
    CHECK(connection->end_of_file && received_is(connection, data, BYTES));
    free(data);
}

#ifdef __linux__
/* The queue of entries is full and the kernel takes none. A cancel that waits for an entry must not outlive what it is for. */
static void cancel_that_waits_ends_with_its_operation(struct rig *rig) {
    enum { OTHERS = 300, MOST = 250 }; /* four entries for each of MOST are about as many as the queue has */
    struct connection *others[OTHERS], *connection;
    socket_t clients[OTHERS], client;
    connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    for (int i = 0; i < OTHERS; i++) others[i] = rig_connect(rig, &clients[i]);
    rig_quiet(rig, 10000000);

    u32_store(&faults.takes_nothing, 1);
    for (int i = 0; i < OTHERS; i++) {
        rig_receive(rig, others[i]);
        rig_send(rig, others[i], "?", 1);
    }
    for (int i = 0; i < MOST; i++) {
        rig_receive_cancel(rig, others[i]);
        rig_send_cancel(rig, others[i]);
    }
    rig_receive_cancel(rig, connection); /* in the middle of those that wait */
    for (int i = MOST; i < OTHERS; i++) {
        rig_receive_cancel(rig, others[i]);
        rig_send_cancel(rig, others[i]);
    }
    client_send(client, "bytes", 5);
    client_shutdown(client);
    UNTIL(rig, connection->receive_finals == 1);
    CHECK(connection->byte_count == 5 && connection->end_of_file); /* the kernel has not heard of the cancel */
    rig_release(rig, connection);

    u32_store(&faults.takes_nothing, 0);
    for (int i = 0; i < OTHERS; i++) {
        UNTIL(rig, others[i]->receive_finals == 1 && others[i]->send_finals == 1);
        client_close(clients[i]);
    }
    client_close(client);
}
#endif

const struct test receive_tests[] = {
    TEST(received_bytes_are_whole_and_in_order),
    TEST(half_close_is_end_of_file_and_sending_goes_on),
    TEST(bytes_before_end_of_file_are_delivered_first),
    TEST(end_of_file_is_told_once),
    TEST(reset_is_reported_as_reset),
    TEST(close_with_unread_bytes_is_reported_as_reset),
    TEST(cancel_of_receive_delivers_one_final_event),
    TEST(cancel_before_the_first_wait_delivers_one_final_event),
    TEST(cancel_of_nothing_does_nothing),
    TEST(paused_receive_loses_no_byte),
    TEST(idle_connection_holds_no_buffer),
    TEST(connection_that_fell_silent_holds_no_buffer),
    TEST(messages_of_all_sizes_are_whole_and_hold_no_buffer),
#ifdef __linux__
    TEST_OF(io_uring, cancel_that_waits_ends_with_its_operation),
#endif
    TEST_WITH(receive_goes_on_after_pool_was_empty_without_losing_a_byte, 512, 64),
    TEST_WITH(every_starved_receive_goes_on, 512, 64),
    TEST_WITH(starved_receive_can_be_cancelled_and_taken_up_again, 512, 64),
    TEST_WITH(end_of_a_starved_connection_is_told_when_buffers_are_back, 512, 64),
    {NULL, NULL, NULL, {0, 0}},
};
