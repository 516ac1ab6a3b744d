/* engine.h: the engine's C interface; the only header that Python sees.
 *
 * core/_build.py hands the part between the two cffi marks to cffi as it is, so it holds declarations alone.
 *
 * Every function may be called from any thread unless it says otherwise. None waits for a worker but iocpd_wait and
 * iocpd_join, which take a time limit, and iocpd_drain and iocpd_drain_cancel, which wait for worker 0's next turn. Strings are
 * UTF-8; addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d; times are microseconds since 1970 (UTC) on a clock that was set at the
 * engine's start and never goes back.
 */
#ifndef IOCPD_ENGINE_H
#define IOCPD_ENGINE_H

#include <stdint.h>

/* cffi: from here */

enum {
    IOCPD_WORKERS_MAX = 64,
    IOCPD_LISTENERS_MAX = 64,
    IOCPD_SLOTS_MAX = 1048576, /* connections of one worker */
    IOCPD_TEXT_BYTES = 200,
    IOCPD_PROBLEM_BYTES = 200,
    IOCPD_PREFIX_BYTES = 16,
    IOCPD_ROW_JSON_BYTES = 1024, /* without labels */
    IOCPD_SERVICE_BYTES = 128,   /* of a listener's service name, with the end mark */
    IOCPD_DELIMITER_BYTES = 16,
    IOCPD_FRAME_BYTES_MAX = 67108864, /* of one message */
    IOCPD_SERVICE_THREADS_MAX = 64,   /* of one listener */
    IOCPD_LABEL_BYTES = 8192,         /* of one connection: the labels, and the same again as JSON */
    IOCPD_BATCH_MAX = 1024,           /* kicks or bans in one command */
    IOCPD_TARGETS_MAX = 65536,        /* of a broadcast to connections that are named */
    IOCPD_PROXY_FROM_MAX = 64,        /* networks of balancers of one listener */
    IOCPD_TURN_BUCKETS = 13
};

enum iocpd_status {
    IOCPD_OK,
    IOCPD_SYSTEM, /* a system call failed: see os_error */
    IOCPD_NO_MEMORY,
    IOCPD_UNAVAILABLE, /* this backend does not work here */
    IOCPD_BUSY,        /* a queue between threads is at its bound; nothing was done */
    IOCPD_UNKNOWN,     /* no connection ever had this token */
    IOCPD_ENDED,       /* the connection has left the table */
    IOCPD_CLOSING,     /* it is draining or closing and takes nothing more, or arriving and takes nothing yet */
    IOCPD_QUEUE_FULL,  /* its send queue is at its hard limit */
    IOCPD_STOPPED,     /* the engine is stopping or has stopped */
    IOCPD_CONFLICT,    /* a drain is under way, or none is; the labels are not those that were read */
    IOCPD_TIMEOUT,
    IOCPD_FULL /* max_bans is reached */
};

enum iocpd_backend { IOCPD_AUTO, IOCPD_IOCP, IOCPD_IO_URING, IOCPD_EPOLL };

enum iocpd_service { IOCPD_ECHO, IOCPD_DISCARD, IOCPD_RELAY, IOCPD_RELAY_GROUP, IOCPD_PYTHON };

enum iocpd_state {
    IOCPD_FREE,
    IOCPD_ARRIVING, /* its PROXY header has not come whole, or its client is not let in yet */
    IOCPD_OPEN,
    IOCPD_DRAINING,
    IOCPD_CLOSING_STATE
};

/* Why a connection ended. `by` follows from it: see iocpd_reason_by. */
enum iocpd_reason {
    IOCPD_REASON_NONE,
    IOCPD_CLIENT_CLOSED,
    IOCPD_CLIENT_RESET,
    IOCPD_CLIENT_TIMED_OUT, /* the system gave up on the peer */
    IOCPD_KICKED,
    IOCPD_BANNED,
    IOCPD_DRAINED,
    IOCPD_SHUTDOWN,
    IOCPD_FIRST_BYTE_TIMEOUT,
    IOCPD_IDLE_TIMEOUT,
    IOCPD_SLOW_CONSUMER,
    IOCPD_OUT_OF_MEMORY,
    IOCPD_IO_ERROR,
    IOCPD_FRAME_TOO_LARGE,
    IOCPD_SERVICE_CLOSED, /* a service in Python has closed it */
    IOCPD_SERVICE_ERROR,  /* a handler of a service in Python has raised */
    IOCPD_PROXY_HEADER_INVALID,
    IOCPD_PROXY_HEADER_TIMEOUT,
    /* Refused after its PROXY header, which has said who it is; others are refused before they are connections. */
    IOCPD_ADDRESS_LIMIT,
    IOCPD_ADDRESS_RATE,
    IOCPD_ACCEPT_RATE,
    IOCPD_REASON_COUNT
};

