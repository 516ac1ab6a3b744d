/* port_sim.h: the simulated kernel as the simulation in tests/simulation sees it: sockets, clients' ends, faults.
 *
 * Built only there (IOCPD_SIM). Everything runs on one thread of the system and is decided by one seed; the engine's threads are
 * coroutines. What the kernel needs of the simulation (chance, time, threads, somebody to complain to) is declared at the end.
 */
#ifndef IOCPD_PORT_SIM_H
#define IOCPD_PORT_SIM_H

#include "port.h"

extern const struct port_driver port_sim;

enum {
    SIM_STREAMS_MAX = 192,
    SIM_LISTENERS_MAX = 64, /* ever bound in one seed */
    SIM_BACKLOG = 16,
    SIM_UNREAD_BYTES = 8192,
    SIM_NEVER_LATER_NS = 20 * 1000 * 1000,
};

/* What may go wrong; a seed chooses some of them, and a failing seed is shrunk by leaving them out. */
enum sim_fault {
    FAULT_DELAY = 1,      /* completions come late and in any order */
    FAULT_SHORT = 2,      /* sends and receives of less than would have been possible */
    FAULT_ERRORS = 4,     /* an operation ends with any error of the drivers' catalogues */
    FAULT_SUBMIT = 8,     /* a submit or an attach says no, likewise */
    FAULT_CANCEL = 16,    /* a cancel loses its race, or wins it after a part has gone out */
    FAULT_STARVE = 32,    /* no receive buffer although there are some */
    FAULT_HANDLES = 64,   /* accepts that bring an error instead of a handle; accepts that end unasked */
    FAULT_MEMORY = 128,   /* no memory at any allocation */
    FAULT_SPURIOUS = 256, /* wakes for nothing */
    FAULT_CLOCK = 512,    /* the clock jumps within a wait */
    FAULT_PREEMPT = 1024, /* threads change between any two atomic operations */
    FAULT_LATE_WAKE = 2048,
    FAULT_SYSTEM = 4096, /* other calls of the system: shutdown, bind and listen, getsockname */
    FAULT_START = 8192,  /* memory and system already at the start: also a port, events, threads */
    FAULT_PROXY = 16384, /* some clients must begin with a PROXY header, which may be late, wrong or cut off */
    FAULT_ALL = 32767,
};

/* One TCP connection, seen from the server: a client's connect until both sides are through. Its number is never given again. */
struct sim_stream {
    uint32_t number;
    uint32_t listener; /* of those that listen; the engine's number */
    struct platform_address peer, local;
    void *client;

    enum { STREAM_UNUSED, STREAM_BACKLOG, STREAM_OPEN, STREAM_CLOSED } state; /* of the server's handle */
    struct sim_port *port;                                                    /* NULL: not attached */
    struct port_socket *socket;                                               /* likewise */

    /* From the client: not yet taken by the server. */
    uint8_t unread[SIM_UNREAD_BYTES];
    uint32_t unread_bytes;
    uint32_t header_bytes;           /* of a PROXY header: so many are still before the stream's own, written or not */
    bool client_ended, client_reset; /* end of file behind the bytes; reset */
    int32_t broken;                  /* the error that the network ended it with; 0: it is whole */
    bool whole_messages;             /* never cut a message in two: `message_bytes` of each */
    uint32_t message_bytes;
    /* To the client: taken from the server and not yet read. */
    uint32_t window, in_window;
    bool server_ended, server_reset, reset_on_close;

    /* The outstanding receive and send. */
    struct {
        bool cancelled;
        int64_t due_ns;
        uint32_t turns; /* that it has been ready, and was not told of */
    } receive;
    struct {
        bool done, cancelled;
        int64_t due_ns;
        uint32_t turns;
        int32_t os_error;
        uint32_t bytes;
        uint64_t print; /* of the slices and of what they point to */
    } send;

    int64_t active_ns;    /* when the engine was last told of bytes */
    uint64_t taken, sent; /* bytes: to the engine with events, without a header; from the engine, whose completion it has seen */
};

struct sim_listener {
    bool open;
    uint32_t number; /* the engine's */
    struct platform_address at;
    struct sim_port *port;
    struct port_listener *listener; /* accept is outstanding */
    bool cancelled;
    int64_t retry_ns; /* no handle: not before; 0: now */
    uint32_t turns;   /* that it has been ready, and was not told of */
    struct sim_stream *backlog[SIM_BACKLOG];
    uint32_t waiting;
};

/* ---- what the port needs of the sockets ---------------------------------------------------------------------------------- */

