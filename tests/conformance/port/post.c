/* post.c: wakes and exit completions. */
#include "rig.h"

#ifdef _WIN32
#define IOCPD_CONFORMANCE_NO_RENAME
#include "faults.h"
#endif

static void wake_ends_a_wait_without_a_limit(struct rig *rig) {
    rig->driver->post(rig->port, POST_WAKE);
    CHECK(rig_turn(rig, -1) == 1 && rig->woken == 1 && rig->exits == 0);
    rig_quiet(rig, 20000000);
}

static void exit_is_delivered_once_for_each_post(struct rig *rig) {
    for (uint32_t i = 0; i < 5; i++) rig->driver->post(rig->port, POST_EXIT);
    UNTIL(rig, rig->exits == 5);
    rig->driver->post(rig->port, POST_EXIT);
    UNTIL(rig, rig->exits == 6);
    uint32_t woken = rig->woken; /* a driver may count an exit as a wake too, but not later */
    rig_quiet(rig, 50000000);
    CHECK(rig->exits == 6 && rig->woken == woken);
}

static void more_exits_than_a_batch_holds_all_come(struct rig *rig) {
    rig->capacity = 8;
    for (uint32_t i = 0; i < 100; i++) rig->driver->post(rig->port, i % 2 ? POST_EXIT : POST_WAKE);
    UNTIL(rig, rig->exits == 50 && rig->woken > 0);
    rig_turn(rig, 20000000);
    rig_quiet(rig, 20000000);
    CHECK(rig->exits == 50);
}

/* ---- from other threads ----------------------------------------------------------------------------------------- */

struct poster {
    struct rig *rig;
    uint32_t *asked, *answered; /* atomic */
    uint32_t rounds;
    bool waits_for_answers;
    enum port_post what;
    uint32_t ended; /* atomic */
    platform_thread thread;
};

static void post_rounds(void *argument) {
    struct poster *poster = argument;
    int64_t until_ns = platform_monotonic_ns() + LIMIT_NS;
    for (uint32_t round = 0; round < poster->rounds; round++) {
        uint32_t asked = u32_add(poster->asked, 1) + 1;
        poster->rig->driver->post(poster->rig->port, poster->what);
        while (poster->waits_for_answers && u32_load_acquire(poster->answered) < asked) {
            platform_thread_yield();
            if (platform_monotonic_ns() > until_ns) break; /* the owner notices */
        }
    }
    u32_store_release(&poster->ended, 1);
}

static void poster_start(struct poster *poster) {
    CHECK(platform_thread_start(&poster->thread, post_rounds, poster, "poster") == 0);
}

static void wakes_collapse_but_never_vanish(struct rig *rig) {
    /* One thread asks and waits: each wake is alone, and each must arrive. Its post hits every moment of a wait. */
    uint32_t asked = 0, answered = 0;
    struct poster poster = {
        .rig = rig, .asked = &asked, .answered = &answered, .rounds = 3000, .waits_for_answers = true, .what = POST_WAKE};
    poster_start(&poster);
    while (answered < poster.rounds) {
        uint32_t woken = rig->woken;
        if (rig_turn(rig, LIMIT_NS) == 0) FAIL("a wake vanished: %u asked, %u answered", u32_load(&asked), answered);
        if (rig->woken > woken) u32_store_release(&answered, u32_load_acquire(&asked));
    }
    platform_thread_join(poster.thread);
}

static void wakes_of_many_threads_leave_nothing_unseen(struct rig *rig) {
    enum { THREADS = 3, ROUNDS = 5000 };
    uint32_t asked = 0, seen = 0;
    struct poster posters[THREADS];
    for (int i = 0; i < THREADS; i++) {
        posters[i] = (struct poster){.rig = rig, .asked = &asked, .rounds = ROUNDS, .what = POST_WAKE};
        poster_start(&posters[i]);
    }
    while (seen < THREADS * ROUNDS) {
        uint32_t woken = rig->woken;
        if (rig_turn(rig, LIMIT_NS) == 0) FAIL("the last wake vanished: %u seen", seen);
        if (rig->woken > woken) seen = u32_load_acquire(&asked);
    }
    for (int i = 0; i < THREADS; i++) platform_thread_join(posters[i].thread);
    CHECK(rig->woken <= THREADS * ROUNDS);
}

