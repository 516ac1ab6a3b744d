/* life.c: ports, sockets and operations from their beginning to their end, and a fair share for each. */
#include "rig.h"

static void new_port_is_quiet_and_waits_as_long_as_it_was_told(struct rig *rig) {
    int64_t begin_ns = platform_monotonic_ns();
    for (int i = 0; i < 100; i++) CHECK(rig_turn(rig, 0) == 0);
    CHECK(platform_monotonic_ns() - begin_ns < SECOND_NS);
    begin_ns = platform_monotonic_ns();
    CHECK(rig_turn(rig, 50000000) == 0);
    int64_t took_ns = platform_monotonic_ns() - begin_ns;
    CHECK(took_ns >= 45000000 && took_ns < SECOND_NS);
    CHECK(u64_load(&rig->port->counters.waits) == 101 && u64_load(&rig->port->counters.events) == 0);
}

static void ports_open_and_close_without_a_trace(struct rig *rig) {
    static struct rig other;
    uint32_t handles = 0;
    for (int i = 0; i < 25; i++) {
        socket_t client;
        if (i == 5) handles = handles_open(); /* by now the system has made what it keeps */
        rig_open(&other, rig->driver, NULL);
        rig_receive(&other, rig_connect(&other, &client));
        other.driver->post(other.port, POST_WAKE); /* never delivered, perhaps */
        rig_close(&other);
        client_close(client);
    }
    CHECK(handles_open() < handles + 10);
}

static void port_with_an_untaken_exit_closes(struct rig *rig) {
    static struct rig other;
    rig_open(&other, rig->driver, NULL);
    rig_end(&other);
    other.driver->post(other.port, POST_EXIT);
    other.driver->post(other.port, POST_WAKE);
    rig_close_port(&other);
}

static void result_is_never_delivered_inside_submit(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    client_send(client, "here already", 12);
    uint32_t available = buffer_available(&rig->pool);
    rig_receive(rig, connection); /* the rig checks that both are outstanding, and pending counts them */
    rig_send(rig, connection, "fits at once", 12);
    CHECK(rig->port->pending == rig->outstanding && connection->socket.receive.outstanding &&
          connection->socket.send.outstanding);
    CHECK(buffer_available(&rig->pool) == available);
    UNTIL(rig, connection->send_finals == 1 && connection->byte_count == 12);
    client_expect(client, "fits at once", 12);
    client_close(client);
}

static void submit_error_is_followed_by_no_event(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    CHECK(platform_socket_shutdown_send(connection->socket.handle) == 0);
    for (uint32_t round = 1; round <= 3; round++) {
        uint32_t finals = connection->send_finals;
        if (rig_try_send(rig, connection, "after the end", 13) == 0) { /* then one final event that says it */
            UNTIL(rig, !connection->sending);
            CHECK(connection->send_finals == finals + 1 && connection->send_error != PORT_OK && connection->sent_bytes == 0);
        }
        rig_quiet(rig, 30000000);
    }
    client_close(client);
}

static void close_with_pending_receive_delivers_one_final_event(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    rig_quiet(rig, 10000000);
    rig_receive_cancel(rig, connection); /* close is: cancel, await the final event, release */
    UNTIL(rig, !connection->receiving);
    CHECK(connection->receive_finals == 1 && connection->receive_error == PORT_CANCELLED);
    rig_release(rig, connection);
    rig_quiet(rig, 50000000);
    client_expect_end(client);
    client_close(client);
}

static void released_handle_brings_no_stale_event(struct rig *rig) {
    for (int i = 0; i < 100; i++) { /* the next socket mostly has the same handle, and the same memory */
        socket_t client;
        struct connection *connection = rig_connect(rig, &client);
        rig_receive(rig, connection);
        if (i % 2) client_send(client, "x", 1);
        if (i % 3 == 0) client_reset(client);
        if (i % 5 == 0) rig_turn(rig, 1000000);
        rig_receive_cancel(rig, connection);
        UNTIL(rig, !connection->receiving);
        CHECK(connection->receive_finals == 1 && connection->byte_count <= (i % 2 ? 1u : 0u));
        rig_release(rig, connection);
        if (i % 3) client_close(client);
    }
    rig_quiet(rig, 30000000);
}

/* ---- a fair share ----------------------------------------------------------------------------------------------- */

static void check_others_are_served(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    for (size_t round = 1; round <= 20; round++) {
        client_send(client, "?", 1);
        int64_t begin_ns = platform_monotonic_ns();
        while (connection->byte_count < round) {
            rig_turn(rig, 20000000);
            if (platform_monotonic_ns() - begin_ns > 2 * SECOND_NS) FAIL("one byte waited for two seconds");
        }
        rig_send(rig, connection, "!", 1);
        UNTIL(rig, !connection->sending);
        client_expect(client, "!", 1);
    }
    client_close(client);
}