enum iocpd_by { IOCPD_BY_CLIENT, IOCPD_BY_OPERATOR, IOCPD_BY_ENGINE };

typedef struct iocpd_problem {
    int32_t status;
    int32_t os_error;
    int32_t listener; /* which could not be bound; -1: it is not about a listener */
    char text[IOCPD_PROBLEM_BYTES];
} iocpd_problem;

/* How a stream of bytes is cut into messages. */
enum iocpd_framing_kind {
    IOCPD_RAW,             /* not at all: what a receive brings */
    IOCPD_LINES,           /* up to LF; a CR before it is not part of the message */
    IOCPD_LENGTH_PREFIXED, /* the length of the message in prefix_bytes, then the message */
    IOCPD_FIXED,           /* max_bytes each */
    IOCPD_DELIMITED        /* up to the delimiter */
};

typedef struct iocpd_framing {
    int32_t kind;
    uint32_t max_bytes; /* of a message; without meaning for RAW */
    uint8_t prefix_bytes;
    uint8_t little_endian;
    uint8_t crlf; /* LINES: what is sent ends with CR LF */
    uint8_t delimiter_bytes;
    uint8_t delimiter[IOCPD_DELIMITER_BYTES];
} iocpd_framing;

typedef struct iocpd_network {
    uint8_t ip[16];
    uint32_t prefix; /* of 128; IPv4: 96 more than written */
} iocpd_network;

typedef struct iocpd_listener_config {
    uint8_t ip[16];
    uint32_t scope_id;
    uint16_t port;      /* 0: the system chooses */
    uint8_t family;     /* 4 or 6 */
    uint8_t dual_stack; /* family 6: also take IPv4 */
    int32_t service;
    int32_t backlog;
    iocpd_framing framing;
    /* Who must begin with a PROXY header: the balancers that are in one of these networks. */
    uint32_t proxy_from_count;
    iocpd_network proxy_from[IOCPD_PROXY_FROM_MAX];
    /* PYTHON alone: */
    uint32_t threads;               /* that take its messages; 0 for other services */
    uint32_t inbox_bytes;           /* of each thread: messages that were received and not handled; senders wait above it */
    uint8_t concurrent;             /* batches overlap: the service says what it has handled, see iocpd_service_op */
    char name[IOCPD_SERVICE_BYTES]; /* of letters that need no escape in JSON */
} iocpd_listener_config;

typedef struct iocpd_config {
    int32_t backend;
    uint32_t workers;
    uint32_t busy_poll_us; /* a worker only sleeps once nothing has come for so long; 0: at once */
    uint32_t listener_count;
    const iocpd_listener_config *listeners;
    uint32_t max_connections;
    uint32_t first_byte_ms; /* 0: no limit */
    uint32_t idle_ms;       /* 0: no limit */
    uint32_t send_soft_bytes;
    uint32_t send_soft_ms; /* above the soft limit for so long: slow_consumer */
    uint32_t send_hard_bytes;
    uint32_t receive_buffer_bytes;
    uint32_t receive_buffers; /* of each worker, at most */
    uint32_t closed_capacity; /* ended connections that each worker remembers */
    uint32_t inbox_capacity;  /* commands that wait for one worker */
    uint32_t relay_capacity;  /* relayed messages that are not fanned out yet: their senders wait above it */
    uint32_t event_capacity;  /* events that each worker remembers */
    uint32_t max_bans;
    uint32_t max_per_address;           /* connections; 0: no limit */
    uint32_t accepts_per_s;             /* 0: no limit */
    uint32_t accepts_per_s_per_address; /* 0: no limit */
    uint64_t seed;                      /* random, of hashes of what comes from outside */
} iocpd_config;

/* What can be changed while it runs; see iocpd_config. */
typedef struct iocpd_limits {
    uint32_t max_connections;
    uint32_t first_byte_ms;
    uint32_t idle_ms;
    uint32_t send_soft_bytes;
    uint32_t send_soft_ms;
    uint32_t send_hard_bytes;
    uint32_t max_per_address;
    uint32_t accepts_per_s;
    uint32_t accepts_per_s_per_address;
} iocpd_limits;

