/* rig.h: what every conformance test stands on.
 *
 * A rig is one port with its buffer pool and a listener on 127.0.0.1. Clients are plain blocking sockets with a limit
 * of ten seconds. The rig keeps its own books of what was submitted, and holds each event that comes against them and
 * against the promises of port.h. So every test checks, beside its own matter, that a submit has exactly one final
 * event, that no event comes without a submit, that `pending` is true, and at the end that no buffer, block of memory
 * or handle is left over.
 *
 * A failed check ends the process: each test has one of its own.
 */
#ifndef IOCPD_CONFORMANCE_RIG_H
#define IOCPD_CONFORMANCE_RIG_H

#include "port.h"

#include <stdio.h>

#define SECOND_NS INT64_C(1000000000)
#define LIMIT_NS (10 * SECOND_NS) /* nothing here takes longer than this unless it is broken */

void test_failed(const char *file, int line, const char *format, ...);
void test_skipped(const char *format, ...);
#define FAIL(...) test_failed(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition) ((condition) ? (void)0 : test_failed(__FILE__, __LINE__, "it does not hold: %s", #condition))
#define SKIP(...) test_skipped(__VA_ARGS__)

/* The server's end of a connection. */
struct connection {
    struct port_socket socket; /* first: it is the completion key */
    struct port_gather gather;
    struct connection *next;

    bool receiving, sending; /* submitted, and no final event yet */
    uint32_t receive_finals, send_finals;
    enum port_error receive_error, send_error;
    bool end_of_file;

    bool discard;   /* received bytes are counted, not kept */
    bool hold;      /* received buffers are kept in `held` instead of being freed */
    uint8_t *bytes; /* what was received, in order */
    size_t byte_count, byte_room;
    struct outgoing *held;
    uint32_t held_count;

    const uint8_t *unsent; /* the rest of a send that goes on after a short count */
    size_t unsent_bytes, submitted_bytes;
    uint64_t sent_bytes;
    bool send_endlessly; /* the same piece again and again */
};

enum { RIG_LISTENERS_MAX = 2, RIG_ACCEPTED_MAX = 512 };

struct accepted {
    socket_t handle;
    struct port_listener *listener;
    struct platform_address peer, local;
};

struct rig {
    const struct port_driver *driver;
    struct port *port;
    struct buffer_pool pool;
    struct port_event events[PORT_EVENTS_MAX];
    uint32_t capacity; /* of a batch */
    uint32_t outstanding;

    struct port_listener listeners[RIG_LISTENERS_MAX];
    struct platform_address at[RIG_LISTENERS_MAX];
    bool accepting[RIG_LISTENERS_MAX];
    uint32_t accept_finals[RIG_LISTENERS_MAX];
    uint32_t accept_failures; /* events that are not final and bring no socket */
    struct accepted accepted[RIG_ACCEPTED_MAX];
    uint32_t accepted_count, accepted_taken;

    struct connection *connections;
    uint32_t woken, exits;
    uint64_t turns;
};

struct rig_options {
    uint32_t buffer_bytes, buffer_limit;
};

void rig_open(struct rig *rig, const struct port_driver *driver, const struct rig_options *options);
/* Cancels and reaps what is left, and checks that nothing else is. */
void rig_close(struct rig *rig);
/* Tears down all but the port, which another thread may then close. */
void rig_end(struct rig *rig);
void rig_close_port(struct rig *rig);

