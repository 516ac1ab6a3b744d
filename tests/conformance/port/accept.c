/* accept.c: connections come in. */
#include "rig.h"

#ifdef _WIN32
#define IOCPD_CONFORMANCE_NO_RENAME
#include "faults.h"
#else
#include <sys/resource.h>
#endif

static const uint8_t loopback_v4[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1};
static const uint8_t loopback_v6[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};

static bool is_at(const struct platform_address *address, const uint8_t *ip, uint16_t port) {
    return memcmp(address->ip, ip, 16) == 0 && address->port == port;
}

/* A byte goes from this client to this accepted socket. */
static void check_joined(struct rig *rig, const struct accepted *accepted, socket_t client) {
    struct connection *connection = rig_attach(rig, accepted);
    rig_receive(rig, connection);
    client_send(client, "!", 1);
    UNTIL(rig, connection->byte_count == 1);
    CHECK(received_is(connection, "!", 1));
}

static void addresses_of_both_ends_are_right(struct rig *rig) {
    rig_listen(rig, 0, 4, false);
    rig_accept(rig, 0);
    socket_t client = client_open(&rig->at[0], 4);
    UNTIL(rig, rig->accepted_count == 1);
    CHECK(is_at(&rig->accepted[0].peer, loopback_v4, client_port(client)));
    CHECK(is_at(&rig->accepted[0].local, loopback_v4, rig->at[0].port));
    struct platform_address peer, local; /* and the socket itself says so, which an AcceptEx without its context doesn't */
    CHECK(platform_socket_addresses(rig->accepted[0].handle, &peer, &local) == 0);
    CHECK(is_at(&peer, loopback_v4, client_port(client)) && is_at(&local, loopback_v4, rig->at[0].port));
    client_close(client);
}

static void dual_stack_accept_has_both_families_with_mapped_addresses(struct rig *rig) {
    rig_listen(rig, 0, 6, true);
    rig_accept(rig, 0);
    socket_t v4 = client_open(&rig->at[0], 4);
    UNTIL(rig, rig->accepted_count == 1);
    socket_t v6 = client_open(&rig->at[0], 6);
    UNTIL(rig, rig->accepted_count == 2);
    CHECK(is_at(&rig->accepted[0].peer, loopback_v4, client_port(v4)));
    CHECK(is_at(&rig->accepted[0].local, loopback_v4, rig->at[0].port));
    CHECK(is_at(&rig->accepted[1].peer, loopback_v6, client_port(v6)));
    CHECK(is_at(&rig->accepted[1].local, loopback_v6, rig->at[0].port));
    check_joined(rig, &rig->accepted[0], v4);
    check_joined(rig, &rig->accepted[1], v6);
    rig->accepted_taken = 2;
    client_close(v4);
    client_close(v6);
}

static void accepted_connection_has_no_delay(struct rig *rig) {
    socket_t client;
    struct connection *connection = rig_connect(rig, &client);
    int value = 0;
    socklen_t bytes = sizeof value;
    CHECK(getsockopt(connection->socket.handle, IPPROTO_TCP, TCP_NODELAY, (char *)&value, &bytes) == 0);
    CHECK(value != 0);
    client_close(client);
}

static void accepts_are_refilled_beyond_the_pool(struct rig *rig) {
    enum { CLIENTS = 200 };
    socket_t clients[CLIENTS];
    static bool seen[65536];
    rig_listen(rig, 0, 4, false);
    rig_accept(rig, 0);
    for (int i = 0; i < CLIENTS; i++) clients[i] = client_open(&rig->at[0], 4);
    UNTIL(rig, rig->accepted_count == CLIENTS);
    for (int i = 0; i < CLIENTS; i++) seen[client_port(clients[i])] = true;
    for (int i = 0; i < CLIENTS; i++) {
        CHECK(seen[rig->accepted[i].peer.port]); /* each client once */
        seen[rig->accepted[i].peer.port] = false;
    }
    CHECK(rig->accept_failures == 0);
    for (int i = 0; i < CLIENTS; i++) client_close(clients[i]);
}