typedef struct iocpd_connection {
    uint64_t token;
    uint64_t serial;     /* in the order of accept, from 1 */
    uint8_t peer_ip[16]; /* the client's, if a PROXY header has said it */
    uint8_t local_ip[16];
    uint8_t via_ip[16]; /* who has sent that header; all 0: there was none */
    uint16_t peer_port;
    uint16_t local_port;
    uint16_t via_port;
    uint16_t listener;
    uint16_t worker;
    uint8_t state;
    uint8_t reason; /* also for a connection that is on its way out */
    int64_t connected_at_us;
    int64_t last_activity_at_us;
    uint64_t bytes_in;
    uint64_t bytes_out; /* the system took them */
    uint64_t messages_in;
    uint64_t messages_out;
    uint64_t pending_bytes; /* queued and not yet taken by the system */
    uint64_t labels;        /* 0: no tags and no groups; otherwise see iocpd_labels_read */
} iocpd_connection;

typedef struct iocpd_closed {
    iocpd_connection connection;
    uint64_t closed_serial; /* in the order of the ends, from 1 */
    int64_t closed_at_us;
    uint64_t number;  /* in the order of its worker's ends, from 0 */
    int32_t os_error; /* for client_reset, client_timed_out, io_error */
    char text[IOCPD_TEXT_BYTES];
} iocpd_closed;

/* Which connections. A field counts only if its bit is in `fields`; bits that are set must all match. */
enum iocpd_filter_field {
    IOCPD_BY_NETWORK = 1,
    IOCPD_BY_LISTENER = 2,
    IOCPD_BY_STATE = 4,
    IOCPD_BY_AGE = 8,
    IOCPD_BY_IDLE = 16,
    IOCPD_BY_PENDING = 32,
    IOCPD_BY_BYTES_IN = 64,
    IOCPD_BY_BYTES_OUT = 128,
    IOCPD_BY_LABELS = 256,    /* all of them */
    IOCPD_BY_ANY_LABEL = 512, /* one of them at least */
};

typedef struct iocpd_filter {
    uint32_t fields;
    uint8_t network[16];
    uint32_t prefix; /* of 128; IPv4: 96 more than written */
    uint32_t listener;
    uint32_t state;
    int64_t older_than_us;
    int64_t idle_for_us;
    uint64_t min_pending_bytes;
    uint64_t min_bytes_in;
    uint64_t min_bytes_out;
    const uint8_t *labels; /* as in iocpd_label */
    uint32_t label_bytes;
} iocpd_filter;

/* What a listing can be sorted by. */
enum iocpd_key {
    IOCPD_KEY_CONNECTED_AT,
    IOCPD_KEY_LAST_ACTIVITY_AT,
    IOCPD_KEY_BYTES_IN,
    IOCPD_KEY_BYTES_OUT,
    IOCPD_KEY_MESSAGES_IN,
    IOCPD_KEY_MESSAGES_OUT,
    IOCPD_KEY_PENDING_BYTES,
    IOCPD_KEY_COUNT
};

typedef struct iocpd_sorted {
    uint64_t key;
    uint64_t serial; /* equal keys are in the order of accept */
    uint64_t token;
} iocpd_sorted;

/* Members of a row in JSON. */
enum iocpd_member {
    IOCPD_MEMBER_ID = 1,
    IOCPD_MEMBER_LISTENER = 2,
    IOCPD_MEMBER_SERVICE = 4,
    IOCPD_MEMBER_STATE = 8,
    IOCPD_MEMBER_REASON = 16,
    IOCPD_MEMBER_PEER = 32,
    IOCPD_MEMBER_VIA = 64,
    IOCPD_MEMBER_LOCAL = 128,
    IOCPD_MEMBER_CONNECTED_AT = 256,
    IOCPD_MEMBER_LAST_ACTIVITY_AT = 512,
    IOCPD_MEMBER_BYTES_IN = 1024,
    IOCPD_MEMBER_BYTES_OUT = 2048,
    IOCPD_MEMBER_MESSAGES_IN = 4096,
    IOCPD_MEMBER_MESSAGES_OUT = 8192,
    IOCPD_MEMBER_PENDING_BYTES = 16384,
    IOCPD_MEMBER_TAGS = 32768,
    IOCPD_MEMBER_GROUPS = 65536,
    IOCPD_MEMBER_WORKER = 131072,
    IOCPD_MEMBER_ALL = 262143
};