static void exits_of_many_threads_are_counted_exactly_under_traffic(struct rig *rig) {
    enum { THREADS = 3, ROUNDS = 300, BYTES = 2 << 20 };
    socket_t client;
    struct stream writer;
    uint32_t asked = 0;
    struct poster posters[THREADS];
    struct connection *connection = rig_connect(rig, &client);
    rig_receive(rig, connection);
    stream_write(&writer, client, 21, BYTES);
    for (int i = 0; i < THREADS; i++) {
        posters[i] = (struct poster){.rig = rig, .asked = &asked, .rounds = ROUNDS, .what = POST_EXIT};
        poster_start(&posters[i]);
    }
    UNTIL(rig, rig->exits == THREADS * ROUNDS && connection->byte_count == BYTES);
    for (int i = 0; i < THREADS; i++) platform_thread_join(posters[i].thread);
    stream_join(&writer);
    rig_turn(rig, 20000000);
    rig_quiet(rig, 20000000);
    CHECK(rig->exits == THREADS * ROUNDS && pattern_is(21, 0, connection->bytes, BYTES));
    client_close(client);
}

/* ---- no memory for a post --------------------------------------------------------------------------------------- */

#ifdef _WIN32

static void wake_that_could_not_be_posted_is_delivered_all_the_same(struct rig *rig) {
    for (uint32_t round = 1; round <= 2; round++) {
        u32_store(&faults.posts, 1);
        rig->driver->post(rig->port, POST_WAKE);
        CHECK(u32_load(&faults.posts) == 0);
        CHECK(rig_turn(rig, -1) == 1 && rig->woken == round);
    }
    rig->driver->post(rig->port, POST_WAKE);
    CHECK(rig_turn(rig, -1) == 1 && rig->woken == 3);
    rig_quiet(rig, 20000000);
}

static void post_late(void *argument) {
    struct rig *rig = argument;
    Sleep(100); /* the owner waits by now: nothing tells it of the post but its own look */
    u32_store(&faults.posts, 4);
    rig->driver->post(rig->port, POST_EXIT);
    rig->driver->post(rig->port, POST_EXIT);
    rig->driver->post(rig->port, POST_WAKE);
    rig->driver->post(rig->port, POST_EXIT);
}

static void exits_that_could_not_be_posted_are_delivered_once_each(struct rig *rig) {
    platform_thread thread;
    CHECK(platform_thread_start(&thread, post_late, rig, "late") == 0);
    int64_t begin_ns = platform_monotonic_ns();
    while (rig->exits < 3 || rig->woken < 1) CHECK(rig_turn(rig, LIMIT_NS) > 0);
    CHECK(platform_monotonic_ns() - begin_ns < 3 * SECOND_NS);
    platform_thread_join(thread);
    rig_quiet(rig, 50000000);
    CHECK(rig->exits == 3 && rig->woken == 1);
}

#endif

const struct test post_tests[] = {
    TEST(wake_ends_a_wait_without_a_limit),
    TEST(exit_is_delivered_once_for_each_post),
    TEST(more_exits_than_a_batch_holds_all_come),
    TEST(wakes_collapse_but_never_vanish),
    TEST(wakes_of_many_threads_leave_nothing_unseen),
    TEST(exits_of_many_threads_are_counted_exactly_under_traffic),
#ifdef _WIN32
    TEST_OF(iocp, wake_that_could_not_be_posted_is_delivered_all_the_same),
    TEST_OF(iocp, exits_that_could_not_be_posted_are_delivered_once_each),
#endif
    {NULL, NULL, NULL, {0, 0}},
};