static void flood_of_clients_comes_in_small_batches(struct rig *rig) {
    enum { CLIENTS = 6 * PORT_ACCEPTS_MAX };
    socket_t clients[CLIENTS], talker;
    struct connection *connection = rig_connect(rig, &talker);
    rig_receive(rig, connection);
    for (int i = 0; i < CLIENTS; i++) clients[i] = client_open(&rig->at[0], 4);
    client_send(talker, "!", 1);
    uint32_t before = rig->accepted_count, most = 0;
    while (rig->accepted_count < before + CLIENTS) {
        uint32_t accepted = rig->accepted_count;
        rig_turn(rig, 20000000);
        if (rig->accepted_count - accepted > most) most = rig->accepted_count - accepted;
        /* Who is here waits for one batch of them at most, and for the one that is on its way. */
        if (rig->accepted_count > before + 2 * PORT_ACCEPTS_MAX) CHECK(connection->byte_count == 1);
    }
    CHECK(most <= PORT_ACCEPTS_MAX);
    for (int i = 0; i < CLIENTS; i++) client_close(clients[i]);
    client_close(talker);
}

static void client_that_resets_before_accept_does_not_shrink_the_pool(struct rig *rig) {
    enum { GONE = 3 * PORT_ACCEPTS_MAX, GOOD = PORT_ACCEPTS_MAX + 8 };
    socket_t good[GOOD];
    rig_listen(rig, 0, 4, false);
    for (int i = 0; i < GONE / 2; i++) client_reset(client_open(&rig->at[0], 4)); /* while no accept is posted */
    rig_accept(rig, 0);
    for (int i = 0; i < GONE / 2; i++) client_reset(client_open(&rig->at[0], 4));
    for (int i = 0; i < GOOD; i++) good[i] = client_open(&rig->at[0], 4);
    /* Those that have gone may be accepted or not; each good one is. */
    for (int i = 0; i < GOOD; i++) {
        uint16_t port = client_port(good[i]);
        int64_t until_ns = platform_monotonic_ns() + LIMIT_NS;
        for (bool found = false; !found;) {
            for (uint32_t k = 0; k < rig->accepted_count; k++) found = found || rig->accepted[k].peer.port == port;
            if (!found) rig_turn(rig, 20000000);
            CHECK(found || platform_monotonic_ns() < until_ns);
        }
    }
    CHECK(rig->accepting[0]);
#ifdef __linux__ /* Windows may take those that have gone out of the backlog without a word */
    CHECK(rig->accepted_count + rig->accept_failures == GONE + GOOD);
#endif
    for (int i = 0; i < GOOD; i++) client_close(good[i]);
}

static void silent_client_does_not_hold_up_others(struct rig *rig) {
    enum { SILENT = PORT_ACCEPTS_MAX + 8 };
    socket_t silent[SILENT];
    rig_listen(rig, 0, 4, false);
    rig_accept(rig, 0);
    for (int i = 0; i < SILENT; i++) silent[i] = client_open(&rig->at[0], 4);
    UNTIL(rig, rig->accepted_count == SILENT); /* not one of them has sent a byte */
    for (; rig->accepted_taken < SILENT; rig->accepted_taken++)
        rig_receive(rig, rig_attach(rig, &rig->accepted[rig->accepted_taken]));
    socket_t talker;
    struct connection *connection = rig_connect(rig, &talker);
    rig_receive(rig, connection);
    client_send(talker, "hello", 5);
    UNTIL(rig, connection->byte_count == 5);
    client_close(talker);
    for (int i = 0; i < SILENT; i++) client_close(silent[i]);
}

static void two_listeners_are_told_apart(struct rig *rig) {
    socket_t clients[2];
    for (int i = 0; i < 2; i++) rig_listen(rig, i, 4, false);
    for (int i = 0; i < 2; i++) rig_accept(rig, i);
    for (int i = 0; i < 2; i++) {
        clients[i] = client_open(&rig->at[i], 4);
        UNTIL(rig, rig->accepted_count == (uint32_t)i + 1);
        CHECK(rig->accepted[i].listener == &rig->listeners[i]);
    }
    rig_accept_cancel(rig, 0);
    UNTIL(rig, rig->accept_finals[0] == 1);
    socket_t other = client_open(&rig->at[1], 4);
    UNTIL(rig, rig->accepted_count == 3);
    CHECK(rig->accepted[2].listener == &rig->listeners[1] && rig->accept_finals[1] == 0);
    for (int i = 0; i < 2; i++) client_close(clients[i]);
    client_close(other);
}