/* Where a listing goes on. Zeroed: at the beginning. */
typedef struct iocpd_cursor {
    uint64_t last_serial; /* connections that came later are not shown; 0: set by the first call */
    uint32_t worker;
    uint32_t slot;
} iocpd_cursor;

/* What became of a send, a kick or a broadcast. matched = queued + skipped_slow + failed, and
 * queued = written + closed_before_write + expired + those still waiting. */
typedef struct iocpd_report {
    int32_t status; /* kick, send: IOCPD_OK or why not */
    int32_t done;   /* nothing will change any more */
    uint64_t matched;
    uint64_t queued;
    uint64_t written; /* the send completed; not that the peer's program has read it */
    uint64_t skipped_slow;
    uint64_t closed_before_write;
    uint64_t expired; /* its time to live was over before its turn came */
    uint64_t failed;  /* no memory */
    int64_t rtt_us;   /* of iocpd_rtt; -1: the system does not tell */
} iocpd_report;

/* What became of one connection of iocpd_kick. */
enum iocpd_outcome { IOCPD_WAITING, IOCPD_LEFT, IOCPD_GONE, IOCPD_FAILED, IOCPD_REFUSED };

typedef struct iocpd_kick_config {
    int32_t reason; /* IOCPD_KICKED or IOCPD_BANNED */
    int32_t force;
    uint32_t timeout_ms;
    const char *text;
    const uint8_t *farewell;
    uint32_t farewell_bytes;
} iocpd_kick_config;

typedef struct iocpd_broadcast_config {
    const iocpd_filter *filter;
    const uint64_t *targets; /* in any order; NULL: all that the filter matches */
    uint32_t target_count;
    const uint64_t *exclude; /* ascending */
    uint32_t exclude_count;
    int32_t disconnect_slow; /* who is skipped as slow is ended as slow_consumer */
    uint32_t ttl_ms;         /* 0: none */
    const uint8_t *data;
    uint32_t bytes;
} iocpd_broadcast_config;

typedef struct iocpd_ban {
    uint8_t network[16];
    uint32_t prefix; /* of 128 */
    uint64_t ttl_ms; /* 0: for ever */
    int32_t lift;    /* this one is lifted */
} iocpd_ban;

enum iocpd_event_kind {
    IOCPD_EVENT_CONNECTED,
    IOCPD_EVENT_DISCONNECTED,
    IOCPD_EVENT_SLOW_CONSUMER, /* its send queue has come above the soft limit */
    IOCPD_EVENT_DRAIN,         /* the phase has changed */
    IOCPD_EVENT_BAN,
    IOCPD_EVENT_UNBAN,
    IOCPD_EVENT_DOMINANT_ADDRESS, /* one address has come to hold most of the connections */
    IOCPD_EVENT_KINDS
};

/* Fields that mean nothing for a kind are 0. */
typedef struct iocpd_event {
    int64_t at_us;
    uint64_t token;
    uint8_t ip[16];     /* the peer, or a network: the banned one, or the dominant address */
    uint8_t via_ip[16]; /* as in iocpd_connection */
    uint32_t prefix;    /* of the network */
    uint16_t port;
    uint16_t via_port;
    uint16_t listener;
    uint16_t ring; /* the worker; its number of workers: a ban or its end */
    uint8_t kind;
    uint8_t reason;
    uint8_t phase;
    uint64_t pending_bytes;
    uint64_t connections; /* of the dominant address */
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t messages_in;
    uint64_t messages_out;
    char text[IOCPD_TEXT_BYTES];
} iocpd_event;

enum iocpd_phase {
    IOCPD_PHASE_NONE,
    IOCPD_PHASE_LB_DELAY,  /* not ready any more, still accepting */
    IOCPD_PHASE_LISTENERS, /* listeners close, outstanding accepts are reaped */
    IOCPD_PHASE_GRACE,     /* nothing new; clients may leave by themselves */
    IOCPD_PHASE_EVICT,     /* connections are drained, at a rate if one is set */
    IOCPD_PHASE_HARD,      /* the deadline has passed: what is left is cancelled */
    IOCPD_PHASE_DRAINED,   /* no connection is left */
    IOCPD_PHASE_EXITING,   /* exit completions are posted */
    IOCPD_PHASE_STOPPED    /* every worker took its exit completion and was joined */
};

typedef struct iocpd_drain_config {
    uint32_t lb_delay_ms;
    uint32_t grace_ms;
    uint32_t deadline_ms; /* from the call; then what is left is cancelled */
    uint32_t rate_per_s;  /* 0: all at once */
    int32_t stop;         /* exit when drained; can't be cancelled */
    const uint8_t *farewell;
    uint32_t farewell_bytes;
} iocpd_drain_config;

