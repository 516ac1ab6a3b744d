/* worker.c: one thread, one port: wait, dispatch, timers, inbox. See worker.h. */
#include "worker.h"

#include "internal.h"

enum {
    MESSAGES_PER_TURN = 32, /* or replies: each may be a send or an end, and those who are ready wait for them */
    TIMERS_PER_TURN = 32,   /* likewise */
    ENDS_PER_TURN = 16,     /* likewise, and for no longer than ENDS_NS: */
    ENDS_NS = 50000,        /* a close frees all that the kernel had queued for the client, which may be many pieces */
    GATHERS_KEPT = 64,
    LIMITS_SLICE = 512,
};

/* What the inbox holds once the worker has ended. */
static struct message inbox_closed;

/* ---- life ----------------------------------------------------------------------------------------------------------- */

int worker_init(struct worker *worker, struct iocpd_engine *engine, uint32_t number) {
    const iocpd_config *config = &engine->config;
    worker->engine = engine;
    worker->number = number;
    worker->driver = engine->driver;
    worker->busy_poll_ns = config->busy_poll_us * INT64_C(1000);
    worker->random = 0x9e3779b97f4a7c15u * (number + 1);
    if (buffer_pool_init(&worker->pool, config->receive_buffer_bytes, config->receive_buffers)) return -1;
    if (table_init(&worker->table, worker)) return -1;
    if (ring_init(&worker->events, sizeof(struct event_record), config->event_capacity)) return -1;
    return ring_init(&worker->closed, sizeof(iocpd_closed), config->closed_capacity);
}

static void closed_destroy(struct worker *worker) {
    struct ring *ring = &worker->closed;
    iocpd_closed row;
    for (uint64_t number = ring_oldest(ring); ring->memory && number < ring->written; number++)
        if (ring_read(ring, number, &row, sizeof row)) memory_free((void *)(uintptr_t)row.connection.labels);
    ring_destroy(ring);
}

void worker_destroy(struct worker *worker) {
    ASSERT(worker->load == 0 && !worker->dirty && !worker->leaving.first && !worker->fanouts.first);
    if (worker->port) worker->driver->close(worker->port);
    while (worker->gathers) {
        struct port_gather *gather = worker->gathers;
        worker->gathers = gather->next;
        memory_free(gather);
    }
    closed_destroy(worker);
    ring_destroy(&worker->events);
    timers_destroy(&worker->timers);
    table_destroy(&worker->table);
    buffer_pool_destroy(&worker->pool);
}

void worker_run(void *argument) {
    struct worker *worker = argument;
    struct iocpd_engine *engine = worker->engine;
    const char *step = "";
    int error = worker->driver->open(&worker->port, &(struct port_options){.pool = &worker->pool}, &step);
    engine->start_error = error;
    engine->start_step = step;
    worker->now_ns = platform_monotonic_ns();
    if (!error && worker->number == 0) listeners_accept(engine);
    u32_store_release(&engine->start_answered, 1);
    platform_event_set(engine->start_event);
    if (error) return;
    while (!worker->exit) worker_turn(worker);
    while (fanout_turn(worker)) {} /* nobody is left to get it, but somebody may wait for the report */
    ASSERT(worker->port->pending == 0 && worker->table.used == 0);
    u32_add(&engine->exits_taken, 1);
}

/* ---- inbox ---------------------------------------------------------------------------------------------------------- */

/* Whatever it is that the worker must look at has been stored before. Wakes the port only if the worker may be asleep. The order
 * matters on both sides: here ask for attention, then look whether it sleeps; there say that it sleeps, then look whether
 * attention is asked for. All four are sequentially consistent, so at least one side sees the other. */
void worker_wake(struct worker *worker) {
    u32_exchange(&worker->attention, 1);
    if (u32_exchange(&worker->sleeping, 0)) worker->driver->post(worker->port, POST_WAKE);
}

bool worker_post(struct worker *worker, struct message *message) {
    u32_add(&worker->posters, 1); /* the port is not closed while somebody is in here */
    bool open;
    for (;;) {
        void *head = pointer_load_acquire(&worker->inbox);
        open = head != &inbox_closed;
        if (!open) break;
        message->next = head;
        if (pointer_swap_if(&worker->inbox, head, message)) break;
    }
    if (open) worker_wake(worker);
    u32_add(&worker->posters, (uint32_t)-1);
    return open;
}