static void accept_cancel_reaps_everything(struct rig *rig) {
    rig_listen(rig, 0, 4, false);
    rig_accept(rig, 0);
    rig_quiet(rig, 10000000);
    rig_accept_cancel(rig, 0);
    rig_accept_cancel(rig, 0); /* asking twice doesn't make two ends */
    CHECK(rig->port->pending == 1);
    UNTIL(rig, rig->accept_finals[0] == 1);
    CHECK(rig->port->pending == 0 && rig->accept_failures == 0);
    rig_accept_cancel(rig, 0); /* nor does asking after the end */
    rig_quiet(rig, 50000000);
}

static void accept_cancel_delivers_what_was_accepted_before_the_final_event(struct rig *rig) {
    enum { CLIENTS = 20 };
    socket_t clients[CLIENTS];
    rig_listen(rig, 0, 4, false);
    rig_accept(rig, 0);
    for (int i = 0; i < CLIENTS; i++) clients[i] = client_open(&rig->at[0], 4);
    rig_accept_cancel(rig, 0);
    UNTIL(rig, rig->accept_finals[0] == 1);
    /* How many had been accepted is the kernel's affair; the rig has checked that none came after the final event. */
    CHECK(rig->accepted_count <= CLIENTS);
    rig_quiet(rig, 50000000);
    for (uint32_t i = 0; i < rig->accepted_count; i++) {
        struct platform_address peer, local;
        CHECK(platform_socket_addresses(rig->accepted[i].handle, &peer, &local) == 0);
    }
    for (int i = 0; i < CLIENTS; i++) client_close(clients[i]);
}

static void accept_goes_on_when_submitted_again_after_its_final_event(struct rig *rig) {
    rig_listen(rig, 0, 4, false);
    for (uint32_t round = 1; round <= 3; round++) {
        rig_accept(rig, 0);
        socket_t client = client_open(&rig->at[0], 4);
        UNTIL(rig, rig->accepted_count == round);
        rig_accept_cancel(rig, 0);
        UNTIL(rig, rig->accept_finals[0] == round);
        client_close(client);
    }
    socket_t early = client_open(&rig->at[0], 4); /* it waits in the backlog until somebody accepts again */
    rig_accept(rig, 0);
    UNTIL(rig, rig->accepted_count == 4);
    client_close(early);
}

static void connection_accepted_on_one_port_lives_on_another(struct rig *rig) {
    static struct rig other;
    rig_open(&other, rig->driver, NULL);
    rig_listen(rig, 0, 4, false);
    rig_accept(rig, 0);
    socket_t client = client_open(&rig->at[0], 4);
    UNTIL(rig, rig->accepted_count == 1);
    rig->accepted_taken = 1;
    struct connection *connection = rig_attach(&other, &rig->accepted[0]);
    rig_receive(&other, connection);
    client_send(client, "over there", 10);
    UNTIL(&other, connection->byte_count == 10);
    rig_send(&other, connection, connection->bytes, 10);
    UNTIL(&other, connection->send_finals == 1);
    client_expect(client, "over there", 10);
    rig_quiet(rig, 10000000);
    rig_close(&other);
    client_close(client);
}

/* ---- no handles left -------------------------------------------------------------------------------------------- */

#ifdef _WIN32

static void no_handle_limit(void) {
    SKIP("Windows has no limit on a process's handles that a test could lower; see "
         "accept_backs_off_while_no_socket_can_be_made");
}
static void accept_goes_on_after_handles_ran_out(struct rig *rig) { (void)rig, no_handle_limit(); }
static void accept_cancelled_while_out_of_handles_ends_once(struct rig *rig) { (void)rig, no_handle_limit(); }