typedef struct iocpd_drain_progress {
    int32_t phase;
    int32_t stop;
    uint64_t initial;   /* connections when it began */
    uint64_t remaining; /* connections now */
    uint64_t evicting;  /* of these, how many are on their way out */
    uint64_t cancelled; /* ended by the deadline */
    uint32_t rate_per_s;
    uint32_t exits_posted;
    uint32_t exits_taken;
    int64_t started_at_us;
    int64_t deadline_at_us;
    int64_t ended_at_us; /* 0: not yet */
} iocpd_drain_progress;

typedef struct iocpd_listener_stats {
    uint8_t ip[16];
    uint16_t port;
    uint8_t family;
    uint8_t open;
    int32_t service;
    uint64_t accepted;
    uint64_t refused_limit;  /* max_connections */
    uint64_t refused_memory; /* no memory or no slot for the connection */
    uint64_t refused_gone;   /* the client had left before it was taken over */
    /* Who is refused after a PROXY header is one of those that were accepted too. */
    uint64_t refused_banned;
    uint64_t refused_address_limit; /* max_per_address */
    uint64_t refused_address_rate;  /* accepts_per_s_per_address */
    uint64_t refused_rate;          /* accepts_per_s */
    uint64_t accept_errors;         /* no handle or no memory in the system: retried */
    uint64_t connections;
} iocpd_listener_stats;

typedef struct iocpd_worker_stats {
    uint64_t connections;
    uint64_t adopted;
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t messages_in;
    uint64_t messages_out;
    uint64_t discarded_bytes; /* came after the end of a drain's sending and were read away */
    uint64_t pending_bytes;
    uint64_t turns;
    uint64_t events;
    uint64_t starved;    /* receives that had to wait for a buffer */
    uint64_t overflows;  /* of the completion queue */
    uint64_t inbox_busy; /* commands refused because the inbox was full */
    uint64_t buffers;
    uint64_t buffers_in_use;
    uint64_t relay_waiting;
    uint64_t closed[IOCPD_REASON_COUNT];
    uint64_t turn_ns;                         /* all of them together, without the waits */
    uint64_t turn_counts[IOCPD_TURN_BUCKETS]; /* turns by how long they took: see iocpd_turn_bounds_ns */
} iocpd_worker_stats;

typedef struct iocpd_info {
    int32_t backend;
    uint32_t workers;
    uint32_t listeners;
    int32_t accepting; /* every listener is open */
    char backend_reason[IOCPD_PROBLEM_BYTES];
    int64_t started_at_us;
    uint64_t connections;
    uint64_t last_serial;
    uint64_t bans;
    uint64_t dominances; /* how often IOCPD_EVENT_DOMINANT_ADDRESS was told; what follows is of the last time */
    int64_t dominant_at_us;
    uint8_t dominant_ip[16];
    uint32_t dominant_prefix;
    uint64_t dominant_connections;
} iocpd_info;

/* What a service in Python is told, in this order for each connection. */
enum iocpd_service_kind {
    IOCPD_SERVICE_OPEN,
    IOCPD_SERVICE_MESSAGES,
    IOCPD_SERVICE_END, /* nothing more will come; what came is still answered */
    IOCPD_SERVICE_CLOSE
};

typedef struct iocpd_service_record {
    uint32_t session; /* the connection's number in its thread; given to another one after CLOSE was handled */
    uint32_t kind;
    uint32_t count;      /* MESSAGES: how many. OPEN: its place in `opens`. CLOSE: enum iocpd_reason */
    uint32_t bytes;      /* MESSAGES: what it took of the inbox; IOCPD_OP_HANDLED gives it back */
    uint32_t data_bytes; /* MESSAGES: its share of `data` */
} iocpd_service_record;

typedef struct iocpd_service_open {
    uint64_t token;
    uint8_t peer_ip[16];
    uint8_t local_ip[16];
    uint8_t via_ip[16]; /* as in iocpd_connection */
    uint16_t peer_port;
    uint16_t local_port;
    uint16_t via_port;
} iocpd_service_open;