/* One `wait`. Returns how many events it brought. */
uint32_t rig_turn(struct rig *rig, int64_t timeout_ns);
/* Nothing comes within this time. */
void rig_quiet(struct rig *rig, int64_t timeout_ns);
/* Turns until the condition holds; the test fails when that takes more than ten seconds. */
#define UNTIL(rig, condition)                                                                                                    \
    do {                                                                                                                         \
        int64_t until_ns_ = platform_monotonic_ns() + LIMIT_NS;                                                                  \
        while (!(condition)) {                                                                                                   \
            if (platform_monotonic_ns() > until_ns_) FAIL("it did not come to be: %s", #condition);                              \
            rig_turn(rig, 20000000);                                                                                             \
        }                                                                                                                        \
    } while (0)

/* family 4 or 6; on 127.0.0.1 or ::1, or on :: for dual stack. The accept isn't submitted yet. */
void rig_listen(struct rig *rig, int which, int family, bool dual_stack);
void rig_accept(struct rig *rig, int which);
void rig_accept_cancel(struct rig *rig, int which);
/* Adopts an accepted socket. */
struct connection *rig_attach(struct rig *rig, const struct accepted *accepted);
/* A client, and the server's end of it. */
struct connection *rig_connect(struct rig *rig, socket_t *client);
/* Only when nothing is outstanding on it. */
void rig_release(struct rig *rig, struct connection *connection);

void rig_receive(struct rig *rig, struct connection *connection);
void rig_receive_cancel(struct rig *rig, struct connection *connection);
/* What the submit returned; 0: an event follows. */
int rig_try_send(struct rig *rig, struct connection *connection, const void *data, size_t bytes);
void rig_send(struct rig *rig, struct connection *connection, const void *data, size_t bytes);
/* Goes on after short counts: `unsent_bytes` is 0 when all are out. */
void rig_send_whole(struct rig *rig, struct connection *connection, const void *data, size_t bytes);
void rig_send_gather(struct rig *rig, struct connection *connection, uint32_t slice_count);
void rig_send_cancel(struct rig *rig, struct connection *connection);
/* A send to a client that doesn't read, big enough to stay outstanding. `data` lives as long as the send. */
void rig_send_until_blocked(struct rig *rig, struct connection *connection, const uint8_t *data, size_t bytes);
void rig_free_held(struct connection *connection, uint32_t count);
bool received_is(const struct connection *connection, const void *data, size_t bytes);
/* Handles of this process; 0 where the system doesn't tell. */
uint32_t handles_open(void);

/* ---- bytes whose place can be told ------------------------------------------------------------------------------ */

uint8_t pattern_at(uint32_t seed, size_t offset);
uint8_t *pattern_new(uint32_t seed, size_t bytes);
bool pattern_is(uint32_t seed, size_t offset, const uint8_t *data, size_t bytes);

/* ---- clients ---------------------------------------------------------------------------------------------------- */

socket_t client_open(const struct platform_address *to, int family);
void client_send(socket_t client, const void *data, size_t bytes);
/* False: the connection is gone. */
bool client_try_send(socket_t client, const uint8_t *data, size_t bytes);
/* At most `bytes`; 0 at the end of file, -1 for an error. */
int client_take(socket_t client, void *data, size_t bytes);
void client_expect(socket_t client, const void *data, size_t bytes);
void client_expect_end(socket_t client);
/* How many bytes can be read without waiting. */
size_t client_waiting(socket_t client);
void client_shutdown(socket_t client);
void client_reset(socket_t client);
void client_close(socket_t client);
uint16_t client_port(socket_t client);

/* A thread that reads to the end, or one that writes. */
struct stream {
    socket_t client;
    uint32_t seed;
    size_t bytes;   /* writer: how many; reader: how many came */
    bool whole;     /* the pattern was right, and all was written */
    bool by_error;  /* it ended with an error, not with the end of file */
    uint32_t stop;  /* atomic; writer: an end before its time */
    uint32_t ended; /* atomic */
    platform_thread thread;
};
void stream_read(struct stream *stream, socket_t client, uint32_t seed);
void stream_write(struct stream *stream, socket_t client, uint32_t seed, size_t bytes);
void stream_join(struct stream *stream);

/* ---- the tests -------------------------------------------------------------------------------------------------- */

struct test {
    const char *name;
    void (*run)(struct rig *rig);
    const char *driver; /* the only one that it is for, or NULL */
    struct rig_options options;
};
#define TEST(name) {#name, name, NULL, {0, 0}}
#define TEST_OF(driver, name) {#name, name, #driver, {0, 0}}
/* With a pool of its own size. */
#define TEST_WITH(name, buffer_bytes, buffer_limit)                                                                              \
    {                                                                                                                            \
        #name, name, NULL, { buffer_bytes, buffer_limit }                                                                        \
    }
#define TEST_WITH_OF(driver, name, buffer_bytes, buffer_limit)                                                                   \
    {                                                                                                                            \
        #name, name, #driver, { buffer_bytes, buffer_limit }                                                                     \
    }

extern const struct test accept_tests[], receive_tests[], hold_tests[], send_tests[], post_tests[], life_tests[];

#endif
