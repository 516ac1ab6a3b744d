/* world.h: the simulated world: one seed's choices, its clock, its threads, and who takes part in it.
 *
 *   simulate.c   main: options, seeds one after the other, what a failure prints
 *   world.c      the seed's choices, chance, the trace
 *   threads.c    platform.h's threads, locks, events, clock and memory: coroutines on one thread, and who is next
 *   operators.c  the engine's life, and the threads that command, list, drain and stop it
 *   commands.c   sends, broadcasts, kicks, labels, bans, and what their tickets must say
 *   services.c   threads of services in Python
 *   clients.c    the other ends of the connections
 *   balancers.c  clients that must begin with a PROXY header
 *   streams.c    what is written to connections, so that each byte tells where it belongs
 *   oracle.c     what must hold, of connections and workers
 *   admission.c  the same of who is let in and who is not
 *   arrivals.c   the same of connections that begin with a PROXY header
 *   counts.c     the same of what is counted
 *   sockets.c    sockets and their handles, clients' ends
 *   ../../core/native/port_sim.c   what the kernel does with them
 */
#ifndef SIMULATION_WORLD_H
#define SIMULATION_WORLD_H

#include "internal.h"
#include "port_sim.h"

enum { WORKERS_MAX = 3, LISTENERS_MAX_SIM = 4, SAID_MAX = 512, COMMANDS_MAX = 512, MESSAGES_MAX_SIM = 8192 };

/* What the command line gives: of 0, the seed chooses. */
struct options {
    uint64_t seed;
    uint32_t faults; /* those that it may choose */
    uint32_t clients, commands, steps, workers, listeners;
};

/* Independent of each other, so that leaving one thing out changes the others as little as possible. */
enum dice { DICE_SETTING, DICE_SCHEDULE, DICE_KERNEL, DICE_FAULTS, DICE_CLIENTS, DICE_OPERATORS, DICE_PROXY, DICE_COUNT };

struct world {
    struct options options;
    uint64_t dice[DICE_COUNT];
    uint32_t faults; /* of enum sim_fault: chosen */
    bool starting, calm;
    int64_t now_ns;
    int64_t jumped_ns; /* all jumps of the clock together */
    uint64_t steps, steps_max;
    iocpd_config config;
    iocpd_listener_config listeners[LISTENERS_MAX_SIM];
    uint32_t clients, commands, memory_odds; /* of an allocation to fail */
    iocpd_engine *engine;                    /* NULL: not started */
    const iocpd_engine *begun;               /* the same, as soon as its workers run */
    bool stopping;
    bool over; /* the engine has stopped: everybody ends */
};

extern struct world world;

/* ---- world.c ------------------------------------------------------------------------------------------------------------ */

void world_begin(const struct options *options);
uint64_t roll(enum dice dice, uint64_t bound); /* below it */
uint64_t roll_between(enum dice dice, uint64_t least, uint64_t most);
bool one_in(enum dice dice, uint32_t times);
const char *thread_name(void);

/* ---- threads.c ---------------------------------------------------------------------------------------------------------- */

void threads_reset(void);
void thread_sleep(int64_t ns);
/* Runs until every thread has ended. */
void schedule(void);
void memory_reset(void); /* checks what was freed, and gives it back */
bool memory_has_failed(void);

/* ---- operators.c, services.c --------------------------------------------------------------------------------------------- */

void operators_begin(void);
void services_begin(void);
extern uint32_t services_running;

/* ---- commands.c --------------------------------------------------------------------------------------------------------- */

enum command_kind { COMMAND_SEND, COMMAND_BROADCAST, COMMAND_KICK, COMMAND_LABEL, COMMAND_BANS, COMMAND_RTT, COMMAND_BARRIER };

void commands_reset(void);
void command_give(enum command_kind kind);
uint32_t commands_open(void); /* given, and not yet taken as done */
void commands_take_done(uint32_t timeout_ms);
/* Mostly of a connection that is there. */
uint64_t any_token(void);
const char *status_name(int32_t status);
void labels_check(const char *json, uint32_t bytes); /* what was read as somebody's labels */

/* ---- clients.c ---------------------------------------------------------------------------------------------------------- */

void clients_begin(void);
/* Those whose time has come act. Returns when the next one will; INT64_MAX: nobody. */
int64_t clients_act(void);
struct platform_address client_address(uint32_t which);

/* ---- balancers.c -------------------------------------------------------------------------------------------------------- */