/* The memory is the engine's and stays as it is until the thread's next iocpd_service_take. */
typedef struct iocpd_service_batch {
    const iocpd_service_record *records;
    const iocpd_service_open *opens;
    const uint32_t *lengths; /* of each message; LINES: none, since each has LF behind it */
    const uint8_t *data;     /* one message after the other */
    uint32_t record_count;
    uint32_t open_count;
    uint32_t message_count;
    uint32_t bytes; /* of data */
} iocpd_service_batch;

/* What a service does. In one word: kind << 60 | amount << 32 | session; beside it stands how many bytes of data are its own. */
enum iocpd_service_op {
    IOCPD_OP_SEND,      /* data: `amount` messages as in a batch, which are framed here */
    IOCPD_OP_CLOSE,     /* what was sent goes out, then the end of the stream */
    IOCPD_OP_KICK,      /* the same as reason KICKED; data: the text */
    IOCPD_OP_RESET,     /* KICKED at once; data: the text */
    IOCPD_OP_FAIL,      /* as CLOSE, with reason SERVICE_ERROR */
    IOCPD_OP_TO,        /* the next BROADCAST is only for those with one of these labels (data), and not for this session */
    IOCPD_OP_BROADCAST, /* data: a message to all of the listener's connections; who is too slow for it is ended */
    /* Only of a `concurrent` service; otherwise the next iocpd_service_take says that everything before was handled. */
    IOCPD_OP_HANDLED,  /* messages of `amount` bytes */
    IOCPD_OP_ANSWERED, /* everything up to END */
    IOCPD_OP_FORGET    /* CLOSE: the number is free */
};

typedef struct iocpd_service_stats {
    uint32_t listener;
    uint64_t connections;
    uint64_t messages_in;        /* taken by the service */
    uint64_t messages_out;       /* that it sent */
    uint64_t broadcasts_dropped; /* for want of memory */
    uint64_t batches;
    uint64_t waiting_bytes; /* received and not handled, with what it takes to keep them */
    uint64_t paused;        /* connections that wait now, because the service has not handled enough */
    uint64_t pauses;        /* how often one had to */
} iocpd_service_stats;

typedef struct iocpd_engine iocpd_engine;
typedef struct iocpd_framer iocpd_framer;
typedef struct iocpd_ticket iocpd_ticket;

const char *iocpd_backend_name(int32_t backend);
const char *iocpd_reason_name(int32_t reason);
int32_t iocpd_reason_by(int32_t reason);

/* Whether a backend works here, by a real round trip. */
int32_t iocpd_probe(int32_t backend, iocpd_problem *problem);

/* Listeners are bound and workers run when this returns IOCPD_OK. The caller has checked the configuration's values. */
int32_t iocpd_start(const iocpd_config *config, iocpd_engine **out, iocpd_problem *problem);

/* Begins a drain. IOCPD_CONFLICT while another one is under way, unless this one has `stop` set and that one has not: it then
 * takes over, keeping what is done already. A second stop may only bring the deadline forward. */
int32_t iocpd_drain(iocpd_engine *engine, const iocpd_drain_config *config);
/* Listeners open again; connections that are on their way out go on leaving. IOCPD_CONFLICT if none is under way or if it
 * stops the engine; IOCPD_SYSTEM if a listener could not be bound again. */
int32_t iocpd_drain_cancel(iocpd_engine *engine, iocpd_problem *problem);
void iocpd_drain_read(iocpd_engine *engine, iocpd_drain_progress *progress);

/* After a drain with `stop`: waits until the workers have nothing outstanding, posts one exit completion to each port and
 * joins the threads. IOCPD_TIMEOUT: call again. IOCPD_OK also when it is joined already. */
int32_t iocpd_join(iocpd_engine *engine, uint32_t timeout_ms);
/* Only after iocpd_join said IOCPD_OK, and by the last user. Tickets must be freed before. */
void iocpd_free(iocpd_engine *engine);

/* Changes limits of a running engine. What is above a new one stays as it is, but timeouts hold for all at once. */
void iocpd_configure(iocpd_engine *engine, const iocpd_limits *limits);

/* Commands. On IOCPD_OK, *ticket is the caller's and tells what became of it; it is delivered by iocpd_wait when it is done.
 * Otherwise nothing was done. What pointers lead to is copied. */
int32_t iocpd_send(iocpd_engine *engine, uint64_t token, const uint8_t *data, uint32_t bytes, iocpd_ticket **ticket);
/* Ends up to IOCPD_BATCH_MAX connections; done when all have left the table. Without `force` each drains: queued sends, then the
 * farewell, then end of file, and it is reset after timeout_ms. A single one that can't be kicked is refused as a whole;
 * of several each has its outcome. */
