/* hold.c: a connection that sends often keeps a buffer for a while, where the driver works like that (port.h, 4). */
#include "rig.h"

/* Two messages, the second right after the first: now a receive with a buffer pends. */
static struct connection *connect_chatty(struct rig *rig, socket_t *client) {
    struct connection *connection = rig_connect(rig, client);
    rig_receive(rig, connection);
    for (size_t count = 1; count <= 2; count++) {
        client_send(*client, "a", 1);
        UNTIL(rig, connection->byte_count == count);
    }
    return connection;
}

static void connection_that_sends_often_holds_one_buffer_for_a_second(struct rig *rig) {
    socket_t client;
    uint32_t available = buffer_available(&rig->pool);
    struct connection *connection = connect_chatty(rig, &client);
    int64_t began_ns = platform_monotonic_ns();
    CHECK(buffer_available(&rig->pool) == available - 1);
    UNTIL(rig, buffer_available(&rig->pool) == available);
    CHECK(platform_monotonic_ns() - began_ns > SECOND_NS / 2);
    CHECK(connection->receiving);
    for (size_t count = 3; count <= 5; count++) {
        client_send(client, "a", 1);
        UNTIL(rig, connection->byte_count == count);
    }
    CHECK(buffer_available(&rig->pool) == available - 1);
    client_shutdown(client);
    UNTIL(rig, connection->end_of_file);
    CHECK(received_is(connection, "aaaaa", 5) && buffer_available(&rig->pool) == available);
    client_close(client);
}

static void one_long_wait_gives_buffers_back(struct rig *rig) {
    socket_t client;
    uint32_t available = buffer_available(&rig->pool);
    connect_chatty(rig, &client);
    /* Each wait may end early, with no event, but none needs to: half as much again is enough for one. */
    for (int turn = 0; turn < 3 && buffer_available(&rig->pool) != available; turn++) rig_turn(rig, 3 * SECOND_NS / 2);
    CHECK(buffer_available(&rig->pool) == available);
    client_close(client);
}

static void no_more_than_half_of_the_pool_is_held(struct rig *rig) {
    enum { CLIENTS = 12 };
    socket_t clients[CLIENTS];
    uint32_t limit = rig->pool.limit;
    CHECK(limit == 16);
    for (int i = 0; i < CLIENTS; i++) connect_chatty(rig, &clients[i]);
    CHECK(buffer_available(&rig->pool) >= limit / 2 && buffer_available(&rig->pool) < limit);
    for (int i = 0; i < CLIENTS; i++) client_close(clients[i]);
}

static void held_buffer_goes_to_who_finds_the_pool_empty(struct rig *rig) {
    enum { BYTES = 100000 };
    socket_t chatty, other;
    struct stream writer;
    struct connection *connection = connect_chatty(rig, &chatty), *greedy = rig_connect(rig, &other);
    greedy->hold = true;
    rig_receive(rig, greedy);
    stream_write(&writer, other, 9, BYTES);
    UNTIL(rig, greedy->held_count == rig->pool.limit); /* the chatty one's is among them */
    client_send(chatty, "b", 1);
    rig_quiet(rig, 20000000);
    greedy->hold = false;
    rig_free_held(greedy, greedy->held_count);
    UNTIL(rig, connection->byte_count == 3 && greedy->byte_count == BYTES);
    stream_join(&writer);
    CHECK(received_is(connection, "aab", 3) && pattern_is(9, 0, greedy->bytes, BYTES));
    client_close(chatty);
    client_close(other);
}

static void bytes_that_meet_the_asking_back_are_whole(struct rig *rig) {
    enum { BYTES = 200000 };
    socket_t clients[2];
    struct stream writers[2];
    struct connection *chatty = connect_chatty(rig, &clients[0]), *greedy = rig_connect(rig, &clients[1]);
    size_t before = chatty->byte_count;
    greedy->hold = true;
    rig_receive(rig, greedy);
    for (uint32_t i = 0; i < 2; i++) stream_write(&writers[i], clients[i], 10 + i, BYTES);
    for (int64_t until_ns = platform_monotonic_ns() + LIMIT_NS; chatty->byte_count - before + greedy->byte_count < 2 * BYTES;) {
        rig_turn(rig, 1000000);
        if (buffer_available(&rig->pool) == 0) rig_free_held(greedy, greedy->held_count);
        CHECK(platform_monotonic_ns() < until_ns);
    }
    rig_free_held(greedy, greedy->held_count);
    for (int i = 0; i < 2; i++) stream_join(&writers[i]);
    CHECK(pattern_is(10, 0, chatty->bytes + before, BYTES) && pattern_is(11, 0, greedy->bytes, BYTES));
    for (int i = 0; i < 2; i++) client_close(clients[i]);
}

static void cancel_of_a_receive_that_holds_a_buffer_ends_once(struct rig *rig) {
    socket_t client;
    uint32_t available = buffer_available(&rig->pool);
    struct connection *connection = connect_chatty(rig, &client);
    rig_receive_cancel(rig, connection);
    UNTIL(rig, connection->receive_finals == 1);
    CHECK(connection->receive_error == PORT_CANCELLED && buffer_available(&rig->pool) == available);
    rig_quiet(rig, 20000000);
    rig_receive(rig, connection);
    client_send(client, "b", 1);
    UNTIL(rig, connection->byte_count == 3);
    CHECK(received_is(connection, "aab", 3));
    client_close(client);
}

static void cancel_after_the_asking_back_ends_once(struct rig *rig) {
    socket_t client;
    uint32_t available = buffer_available(&rig->pool);
    struct connection *connection = connect_chatty(rig, &client);
    UNTIL(rig, buffer_available(&rig->pool) == available);
    rig_receive_cancel(rig, connection);
    UNTIL(rig, connection->receive_finals == 1);
    CHECK(connection->receive_error == PORT_CANCELLED);
    rig_quiet(rig, 20000000);
    client_close(client);
}

const struct test hold_tests[] = {
    TEST_OF(iocp, connection_that_sends_often_holds_one_buffer_for_a_second),
    TEST_OF(iocp, one_long_wait_gives_buffers_back),
    TEST_WITH_OF(iocp, no_more_than_half_of_the_pool_is_held, 512, 16),
    TEST_WITH(held_buffer_goes_to_who_finds_the_pool_empty, 512, 64),
    TEST_WITH(bytes_that_meet_the_asking_back_are_whole, 512, 64),
    TEST(cancel_of_a_receive_that_holds_a_buffer_ends_once),
    TEST_OF(iocp, cancel_after_the_asking_back_ends_once),
    {NULL, NULL, NULL, {0, 0}},
};