enum { HEADER_BYTES_MAX = 1200, BEHIND_MAX = 32 };

/* What a client writes first, where its listener asks for it. */
struct header {
    bool wanted;
    bool wrong;      /* it is none, which its last byte shows at the latest */
    bool has_client; /* it names one */
    struct platform_address client;
    uint8_t data[HEADER_BYTES_MAX];
    uint32_t bytes, written;
    uint32_t stops_at; /* it writes no more of it in the storm */
    uint32_t pieces;   /* of so many bytes at most */
    bool leaves;       /* when it is written, as a check of a balancer's does */
    int64_t begin_ns;  /* not before */

    int64_t whole_ns; /* when the engine got the last of it; 0: not while it waited for it */
    bool entered;     /* let in */
    int64_t entered_ns;
    uint32_t behind[BEHIND_MAX], behind_count; /* what was received behind it before that */
};

/* Which listeners ask for headers, if the seed has this. */
void balancers_choose(void);
/* What this client must write first. */
void header_choose(struct header *header, const struct sim_stream *stream);
/* An address that headers name. */
struct platform_address named_address(void);
bool is_in_network(const uint8_t *ip, const uint8_t *network, uint32_t prefix);

/* ---- streams.c ---------------------------------------------------------------------------------------------------------- */

/* Something that an operator or a service has said: it says its number in each copy. */
struct said {
    enum { SAID_SEND, SAID_BROADCAST, SAID_FAREWELL } kind;
    uint64_t token;   /* the only one it is for; 0: several */
    int32_t listener; /* -1: of all */
    uint32_t bytes;
    uint64_t written;                                     /* whole copies that the kernel has taken */
    bool cancelled;                                       /* the command was refused: nobody may get it */
    uint8_t seen[SIM_STREAMS_MAX], owed[SIM_STREAMS_MAX]; /* owed: to all that stay */
};

extern struct said said[SAID_MAX];
extern uint32_t said_count;

/* What a client writes next: up to `most` bytes, to a connection of this listener. */
struct writer {
    uint32_t number; /* the connection's */
    const iocpd_listener_config *listener;
    uint64_t written;    /* RAW: bytes */
    uint32_t messages;   /* begun */
    uint8_t frame[4096]; /* of which `at` bytes are written */
    uint32_t frame_bytes, frame_at;
    bool too_large;                     /* one was above the limit: nothing after it is answered */
    uint16_t lengths[MESSAGES_MAX_SIM]; /* of the messages that were begun, as frames; 0: too large */
};
/* Bytes that are to be written; writer_wrote tells how many were. */
const uint8_t *writer_next(struct writer *writer, uint32_t *bytes);
void writer_wrote(struct writer *writer, uint32_t bytes);

/* What a connection gets, byte by byte. */
struct reader {
    uint32_t number;
    const iocpd_listener_config *listener;
    uint64_t echoed;                /* RAW echo: bytes */
    uint32_t messages;              /* framed echo: how many came back */
    uint32_t last[SIM_STREAMS_MAX]; /* relay: 1 + the last message of each sender */
    uint8_t unit[4096];             /* a message or something said, as far as it has come */
    uint32_t unit_bytes;
    uint64_t units; /* that came whole */
};
void reader_take(struct reader *reader, const uint8_t *data, uint32_t bytes);
bool reader_between(const struct reader *reader);

/* A new one of these; bytes: at least SAID_BYTES_MIN. NULL when there is no number left. */
enum { SAID_BYTES_MIN = 7 };
uint8_t *say(uint32_t bytes, uint32_t *number);
/* The text of a message that a service sends to many: no frame yet. */
uint32_t say_message(uint32_t number, uint8_t *out);
void streams_reset(void);

/* ---- oracle.c ----------------------------------------------------------------------------------------------------------- */

enum cause {
    CAUSE_CLIENT_END = 1,
    CAUSE_CLIENT_RESET = 2,
    CAUSE_RESET = 4, /* an operation ended with an error of this kind */
    CAUSE_TIMED_OUT = 8,
    CAUSE_RESOURCES = 16,
    CAUSE_FAILED = 32,
    CAUSE_KICK = 64,
    CAUSE_BAN = 128,
    CAUSE_SLOW = 256,
    CAUSE_SERVICE_CLOSE = 512,
    CAUSE_SERVICE_FAIL = 1024,
    CAUSE_TOO_LARGE = 2048,
    CAUSE_NOT_BEGUN = 4096, /* a call said no */
};