int32_t iocpd_kick(iocpd_engine *engine, const iocpd_kick_config *config, const uint64_t *tokens, uint32_t count,
                   iocpd_ticket **ticket);
int32_t iocpd_broadcast(iocpd_engine *engine, const iocpd_broadcast_config *config, iocpd_ticket **ticket);
/* Gives a connection these labels for those that it has, if they still are of that version (0: it has none). A label is its kind
 * ('g': group, 't': tag), its length in two bytes (low, high) and its text; groups come first. `json` says the same as two
 * members of an object, each with a comma before it: first the tags, in tag_json_bytes. All empty: no labels. */
int32_t iocpd_label(iocpd_engine *engine, uint64_t token, uint64_t version, const uint8_t *labels, uint32_t label_bytes,
                    const char *json, uint32_t tag_json_bytes, uint32_t json_bytes, iocpd_ticket **ticket);
/* Bans and lifts up to IOCPD_BATCH_MAX networks, in order; in force for accepts when it is done. A ban that is there already gets
 * the new time to live. IOCPD_FULL on the ticket: those after max_bans are not in force. */
int32_t iocpd_bans(iocpd_engine *engine, const iocpd_ban *bans, uint32_t count, iocpd_ticket **ticket);
/* Asks the system for the smoothed round trip time of a connection. */
int32_t iocpd_rtt(iocpd_engine *engine, uint64_t token, iocpd_ticket **ticket);
/* Done when each worker has worked off what was in its inbox before: connections that were accepted before are in the table. */
int32_t iocpd_barrier(iocpd_engine *engine, iocpd_ticket **ticket);

/* Takes tickets that are done, each exactly once; waits at most timeout_ms for the first. One thread at a time. Returns how
 * many; 0 after the time or after iocpd_wait_wake. */
uint32_t iocpd_wait(iocpd_engine *engine, iocpd_ticket **done, uint32_t capacity, uint32_t timeout_ms);
void iocpd_wait_wake(iocpd_engine *engine);
void iocpd_ticket_read(const iocpd_ticket *ticket, iocpd_report *report);
/* An iocpd_outcome for each connection of a kick, in the order in which they were given. */
void iocpd_outcomes_read(const iocpd_ticket *ticket, uint8_t *outcomes);
/* The caller's hold; may be called at any time, also before it is done (it is then not delivered). */
void iocpd_ticket_free(iocpd_engine *engine, iocpd_ticket *ticket);

/* Reads; never stop a worker. */
void iocpd_info_read(iocpd_engine *engine, iocpd_info *info);
void iocpd_worker_read(iocpd_engine *engine, uint32_t worker, iocpd_worker_stats *stats);
void iocpd_listener_read(iocpd_engine *engine, uint32_t listener, iocpd_listener_stats *stats);
/* IOCPD_OK, IOCPD_ENDED or IOCPD_UNKNOWN. */
int32_t iocpd_get(iocpd_engine *engine, uint64_t token, iocpd_connection *row);
/* Up to `capacity` matching rows in the order of the slots, from *cursor, which moves on. Fewer than capacity: the end. */
uint32_t iocpd_list(iocpd_engine *engine, const iocpd_filter *filter, iocpd_cursor *cursor, iocpd_connection *rows,
                    uint32_t capacity);
/* The tokens of those that match, up to `capacity`, in the order of the slots; returns how many. */
uint32_t iocpd_match(iocpd_engine *engine, const iocpd_filter *filter, uint64_t *tokens, uint32_t capacity);
/* The rows as JSON objects with commas between them; an id is `prefix` (at most IOCPD_PREFIX_BYTES of ASCII that needs no
 * escape) and the token in hexadecimal digits; `members` are bits of iocpd_member. Up to `limit`, and as many as surely fit
 * into `capacity`; *more: others may follow. */
uint32_t iocpd_list_json(iocpd_engine *engine, const iocpd_filter *filter, iocpd_cursor *cursor, uint32_t limit, uint32_t members,
                         const char *prefix, char *out, uint32_t capacity, uint32_t *bytes, int32_t *more);
/* The connections that match, sorted as they are at this moment: up to `capacity`, and returns how many there are. */
uint32_t iocpd_sort(iocpd_engine *engine, const iocpd_filter *filter, int32_t key, int32_t descending, iocpd_sorted *out,
                    uint32_t capacity);
/* Rows as in iocpd_list_json for a sorted listing, from *position, which moves on to the next that is still there, or to
 * `count`. Who has ended meanwhile is passed over. */