static void one_busy_sender_does_not_starve_others(struct rig *rig) {
    socket_t busy;
    struct stream writer;
    struct connection *connection = rig_connect(rig, &busy);
    connection->discard = true;
    rig_receive(rig, connection);
    stream_write(&writer, busy, 31, (size_t)1 << 30);
    UNTIL(rig, connection->byte_count > 1000000);
    check_others_are_served(rig);
    u32_store_release(&writer.stop, 1);
    UNTIL(rig, u32_load_acquire(&writer.ended));
    stream_join(&writer);
    client_close(busy);
}

static void one_socket_whose_sends_end_at_once_does_not_starve_others(struct rig *rig) {
    socket_t busy;
    struct stream reader;
    uint8_t data[64];
    memset(data, 'x', sizeof data);
    struct connection *connection = rig_connect(rig, &busy);
    stream_read(&reader, busy, 0);
    connection->unsent = data;
    connection->send_endlessly = true;
    rig_send(rig, connection, data, sizeof data); /* and each time that it is out, again */
    UNTIL(rig, connection->send_finals > 1000);
    check_others_are_served(rig);
    connection->send_endlessly = false;
    UNTIL(rig, !connection->sending);
    CHECK(platform_socket_shutdown_send(connection->socket.handle) == 0);
    stream_join(&reader);
    CHECK(reader.bytes == connection->sent_bytes);
    client_close(busy);
}

static void busy_sockets_share_a_batch(struct rig *rig) {
    enum { CLIENTS = 8, BYTES = 300000 };
    socket_t clients[CLIENTS];
    struct connection *connections[CLIENTS];
    struct stream writers[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        connections[i] = rig_connect(rig, &clients[i]);
        rig_receive(rig, connections[i]);
        stream_write(&writers[i], clients[i], 40 + (uint32_t)i, BYTES);
    }
    for (int i = 0; i < CLIENTS; i++) UNTIL(rig, connections[i]->byte_count == BYTES);
    for (int i = 0; i < CLIENTS; i++) {
        stream_join(&writers[i]);
        CHECK(writers[i].whole && pattern_is(40 + (uint32_t)i, 0, connections[i]->bytes, BYTES));
        client_close(clients[i]);
    }
}

static void small_batches_lose_nothing(struct rig *rig) {
    enum { CLIENTS = 40 };
    socket_t clients[CLIENTS];
    struct connection *connections[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        connections[i] = rig_connect(rig, &clients[i]);
        rig_receive(rig, connections[i]);
    }
    rig->capacity = 8;
    for (int i = 0; i < CLIENTS; i++) client_send(clients[i], "one", 3);
    for (int i = 0; i < CLIENTS; i++) rig_send(rig, connections[i], "two", 3);
    rig->driver->post(rig->port, POST_WAKE);
    rig->driver->post(rig->port, POST_EXIT);
    for (int i = 0; i < CLIENTS; i++) UNTIL(rig, connections[i]->byte_count == 3 && connections[i]->send_finals == 1);
    UNTIL(rig, rig->woken > 0 && rig->exits == 1);
    for (int i = 0; i < CLIENTS; i++) {
        client_expect(clients[i], "two", 3);
        client_close(clients[i]);
    }
    for (int i = 0; i < CLIENTS; i++) UNTIL(rig, connections[i]->end_of_file);
}

/* ---- two owners ------------------------------------------------------------------------------------------------- */

struct worker {
    const struct port_driver *driver;
    uint32_t seed;
    struct rig rig;
    platform_thread thread;
};

static void echo_rounds(void *argument) {
    struct worker *worker = argument;
    enum { ROUNDS = 200, BYTES = 3000 };
    socket_t client;
    uint8_t *data = pattern_new(worker->seed, BYTES);
    rig_open(&worker->rig, worker->driver, NULL);
    struct connection *connection = rig_connect(&worker->rig, &client);
    rig_receive(&worker->rig, connection);
    for (int i = 0; i < ROUNDS; i++) {
        client_send(client, data, BYTES);
        UNTIL(&worker->rig, connection->byte_count == BYTES);
        CHECK(received_is(connection, data, BYTES));
        rig_send_whole(&worker->rig, connection, connection->bytes, BYTES);
        UNTIL(&worker->rig, connection->unsent_bytes == 0);
        client_expect(client, data, BYTES);
        connection->byte_count = 0;
    }
    rig_end(&worker->rig);
    client_close(client);
    free(data);
}

static void ports_of_two_threads_do_not_meet(struct rig *rig) {
    static struct worker workers[2];
    for (uint32_t i = 0; i < 2; i++) {
        workers[i].driver = rig->driver;
        workers[i].seed = 50 + i;
        CHECK(platform_thread_start(&workers[i].thread, echo_rounds, &workers[i], "worker") == 0);
    }
    for (int i = 0; i < 2; i++) {
        platform_thread_join(workers[i].thread);
        rig_close_port(&workers[i].rig); /* any thread may, when the owner has ended */
    }
}