/* Why a client was not let in; the last is not worker 0's alone to say. */
enum refusal { REFUSED_LIMIT, REFUSED_BANNED, REFUSED_ADDRESS_LIMIT, REFUSED_ADDRESS_RATE, REFUSED_RATE, REFUSED_MEMORY };

/* What a connection has received while it was open. */
struct counted {
    uint64_t bytes, messages;
    uint64_t whole_bytes; /* of the messages */
    bool over;            /* it has seen an error, so nothing more counts */
};

/* A connection, as the world remembers it. */
struct witness {
    uint64_t token; /* 0: the engine has not taken it over */
    uint32_t worker;
    uint32_t causes;
    uint64_t os_errors[3]; /* those that the engine was told of, a bit for each */
    bool attached, ending, released, refused;
    int32_t reason;
    enum refusal refusal;
    int64_t accepted_ns, released_ns, refused_ns;
    uint32_t overdue_turns; /* that it has been seen with a deadline over */
    uint32_t held_turns;    /* that it has been seen paused, though nothing was in its way any more */
    uint64_t held_turn;     /* the last of them: a worker that polls goes to wait many times in one */
    int64_t held_ns;        /* since when */
    struct header header;
    struct counted counted;
    uint64_t messages_out; /* when it ended */
    struct writer writer;
    struct reader reader;
    uint32_t connected_events, disconnected_events, closed_rows, listed;
};

extern struct witness witnesses[SIM_STREAMS_MAX];

void oracle_reset(void);
struct witness *witness_of(uint64_t token); /* NULL: never seen */
void oracle_cause(uint64_t token, enum cause cause);
/* After each step of any thread. */
void oracle_step(void);
/* The storm is over and nothing is under way any more. */
bool oracle_is_open(uint32_t number);
bool oracle_is_calm(bool must); /* everybody has what he is owed; with `must`, complains if not */
void oracle_calm(void);
void oracle_stopped(void);
void oracle_freed(void);
void oracle_events(const iocpd_event *events, uint32_t count);
void oracle_closed(const iocpd_closed *rows, uint32_t count);
void oracle_drain(const iocpd_drain_config *config);

/* ---- admission.c -------------------------------------------------------------------------------------------------------- */

/* What was ever configured, since what is above a new limit stays as it is. */
struct limits_seen {
    iocpd_limits largest, smallest;
    uint32_t first_byte_ms, idle_ms, slowest, slowest_per_address; /* the smallest that are limits; the last two are rates */
    int64_t changed_ns;
};

extern struct limits_seen limits;

void admission_reset(void);
/* begun: asked for, one set at a time; otherwise in force. False: no more can be asked for. */
bool oracle_limits(const iocpd_limits *now, bool begun);
void oracle_ban(const iocpd_ban *ban, bool begun);
void admission_check(const struct sim_stream *stream);
/* The client that its header names is let in. */
void admission_check_named(const struct sim_stream *stream);
/* Whether whoever comes last in this connection may have been refused for this. */
bool admission_may_refuse(const struct sim_stream *stream, enum refusal refusal);
/* Now no connection is being refused at its accept. */
void admission_between(void);

/* ---- arrivals.c --------------------------------------------------------------------------------------------------------- */

/* How long a header may take; 0 of first_byte_ms: there is no such limit. */
uint32_t header_ms(uint32_t first_byte_ms);
/* Each time that the connection is seen. */
void arrival_look(const struct sim_stream *stream, const struct connection *connection);
void arrival_check(const struct sim_stream *stream, const struct connection *connection); /* as its worker goes to wait */
bool arrival_may_end(const struct sim_stream *stream, int32_t reason);
/* What somebody is told of whose connection it is: the balancer's own, or its client's. */
struct told {
    const uint8_t *peer_ip, *via_ip;
    uint16_t peer_port, via_port;
};
enum told_when { TOLD_ANY_TIME, TOLD_OPEN, TOLD_ENDED };
void arrival_told(const struct witness *witness, const struct told *told, enum told_when when);
void arrival_row(const struct witness *witness, const iocpd_connection *row);

/* ---- counts.c ----------------------------------------------------------------------------------------------------------- */

void counts_reset(void);
void counts_receive(struct witness *witness, uint32_t bytes);
/* What the engine has counted of a connection; nothing of it is outstanding. */
void counts_check(struct witness *witness, const struct connection *connection);
void counts_stopped(void);

#endif