uint32_t iocpd_sorted_json(iocpd_engine *engine, const iocpd_sorted *sorted, uint32_t count, uint32_t *position, uint32_t limit,
                           uint32_t members, const char *prefix, char *out, uint32_t capacity, uint32_t *bytes);
uint64_t iocpd_count(iocpd_engine *engine, const iocpd_filter *filter);
/* The newest first, those with a closed_serial below `before` (0: all). */
uint32_t iocpd_closed_list(iocpd_engine *engine, uint64_t before, iocpd_closed *rows, uint32_t capacity);
/* IOCPD_OK, or IOCPD_UNKNOWN when it is not remembered (any more). */
int32_t iocpd_closed_get(iocpd_engine *engine, uint64_t token, iocpd_closed *row);
/* A connection's labels as JSON members, up to IOCPD_LABEL_BYTES, and their version. None: 0 bytes and version 0. IOCPD_ENDED and
 * IOCPD_UNKNOWN as in iocpd_get. */
int32_t iocpd_labels_read(iocpd_engine *engine, uint64_t token, char *json, uint32_t *bytes, uint64_t *version);
/* The same for a closed record that may still be there. */
void iocpd_closed_labels_read(iocpd_engine *engine, const iocpd_closed *row, char *json, uint32_t *bytes);

/* Events that each ring still has, from `positions` on (one for each worker, and one for bans), merged by their times; the
 * positions move on. *missed grows by those that were overwritten before they were read. */
uint32_t iocpd_events(iocpd_engine *engine, uint64_t *positions, iocpd_event *events, uint32_t capacity, uint64_t *missed);
/* The positions after the newest. */
void iocpd_event_positions(iocpd_engine *engine, uint64_t *positions);
/* Services in Python. `thread` counts through the threads of all their listeners. Two calls for one thread may run at the same
 * time only if they are a take and a reply of a concurrent service. */
/* Waits at most timeout_ms for something. IOCPD_OK (maybe with nothing in it), or IOCPD_STOPPED: nothing will come any more. */
int32_t iocpd_service_take(iocpd_engine *engine, uint32_t thread, uint32_t timeout_ms, iocpd_service_batch *batch);
/* Does what `ops` say, in their order; waits while the workers have too much to send. `lengths`: of each message of a SEND;
 * LINES: none, since each has LF behind it. */
void iocpd_service_reply(iocpd_engine *engine, uint32_t thread, const uint64_t *ops, const uint32_t *sizes, uint32_t count,
                         const uint32_t *lengths, const uint8_t *data);
/* Ends a wait in iocpd_service_take. */
void iocpd_service_wake(iocpd_engine *engine, uint32_t thread);
void iocpd_service_read(iocpd_engine *engine, uint32_t thread, iocpd_service_stats *stats);

/* The framing of a listener, for other uses. What iocpd_frame_encode writes, and how many bytes that are (`out` may be NULL). */
uint32_t iocpd_frame_encode(const iocpd_framing *framing, const uint8_t *message, uint32_t bytes, uint8_t *out);
/* NULL without memory. One thread at a time. */
iocpd_framer *iocpd_framer_new(const iocpd_framing *framing);
void iocpd_framer_free(iocpd_framer *framer);
/* How many bytes wait for the end of their message. */
uint32_t iocpd_framer_bytes(const iocpd_framer *framer);
/* The messages that become whole with this data, into `out` (room for iocpd_framer_bytes and `bytes`) and `lengths` (room for
 * `bytes`). IOCPD_OK; IOCPD_FULL: the one after them is too large; IOCPD_NO_MEMORY. */
int32_t iocpd_framer_feed(iocpd_framer *framer, const uint8_t *data, uint32_t bytes, uint8_t *out, uint32_t *lengths,
                          uint32_t *count);

/* Puts a ban (kind IOCPD_EVENT_BAN) or its end among the events. */
void iocpd_event_note(iocpd_engine *engine, int32_t kind, const uint8_t *network, uint32_t prefix, const char *text);
/* Upper bounds of the buckets of turn_counts; the last is UINT64_MAX. */
const uint64_t *iocpd_turn_bounds_ns(void);

/* Gives the calling thread a lower priority than the workers have. It can't be taken back everywhere. */
void iocpd_lower_priority(void);

/* Blocks allocated by all engines of this process and not yet freed: 0 when every engine is freed. */
uint64_t iocpd_allocations(void);

/* cffi: to here */

#endif