/* ---- everything at once ----------------------------------------------------------------------------------------- */

static uint32_t random_next(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

struct pair {
    struct connection *connection;
    socket_t client;
    bool client_open, client_shut, closing;
    size_t client_sent;
};

static void pair_step(struct rig *rig, struct pair *pair, uint32_t seed, uint32_t *random, const uint8_t *data) {
    uint8_t scrap[8192];
    struct connection *connection = pair->connection;
    size_t bytes = 1 + random_next(random) % 5000, waiting;
    switch (random_next(random) % 16) {
    case 0:
    case 1:
    case 2:
    case 3: /* not more than the kernel surely holds while nobody receives */
        if (!pair->client_open || pair->client_shut || pair->client_sent - connection->byte_count > 30000) break;
        for (size_t i = 0; i < bytes; i++) scrap[i] = pattern_at(seed, pair->client_sent + i);
        /* The server may have closed: what matters here is the server's end. */
        if (client_try_send(pair->client, scrap, bytes)) pair->client_sent += bytes;
        else pair->client_shut = true;
        break;
    case 4:
    case 5:
    case 6:
        if (!connection->receiving && !pair->closing && !connection->end_of_file) rig_receive(rig, connection);
        break;
    case 7: rig_receive_cancel(rig, connection); break;
    case 8:
    case 9: {
        if (connection->sending || pair->closing) break;
        uint32_t slices = 2 + random_next(random) % (PORT_SLICES_MAX - 1);
        for (uint32_t i = 0; i < slices; i++)
            port_slice_set(&connection->gather.slices[i], data + i, 1 + random_next(random) % 2000);
        rig_send_gather(rig, connection, slices);
        break;
    }
    case 10: rig_send_cancel(rig, connection); break;
    case 11:
    case 12:
        if (!pair->client_open || (waiting = client_waiting(pair->client)) == 0) break;
        client_take(pair->client, scrap, waiting < sizeof scrap ? waiting : sizeof scrap);
        break;
    case 13:
        if (random_next(random) % 4 || !pair->client_open || pair->client_shut) break;
        platform_socket_shutdown_send(pair->client);
        pair->client_shut = true;
        break;
    case 14:
        if (random_next(random) % 4 || !pair->client_open) break;
        if (random_next(random) % 2) client_reset(pair->client);
        else client_close(pair->client);
        pair->client_open = false;
        break;
    case 15:
        if (random_next(random) % 4) break;
        pair->closing = true;
        rig_receive_cancel(rig, connection);
        rig_send_cancel(rig, connection);
        break;
    }
}

static void every_submit_ends_once_whatever_happens(struct rig *rig) {
    enum { PAIRS = 24, STEPS = 12000 };
    struct pair pairs[PAIRS];
    memset(pairs, 0, sizeof pairs);
    uint32_t random = 2463534242u;
    uint8_t *data = pattern_new(60, 4096);
    for (int step = 0; step < STEPS; step++) {
        uint32_t which = random_next(&random) % PAIRS;
        struct pair *pair = &pairs[which];
        if (!pair->connection) {
            memset(pair, 0, sizeof *pair);
            pair->connection = rig_connect(rig, &pair->client);
            pair->client_open = true;
        }
        pair_step(rig, pair, which, &random, data);
        if (step % 4 == 0) rig_turn(rig, 0);
        if (!pair->closing || pair->connection->receiving || pair->connection->sending) continue;
        CHECK(pattern_is(which, 0, pair->connection->bytes, pair->connection->byte_count));
        rig_release(rig, pair->connection);
        if (pair->client_open) client_close(pair->client);
        pair->connection = NULL;
    }
    for (int i = 0; i < PAIRS; i++)
        if (pairs[i].connection && pairs[i].client_open) client_close(pairs[i].client);
    for (struct connection *connection = rig->connections; connection; connection = connection->next) {
        rig_receive_cancel(rig, connection);
        rig_send_cancel(rig, connection);
    }
    UNTIL(rig, rig->outstanding == 1); /* the accept */
    free(data);
}

const struct test life_tests[] = {
    TEST(new_port_is_quiet_and_waits_as_long_as_it_was_told),
    TEST(ports_open_and_close_without_a_trace),
    TEST(port_with_an_untaken_exit_closes),
    TEST(result_is_never_delivered_inside_submit),
    TEST(submit_error_is_followed_by_no_event),
    TEST(close_with_pending_receive_delivers_one_final_event),
    TEST(released_handle_brings_no_stale_event),
    TEST(one_busy_sender_does_not_starve_others),
    TEST(one_socket_whose_sends_end_at_once_does_not_starve_others),
    TEST(busy_sockets_share_a_batch),
    TEST(small_batches_lose_nothing),
    TEST(ports_of_two_threads_do_not_meet),
    TEST(every_submit_ends_once_whatever_happens),
    {NULL, NULL, NULL, {0, 0}},
};