static void accept_backs_off_while_no_socket_can_be_made(struct rig *rig) {
    enum { CLIENTS = PORT_ACCEPTS_MAX + 8 };
    socket_t clients[CLIENTS];
    rig_listen(rig, 0, 4, false);
    rig_accept(rig, 0);
    u32_store(&faults.sockets, 1000000);
    for (int i = 0; i < CLIENTS; i++) clients[i] = client_open(&rig->at[0], 4);
    /* What was posted comes; no slot can be posted anew. */
    UNTIL(rig, rig->accepted_count == PORT_ACCEPTS_MAX && rig->accept_failures > 0);
    CHECK(u64_load(&rig->port->counters.accept_errors) > 0);
    uint32_t failures = rig->accept_failures;
    uint64_t turns = rig->turns;
    int64_t until_ns = platform_monotonic_ns() + 500000000;
    while (platform_monotonic_ns() < until_ns) rig_turn(rig, 50000000);
    CHECK(rig->accept_failures > failures && rig->accept_failures <= failures + 6); /* tried each 100 ms */
    CHECK(rig->turns < turns + 30 && rig->accepting[0]);
    u32_store(&faults.sockets, 0);
    UNTIL(rig, rig->accepted_count == CLIENTS);
    for (int i = 0; i < CLIENTS; i++) client_close(clients[i]);
}

static void accept_wakes_an_endless_wait_to_try_again(struct rig *rig) {
    rig_listen(rig, 0, 4, false);
    u32_store(&faults.sockets, 1);
    CHECK(rig->driver->accept(rig->port, &rig->listeners[0]) == WSAEMFILE); /* not one could be posted: an error, no event */
    CHECK(rig->port->pending == 0);
    rig_quiet(rig, 10000000);
    rig_accept(rig, 0);
    socket_t client = client_open(&rig->at[0], 4);
    u32_store(&faults.sockets, 1);
    UNTIL(rig, rig->accepted_count == 1 && rig->accept_failures == 1);
    u32_store(&faults.sockets, 1);
    int64_t begin_ns = platform_monotonic_ns();
    CHECK(rig_turn(rig, -1) == 1 && rig->accept_failures == 2);
    CHECK(platform_monotonic_ns() - begin_ns < 600000000);
    client_close(client);
}

static void accept_cancelled_while_no_socket_can_be_made_ends_once(struct rig *rig) {
    rig_listen(rig, 0, 4, false);
    rig_accept(rig, 0);
    u32_store(&faults.sockets, 1000000);
    socket_t client = client_open(&rig->at[0], 4);
    UNTIL(rig, rig->accepted_count == 1 && rig->accept_failures == 1);
    rig_accept_cancel(rig, 0);
    UNTIL(rig, rig->accept_finals[0] == 1);
    rig_quiet(rig, 250000000);
    u32_store(&faults.sockets, 0);
    client_close(client);
}

static void accept_cancelled_before_its_failure_is_told_ends_last(struct rig *rig) {
    rig_listen(rig, 0, 4, false);
    rig_accept(rig, 0);
    u32_store(&faults.sockets, 1);
    socket_t client = client_open(&rig->at[0], 4);
    UNTIL(rig, rig->accepted_count == 1);
    CHECK(rig->accept_failures == 0); /* the failure is on its way, and the other accepts are still posted */
    rig_accept_cancel(rig, 0);
    UNTIL(rig, rig->accept_finals[0] == 1);
    rig_quiet(rig, 50000000);
    client_close(client);
}

static void accepted_socket_without_its_context_is_closed_and_the_next_one_served(struct rig *rig) {
    rig_listen(rig, 0, 4, false);
    rig_accept(rig, 0);
    u32_store(&faults.contexts, 1);
    socket_t unlucky = client_open(&rig->at[0], 4), client = client_open(&rig->at[0], 4);
    UNTIL(rig, rig->accepted_count == 1);
    CHECK(rig->accepted[0].peer.port == client_port(client));
    CHECK(u64_load(&rig->port->counters.accept_errors) == 1);
    CHECK(rig->accept_failures == 1); /* and that is told */
    char byte;
    CHECK(client_take(unlucky, &byte, 1) <= 0);
    client_close(unlucky);
    client_close(client);
}