static struct message *oldest_first(struct message *newest) {
    struct message *oldest = NULL;
    while (newest) {
        struct message *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

static struct message *inbox_pop(struct worker *worker) {
    if (!worker->backlog && pointer_load_acquire(&worker->inbox))
        worker->backlog = oldest_first(pointer_exchange(&worker->inbox, NULL));
    struct message *message = worker->backlog;
    if (message) worker->backlog = message->next;
    return message;
}

static void inbox_put_back(struct worker *worker, struct message *message) {
    message->next = worker->backlog;
    worker->backlog = message;
}

static void message_do(struct worker *worker, struct message *message) {
    switch (message->kind) {
    case MESSAGE_ADOPT:
        worker_adopt(worker, (struct adoption *)message);
        memory_free(message);
        break;
    case MESSAGE_FANOUT: fanout_enqueue(worker, message); break;
    case MESSAGE_CONTROL: drain_control(worker); break;
    case MESSAGE_ENTER: arrival_enter(worker, message); break;
    case MESSAGE_ENTERED: arrival_entered(worker, message); break;
    default: command_do(worker, message); break;
    }
}

/* True when there may be more: in the backlog, or behind it in the inbox, for which nobody will ask for attention again. */
static bool inbox_turn(struct worker *worker) {
    for (uint32_t left = MESSAGES_PER_TURN; left > 0;) {
        struct message *message = inbox_pop(worker);
        if (!message) return false;
        if (message->kind == MESSAGE_REPLIES) {
            if (!python_replies(worker, message, &left)) inbox_put_back(worker, message);
        } else {
            message_do(worker, message);
            left = worker_ends_enough(worker) ? 0 : left - 1;
        }
    }
    return true;
}

void worker_close_inbox(struct worker *worker) {
    struct message *left = worker->backlog;
    worker->backlog = NULL;
    struct message *newest = pointer_exchange(&worker->inbox, &inbox_closed);
    for (int round = 0; round < 2; round++) {
        while (left) {
            struct message *message = left;
            left = message->next;
            if (message->kind == MESSAGE_FANOUT) fanout_abandon(message);
            else if (message->kind == MESSAGE_REPLIES) python_replies_abandon(message);
            else if (message->kind == MESSAGE_ENTER || message->kind == MESSAGE_ENTERED) arrival_abandon(message);
            else if (message->kind >= MESSAGE_SEND) command_abandon(message);
        }
        left = oldest_first(newest);
        newest = NULL;
    }
    /* Who is between a push and its wake may still touch the port. */
    while (u32_load_acquire(&worker->posters)) platform_thread_yield();
}

/* ---- connections ---------------------------------------------------------------------------------------------------- */

/* Who the slot is from now on. Readers see either all of it or none. */
static void connection_begin(struct connection *connection, const struct adoption *adoption, struct arrival *arrival,
                             int64_t now_ns) {
    static const uint8_t nobody[16];
    connection->flags = 0;
    connection->deadline_ns = connection->over_soft_ns = 0;
    connection->os_error = 0;
    connection->socket.handle = adoption->handle;
    connection->visitor = adoption->visitor;
    connection->arrival = arrival;
    table_write_begin(connection);
    u64_store_release(&connection->serial, adoption->serial);
    table_store_ip(connection->peer_ip, adoption->peer.ip);
    table_store_ip(connection->local_ip, adoption->local.ip);
    table_store_ip(connection->via_ip, nobody);
    u32_store_release(&connection->ports, (uint32_t)adoption->peer.port << 16 | adoption->local.port);
    u32_store_release(&connection->via_port, 0);
    u32_store_release(&connection->listener, adoption->listener);
    u32_store_release(&connection->reason, IOCPD_REASON_NONE);
    u64_store_release(&connection->connected_ns, (uint64_t)now_ns);
    u64_store_release(&connection->last_activity_ns, (uint64_t)now_ns);
    u64_store_release(&connection->bytes_in, 0);
    u64_store_release(&connection->bytes_out, 0);
    u64_store_release(&connection->messages_in, 0);
    u64_store_release(&connection->messages_out, 0);
    u64_store_release(&connection->pending_bytes, 0);
    u32_store_release(&connection->state, arrival ? IOCPD_ARRIVING : IOCPD_OPEN);
    table_write_end(connection);
    connection->worker->open_count++;
}

void worker_adopt(struct worker *worker, const struct adoption *adoption) {
    struct arrival *arrival = adoption->arriving ? arrival_new() : NULL;
    struct connection *connection = adoption->arriving && !arrival ? NULL : table_take(&worker->table);
    if (!connection) {
        memory_free(arrival);
        platform_socket_reset_on_close(adoption->handle);
        platform_socket_close(adoption->handle);
        u64_add(&worker->engine->listeners[adoption->listener].refused_memory, 1);
        u32_add(&worker->load, (uint32_t)-1);
        listener_left(worker->engine, adoption->listener, adoption->visitor);
        return;
    }
    u64_bump(&worker->adopted, 1); /* first: who is in the table has been counted */
    connection_begin(connection, adoption, arrival, worker->now_ns);
    if (arrival) arrival_begin(connection);
    else connection_open(connection);
    int error = worker->driver->attach(worker->port, &connection->socket);
    if (!error) return;
    connection->os_error = error;
    connection_terminate(connection, IOCPD_IO_ERROR, true);
}

struct port_gather *worker_gather_take(struct worker *worker) {
    struct port_gather *gather = worker->gathers;
    if (!gather) return memory_new(sizeof *gather);
    worker->gathers = gather->next;
    worker->gather_count--;
    return gather;
}

void worker_gather_free(struct worker *worker, struct port_gather *gather) {
    if (worker->gather_count == GATHERS_KEPT) {
        memory_free(gather);
        return;
    }
    gather->next = worker->gathers;
    worker->gathers = gather;
    worker->gather_count++;
}

/* ---- a turn ----------------------------------------------------------------------------------------------------------- */

static void event_do(struct worker *worker, const struct port_event *event) {
    switch (event->kind) {
    case PORT_RECEIVED: connection_received(CONTAINER_OF(event->socket, struct connection, socket), event); break;
    case PORT_SENT: connection_sent(CONTAINER_OF(event->socket, struct connection, socket), event); break;
    case PORT_ACCEPTED: listener_accepted(worker->engine, event); break;
    case PORT_WOKEN: break; /* the inbox is looked at in each turn */
    case PORT_EXIT: worker->exit = true; break;
    }
}

/* What is left is due when the port asks for how long to wait. */
static void timers_turn(struct worker *worker) {
    for (int i = 0; i < TIMERS_PER_TURN && (i == 0 || !worker_ends_enough(worker)); i++) {
        struct connection *connection = timers_due(&worker->timers, worker->now_ns);
        if (!connection) return;
        connection_timer(connection);
    }
}

/* True: some more may go on in the next turn, unless those of this one bring too much. */
static bool relay_turn(struct worker *worker) {
    struct iocpd_engine *engine = worker->engine;
    u32_exchange(&engine->relay_blocked, 1); /* before the look: whoever makes them fewer after it wakes us */
    /* An addition of nothing, because the read must not come before that store. */
    if (u64_add(&engine->relay_waiting, 0) > engine->config.relay_capacity / 2) return false;
    for (int i = 0; i < RESUMES_PER_TURN && worker->relay_paused.count; i++)
        connection_relay_resume(paused_first(&worker->relay_paused, &worker->table));
    return worker->relay_paused.count > 0;
}

static void dirty_turn(struct worker *worker) {
    while (worker->dirty) {
        struct connection *connection = worker->dirty;
        worker->dirty = connection->next;
        connection_flush(connection);
    }
}

static void leaving_turn(struct worker *worker) {
    struct leaving *leaving = &worker->leaving;
    int64_t until_ns = platform_monotonic_ns() + ENDS_NS;
    for (int i = 0; leaving->first && i < ENDS_PER_TURN && (i == 0 || platform_monotonic_ns() < until_ns); i++) {
        struct connection *connection = leaving->first;
        leaving->first = connection->next;
        if (!leaving->first) leaving->last = NULL;
        connection_finish(connection);
    }
}

static int64_t shorter(int64_t a_ns, int64_t b_ns) { return b_ns >= 0 && (a_ns < 0 || b_ns < a_ns) ? b_ns : a_ns; }

static const uint64_t turn_bounds_ns[IOCPD_TURN_BUCKETS] = {10000,   25000,   50000,    100000,   250000,    500000,
                                                            1000000, /* 10 us to 1 ms */
                                                            2500000, 5000000, 10000000, 25000000, 100000000, UINT64_MAX};

const uint64_t *iocpd_turn_bounds_ns(void) { return turn_bounds_ns; }

static void turn_took(struct worker *worker, uint64_t ns) {
    int bucket = 0;
    while (ns > turn_bounds_ns[bucket]) bucket++;
    u64_bump(&worker->turn_counts[bucket], 1);
    u64_bump(&worker->turn_ns, ns);
}

/* Carries changed limits over to the timers of those who are here, some in each turn. True while there are more. */
static bool limits_turn(struct worker *worker) {
    uint32_t version = u32_load_acquire(&worker->engine->limits_version);
    if (worker->limits_version != version) {
        worker->limits_version = version;
        worker->limits_slot = 0;
    }
    uint32_t until =
        worker->limits_slot + LIMITS_SLICE < worker->table.high ? worker->limits_slot + LIMITS_SLICE : worker->table.high;
    while (worker->limits_slot < until) connection_limits_changed(table_at(&worker->table, worker->limits_slot++));
    return worker->limits_slot < worker->table.high;
}

/* Takes events into `events`; returns how many. While something has come within busy_poll_us the worker only asks, without saying
 * that it sleeps, so that neither the kernel nor whoever wants its attention need wake it. */
static uint32_t worker_wait(struct worker *worker, struct port_event *events, int64_t timeout_ns) {
    const struct port_driver *driver = worker->driver;
    int64_t due_ns = timeout_ns < 0 ? INT64_MAX : worker->now_ns + timeout_ns;
    while (timeout_ns != 0 && worker->now_ns < worker->poll_until_ns) {
        uint32_t count = driver->wait(worker->port, events, PORT_EVENTS_MAX, 0);
        worker->now_ns = platform_monotonic_ns();
        if (count || u32_load(&worker->attention) || worker->now_ns >= due_ns) return count;
        if (timeout_ns > 0) timeout_ns = due_ns - worker->now_ns;
    }
    if (timeout_ns != 0) {
        u32_exchange(&worker->sleeping, 1);
        if (u32_load_ordered(&worker->attention)) timeout_ns = 0;
    }
    uint32_t count = driver->wait(worker->port, events, PORT_EVENTS_MAX, timeout_ns);
    u32_store(&worker->sleeping, 0);
    worker->now_ns = platform_monotonic_ns();
    return count;
}

void worker_turn(struct worker *worker) {
    struct port_event events[PORT_EVENTS_MAX];
    u64_bump(&worker->turns, 1);
    if (u32_load(&worker->attention)) u32_exchange(&worker->attention, 0); /* before looking at what it may be for */
    timers_turn(worker);
    bool busy = inbox_turn(worker);
    int64_t drain_ns = drain_turn(worker), accept_ns = worker->number == 0 ? listeners_turn(worker->engine) : -1;
    busy |= fanout_turn(worker);
    if (worker->limits_version != u32_load(&worker->engine->limits_version) || worker->limits_busy)
        worker->limits_busy = limits_turn(worker);
    if (worker->relay_paused.count) busy |= relay_turn(worker);
    if (worker->python_paused.count || u32_load(&worker->python_broken)) busy |= python_turn(worker);
    dirty_turn(worker);
    if (worker->leaving.first) leaving_turn(worker);
    if (worker->python_pushed) python_wake(worker);

    int64_t now = platform_monotonic_ns();
    turn_took(worker, (uint64_t)(now - worker->now_ns));
    worker->now_ns = now;
    busy |= worker->limits_busy || worker->leaving.first;
    int64_t timeout_ns = busy ? 0 : shorter(shorter(timers_next(&worker->timers, now), drain_ns), accept_ns);
    uint32_t count = worker_wait(worker, events, timeout_ns);
    if (count || u32_load(&worker->attention)) worker->poll_until_ns = worker->now_ns + worker->busy_poll_ns;
    for (uint32_t i = 0; i < count; i++) event_do(worker, &events[i]);
    dirty_turn(worker);
}