/* A call with a handle that is not open is a failure. */
struct sim_stream *sim_open_stream(socket_t handle, const char *call);
struct sim_listener *sim_listener_of(socket_t handle); /* NULL: it is not one */
struct sim_listener *sim_listener_at(uint32_t at);
uint32_t sim_listener_count(void);
socket_t sim_handle_give(struct sim_stream *stream);
void sim_stream_close(struct sim_stream *stream);
void sim_network_breaks(struct sim_stream *stream, int32_t os_error);
/* The first that waits there, who is not there any more. */
struct sim_stream *sim_backlog_take(struct sim_listener *listener);
void sim_backlog_lose(struct sim_listener *listener); /* likewise, and he is reset */
/* What the next operation finds; 0: the connection is whole. */
int32_t sim_stream_error(const struct sim_stream *stream);
/* When it may go on at the earliest. */
int64_t sim_later(void);
void sim_ports_reset(void);
/* What a call that fails may say: any number of the drivers' catalogues. */
int32_t sim_error(void);

/* ---- the clients' side ------------------------------------------------------------------------------------------------- */

void sim_kernel_reset(void); /* before each seed */
/* NULL when nobody listens there, or the backlog is full. */
struct sim_stream *sim_connect(uint32_t listener, const struct platform_address *peer, void *client);
/* How many of these bytes there was room for. */
uint32_t sim_client_write(struct sim_stream *stream, const uint8_t *data, uint32_t bytes);
uint32_t sim_client_read(struct sim_stream *stream, uint32_t most);
void sim_client_end(struct sim_stream *stream);
void sim_client_reset(struct sim_stream *stream);
/* Nothing may be open after an engine has ended. */
uint32_t sim_handles_open(void);
struct sim_stream *sim_stream_at(uint32_t number); /* NULL: no such */
uint32_t sim_stream_count(void);
/* The listener's backlog, and how many of its connections went to the engine as handles. */
uint64_t sim_handles_given(void);
bool sim_listening(uint32_t listener);
/* An operation that could end now, on any port: the calm after a seed's storm waits for none. */
bool sim_busy(void);
bool sim_port_asleep(const struct port *port);
int64_t sim_port_returned_ns(const struct port *port); /* when its wait did last */

/* ---- what the simulation has for the kernel ---------------------------------------------------------------------------------- */

int64_t sim_now_ns(void);
void sim_clock_jump(int64_t ns);
uint64_t sim_random(uint64_t bound); /* below it; the kernel's own generator */
/* Whether this goes wrong now: once in so many times, if the seed has chosen this fault. */
bool sim_fault(enum sim_fault fault, uint32_t one_in);
/* The calling thread waits until ready(what), or until the time has come. */
void sim_wait(bool (*ready)(const void *what), const void *what, int64_t until_ns);
/* Until it is taken back, no other thread goes on: what the kernel does in one go. */
void sim_still(bool still);
void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
extern bool sim_tracing;

/* What the oracle wants to see. */
/* A worker has done all it could and goes to wait, for so long. */
void oracle_settled(const struct port *port, int64_t timeout_ns);
void oracle_attached(struct sim_stream *stream); /* a connection is in its slot */
void oracle_released(struct sim_stream *stream); /* its end: its fields are still those of the connection */
void oracle_sent(struct sim_stream *stream, const uint8_t *data, uint32_t bytes); /* the kernel has taken these */
void oracle_received(struct sim_stream *stream, uint32_t bytes);       /* the engine is about to get these, behind the header */
void oracle_send_ended(struct sim_stream *stream, int32_t os_error);   /* and about to be told so */
int32_t oracle_not_begun(struct sim_stream *stream, int32_t os_error); /* an attach or a submit says this; gives it back */
void oracle_accept_not_begun(uint32_t listener);
void oracle_accept_error(uint32_t listener, int32_t os_error); /* an accept that brings no handle */
/* Something that is ready was not told of for so many turns of its worker. NULL: a listener's accept. */
void oracle_not_served(struct sim_stream *stream, uint32_t turns);
void oracle_accepted(struct sim_stream *stream);                /* handed to the engine */
void oracle_refused(struct sim_stream *stream);                 /* the engine closed it without taking it over */
void oracle_resets(struct sim_stream *stream);                  /* it will be closed with a reset */
void oracle_error(struct sim_stream *stream, int32_t os_error); /* an operation on it ends with this */
void client_told(struct sim_stream *stream);                    /* something has changed for the client */

#endif