#else

enum { WAITING_CLIENTS = 8, HANDLES_LEFT = 3 };

/* Clients that wait in the backlog, and then only HANDLES_LEFT handles for the server. */
static rlim_t run_out_of_handles(struct rig *rig, socket_t *clients) {
    rig_listen(rig, 0, 4, false);
    for (int i = 0; i < WAITING_CLIENTS; i++) clients[i] = client_open(&rig->at[0], 4);
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    rlim_t before = limit.rlim_cur;
    int next = dup(0);
    CHECK(next > 0 && close(next) == 0);
    limit.rlim_cur = (rlim_t)next + HANDLES_LEFT;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    rig_accept(rig, 0);
    UNTIL(rig, rig->accepted_count == HANDLES_LEFT && u64_load(&rig->port->counters.accept_errors) > 0);
    return before;
}

static void handles_are_back(rlim_t before) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = before;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void accept_goes_on_after_handles_ran_out(struct rig *rig) {
    socket_t clients[WAITING_CLIENTS];
    rlim_t before = run_out_of_handles(rig, clients);
    uint64_t errors = u64_load(&rig->port->counters.accept_errors), turns = rig->turns;
    int64_t until_ns = platform_monotonic_ns() + 500000000;
    while (platform_monotonic_ns() < until_ns) rig_turn(rig, 50000000);
    CHECK(u64_load(&rig->port->counters.accept_errors) > errors);      /* it tries again, */
    CHECK(u64_load(&rig->port->counters.accept_errors) <= errors + 6); /* each 100 ms, */
    CHECK(rig->turns < turns + 30);                                    /* and doesn't spin */
    CHECK(rig->accepting[0] && rig->accepted_count == HANDLES_LEFT);
    handles_are_back(before);
    UNTIL(rig, rig->accepted_count == WAITING_CLIENTS);
    for (int i = 0; i < WAITING_CLIENTS; i++) client_close(clients[i]);
}

static void accept_cancelled_while_out_of_handles_ends_once(struct rig *rig) {
    socket_t clients[WAITING_CLIENTS];
    rlim_t before = run_out_of_handles(rig, clients);
    rig_accept_cancel(rig, 0);
    UNTIL(rig, rig->accept_finals[0] == 1);
    handles_are_back(before);
    rig_quiet(rig, 250000000);
    for (int i = 0; i < WAITING_CLIENTS; i++) client_close(clients[i]);
}

#endif

const struct test accept_tests[] = {
    TEST(addresses_of_both_ends_are_right),
    TEST(dual_stack_accept_has_both_families_with_mapped_addresses),
    TEST(accepted_connection_has_no_delay),
    TEST(accepts_are_refilled_beyond_the_pool),
    TEST(flood_of_clients_comes_in_small_batches),
    TEST(client_that_resets_before_accept_does_not_shrink_the_pool),
    TEST(silent_client_does_not_hold_up_others),
    TEST(two_listeners_are_told_apart),
    TEST(accept_cancel_reaps_everything),
    TEST(accept_cancel_delivers_what_was_accepted_before_the_final_event),
    TEST(accept_goes_on_when_submitted_again_after_its_final_event),
    TEST(connection_accepted_on_one_port_lives_on_another),
    TEST(accept_goes_on_after_handles_ran_out),
    TEST(accept_cancelled_while_out_of_handles_ends_once),
#ifdef _WIN32
    TEST_OF(iocp, accept_backs_off_while_no_socket_can_be_made),
    TEST_OF(iocp, accept_wakes_an_endless_wait_to_try_again),
    TEST_OF(iocp, accept_cancelled_while_no_socket_can_be_made_ends_once),
    TEST_OF(iocp, accept_cancelled_before_its_failure_is_told_ends_last),
    TEST_OF(iocp, accepted_socket_without_its_context_is_closed_and_the_next_one_served),
#endif
    {NULL, NULL, NULL, {0, 0}},
};
