/* engine.c: the engine's life: start, adopt, join, free; and the commands that Python gives. */
#include "engine.h"

#include "internal.h"

#include <stdio.h>

static const int64_t ACCEPT_RETRY_NS = 100 * 1000 * 1000; /* until there may be handles or memory again */

/* ---- names ---------------------------------------------------------------------------------------------------------- */

static const struct port_driver *driver_of(int32_t backend) {
    switch (backend) {
#ifdef _WIN32
    case IOCPD_IOCP: return &port_iocp;
#endif
#ifdef __linux__
    case IOCPD_IO_URING: return &port_uring;
    case IOCPD_EPOLL: return &port_epoll;
#endif
    default: return NULL;
    }
}

const char *iocpd_backend_name(int32_t backend) {
    static const char *const names[] = {"auto", "iocp", "io_uring", "epoll"};
    return backend >= 0 && (size_t)backend < sizeof names / sizeof *names ? names[backend] : "";
}

static const struct {
    const char *name;
    enum iocpd_by by;
} reasons[IOCPD_REASON_COUNT] = {
    [IOCPD_REASON_NONE] = {"", IOCPD_BY_ENGINE},
    [IOCPD_CLIENT_CLOSED] = {"client_closed", IOCPD_BY_CLIENT},
    [IOCPD_CLIENT_RESET] = {"client_reset", IOCPD_BY_CLIENT},
    [IOCPD_CLIENT_TIMED_OUT] = {"client_timed_out", IOCPD_BY_CLIENT},
    [IOCPD_KICKED] = {"kicked", IOCPD_BY_OPERATOR},
    [IOCPD_BANNED] = {"banned", IOCPD_BY_OPERATOR},
    [IOCPD_DRAINED] = {"drained", IOCPD_BY_OPERATOR},
    [IOCPD_SHUTDOWN] = {"shutdown", IOCPD_BY_OPERATOR},
    [IOCPD_FIRST_BYTE_TIMEOUT] = {"first_byte_timeout", IOCPD_BY_ENGINE},
    [IOCPD_IDLE_TIMEOUT] = {"idle_timeout", IOCPD_BY_ENGINE},
    [IOCPD_SLOW_CONSUMER] = {"slow_consumer", IOCPD_BY_ENGINE},
    [IOCPD_OUT_OF_MEMORY] = {"out_of_memory", IOCPD_BY_ENGINE},
    [IOCPD_IO_ERROR] = {"io_error", IOCPD_BY_ENGINE},
    [IOCPD_FRAME_TOO_LARGE] = {"frame_too_large", IOCPD_BY_ENGINE},
    [IOCPD_SERVICE_CLOSED] = {"service_closed", IOCPD_BY_ENGINE},
    [IOCPD_SERVICE_ERROR] = {"service_error", IOCPD_BY_ENGINE},
    [IOCPD_PROXY_HEADER_INVALID] = {"proxy_header_invalid", IOCPD_BY_ENGINE},
    [IOCPD_PROXY_HEADER_TIMEOUT] = {"proxy_header_timeout", IOCPD_BY_ENGINE},
    [IOCPD_ADDRESS_LIMIT] = {"address_limit", IOCPD_BY_ENGINE},
    [IOCPD_ADDRESS_RATE] = {"address_rate", IOCPD_BY_ENGINE},
    [IOCPD_ACCEPT_RATE] = {"accept_rate", IOCPD_BY_ENGINE},
};

const char *iocpd_reason_name(int32_t reason) { return reason >= 0 && reason < IOCPD_REASON_COUNT ? reasons[reason].name : ""; }
int32_t iocpd_reason_by(int32_t reason) {
    return reason >= 0 && reason < IOCPD_REASON_COUNT ? (int32_t)reasons[reason].by : IOCPD_BY_ENGINE;
}

void iocpd_lower_priority(void) { platform_thread_lower_priority(); }

uint64_t iocpd_allocations(void) { return memory_blocks(); }

static int32_t problem_set(iocpd_problem *problem, enum iocpd_status status, int error, const char *step) {
    char words[128];
    platform_error_text(error, words, sizeof words);
    problem->status = (int32_t)status;
    problem->os_error = error;
    problem->listener = -1;
    if (error) snprintf(problem->text, sizeof problem->text, "%s: %s", step, words);
    else snprintf(problem->text, sizeof problem->text, "%s", step);
    return (int32_t)status;
}

int32_t iocpd_probe(int32_t backend, iocpd_problem *problem) {
    *problem = (iocpd_problem){.listener = -1};
    const struct port_driver *driver = driver_of(backend);
    if (!driver) return problem_set(problem, IOCPD_UNAVAILABLE, 0, "not on this operating system");
    const char *step = "";
    int error = driver->probe(&step);
    return error ? problem_set(problem, IOCPD_UNAVAILABLE, error, step) : IOCPD_OK;
}

/* ---- listeners ------------------------------------------------------------------------------------------------------ */

int engine_bind(struct listener *listener, const char **step) {
    socket_t handle;
    int error = platform_socket_listen(&handle, &listener->bound, listener->config.family, listener->config.scope_id,
                                       listener->config.dual_stack, listener->config.backlog, step);
    if (error) return error;
    struct platform_address bound;
    *step = "getsockname";
    error = platform_socket_local(handle, &bound);
    if (error) {
        platform_socket_close(handle);
        return error;
    }
    if (listener->bound.port == 0) listener->bound = bound; /* only at the start: later anybody may be reading it */
    listener->port.handle = handle;
    listener->port.family = listener->config.family == 4 ? AF_INET : AF_INET6;
    return 0;
}

void engine_accept(struct iocpd_engine *engine) {
    struct worker *worker = &engine->workers[0];
    engine->accept_retry_ns = 0;
    for (uint32_t i = 0; i < engine->listener_count; i++) {
        struct listener *listener = &engine->listeners[i];
        if (listener->port.handle == SOCKET_NONE || listener->port.accept.outstanding) continue;
        int error = worker->driver->accept(worker->port, &listener->port);
        u32_store(&listener->open, error == 0);
        if (!error) continue;
        u64_bump(&listener->accept_errors, 1);
        engine->accept_retry_ns = worker->now_ns + ACCEPT_RETRY_NS;
    }
}

int64_t engine_accept_turn(struct iocpd_engine *engine) {
    int64_t now = engine->workers[0].now_ns;
    if (engine->accept_retry_ns == 0) return -1;
    if (engine_phase(engine) >= IOCPD_PHASE_LISTENERS) engine->accept_retry_ns = 0; /* they are closed */
    else if (engine->accept_retry_ns <= now) engine_accept(engine);
    return engine->accept_retry_ns ? engine->accept_retry_ns - now : -1;
}

static struct worker *least_loaded(struct iocpd_engine *engine) {
    struct worker *best = &engine->workers[0];
    for (uint32_t i = 1; i < engine->worker_count; i++)
        if (u32_load(&engine->workers[i].load) < u32_load(&best->load)) best = &engine->workers[i];
    return best;
}

static void refuse(socket_t handle) {
    platform_socket_reset_on_close(handle);
    platform_socket_close(handle);
}

static uint64_t *refused_counter(struct listener *listener, enum gate_answer answer) {
    switch (answer) {
    case GATE_BANNED: return &listener->refused_banned;
    case GATE_ADDRESS_LIMIT: return &listener->refused_address_limit;
    case GATE_ADDRESS_RATE: return &listener->refused_address_rate;
    case GATE_RATE: return &listener->refused_rate;
    default: return &listener->refused_memory;
    }
}

enum gate_answer engine_enter(struct iocpd_engine *engine, struct listener *listener, const uint8_t *ip,
                              struct visitor **visitor) {
    enum gate_answer answer = gate_enter(&engine->gate, &engine->config, ip, engine->workers[0].now_ns, visitor);
    if (answer != GATE_ADMITTED) u64_add(refused_counter(listener, answer), 1);
    return answer;
}

void engine_entered(struct iocpd_engine *engine, const struct visitor *visitor) {
    if (gate_dominates(&engine->gate, visitor, u64_load(&engine->connections))) event_dominant(&engine->workers[0], visitor);
}

static void hand_on(struct iocpd_engine *engine, struct listener *listener, const struct port_event *event,
                    struct visitor *visitor, bool arriving) {
    struct worker *worker = least_loaded(engine);
    struct adoption adoption = {.message.kind = MESSAGE_ADOPT,
                                .handle = event->accepted,
                                .listener = listener->number,
                                .serial = u64_load(&engine->last_serial) + 1,
                                .visitor = visitor,
                                .arriving = arriving,
                                .peer = event->peer,
                                .local = event->local};
    struct adoption *message = NULL;
    if (worker->number != 0) {
        message = memory_new(sizeof *message);
        if (!message) {
            gate_leave(visitor);
            u64_add(&listener->refused_memory, 1);
            refuse(event->accepted);
            return;
        }
        *message = adoption;
    }
    u64_bump(&listener->accepted, 1);
    u64_store_release(&engine->last_serial, adoption.serial);
    u64_add(&engine->connections, 1);
    u64_add(&listener->connections, 1);
    u32_add(&worker->load, 1);
    if (visitor) engine_entered(engine, visitor);
    if (!message) worker_adopt(worker, &adoption);
    else if (!worker_post(worker, &message->message)) ASSERT(!"a worker ends only after the listeners");
}

/* A balancer: whose connection it passes on is not known before its PROXY header has come. */
static bool must_say_its_client(const struct listener *listener, const uint8_t *ip) {
    const iocpd_listener_config *config = &listener->config;
    for (uint32_t i = 0; i < config->proxy_from_count; i++)
        if (in_network(ip, config->proxy_from[i].ip, config->proxy_from[i].prefix)) return true;
    return false;
}

static void let_in(struct iocpd_engine *engine, struct listener *listener, const struct port_event *event) {
    struct visitor *visitor;
    if (u64_load(&engine->connections) >= u32_load(&engine->config.max_connections)) {
        u64_bump(&listener->refused_limit, 1);
        refuse(event->accepted);
        return;
    }
    if (listener->config.proxy_from_count && must_say_its_client(listener, event->peer.ip)) {
        if (!gate_bans(&engine->gate, event->peer.ip, engine->workers[0].now_ns)) {
            hand_on(engine, listener, event, NULL, true);
        } else {
            u64_add(&listener->refused_banned, 1);
            refuse(event->accepted);
        }
        return;
    }
    if (engine_enter(engine, listener, event->peer.ip, &visitor) == GATE_ADMITTED)
        hand_on(engine, listener, event, visitor, false);
    else refuse(event->accepted);
}

void engine_accepted(struct iocpd_engine *engine, const struct port_event *event) {
    struct listener *listener = (struct listener *)event->listener;
    if (event->accepted != SOCKET_NONE) {
        let_in(engine, listener, event);
    } else if (event->error == PORT_RESET) {
        u64_bump(&listener->refused_gone, 1);
    } else if (event->error != PORT_CANCELLED) {
        u64_bump(&listener->accept_errors, 1);
    }
    if (!event->final) return;
    if (engine_phase(engine) < IOCPD_PHASE_LISTENERS) { /* not asked for: go on listening */
        engine_accept(engine);
        return;
    }
    /* The last accept is reaped, so nobody uses the socket any more. */
    u32_store(&listener->open, 0);
    platform_socket_close(listener->port.handle);
    listener->port.handle = SOCKET_NONE;
}

void engine_connection_ended(struct iocpd_engine *engine, uint32_t listener, struct visitor *visitor) {
    gate_leave(visitor);
    u64_add(&engine->listeners[listener].connections, (uint64_t)-1);
    if (u64_add(&engine->connections, (uint64_t)-1) == 1 && engine_phase(engine) != IOCPD_PHASE_NONE)
        worker_wake(&engine->workers[0]);
}

void engine_wake_all(struct iocpd_engine *engine) {
    for (uint32_t i = 0; i < engine->worker_count; i++) worker_wake(&engine->workers[i]);
}

/* ---- start ---------------------------------------------------------------------------------------------------------- */

static int32_t choose_backend(iocpd_engine *engine, iocpd_problem *problem) {
    int32_t asked = engine->config.backend;
    char *why = engine->backend_reason;
    if (asked != IOCPD_AUTO) {
        if (iocpd_probe(asked, problem) != IOCPD_OK) return problem->status;
        engine->backend = asked;
        snprintf(why, sizeof engine->backend_reason, "asked for");
    } else {
#ifdef _WIN32
        engine->backend = IOCPD_IOCP;
        snprintf(why, sizeof engine->backend_reason, "Windows");
#else
        if (iocpd_probe(IOCPD_IO_URING, problem) == IOCPD_OK) {
            engine->backend = IOCPD_IO_URING;
            snprintf(why, sizeof engine->backend_reason, "a round trip through io_uring works");
        } else {
            engine->backend = IOCPD_EPOLL;
            snprintf(why, sizeof engine->backend_reason, "io_uring does not work here: %.120s", problem->text);
            if (iocpd_probe(IOCPD_EPOLL, problem) != IOCPD_OK) return problem->status;
        }
#endif
    }
    engine->driver = driver_of(engine->backend);
    return IOCPD_OK;
}

static int32_t bind_listeners(iocpd_engine *engine, iocpd_problem *problem) {
    for (uint32_t i = 0; i < engine->listener_count; i++) {
        struct listener *listener = &engine->listeners[i];
        const char *step;
        int error = engine_bind(listener, &step);
        if (error) {
            problem_set(problem, IOCPD_SYSTEM, error, step);
            problem->listener = (int32_t)i;
            return IOCPD_SYSTEM;
        }
    }
    return IOCPD_OK;
}

static int32_t start_worker(iocpd_engine *engine, struct worker *worker, iocpd_problem *problem) {
    char name[16];
    snprintf(name, sizeof name, "iocpd-%u", (unsigned)worker->number);
    int error = platform_thread_start(&worker->thread, worker_run, worker, name);
    if (error) return problem_set(problem, IOCPD_SYSTEM, error, "start of a worker thread");
    worker->thread_runs = true;
    while (!u32_exchange(&engine->start_answered, 0)) platform_event_wait(engine->start_event, 1000);
    if (engine->start_error) return problem_set(problem, IOCPD_SYSTEM, engine->start_error, engine->start_step);
    return IOCPD_OK;
}

/* Everything that was begun, in any state of a start. */
static void unwind(iocpd_engine *engine) {
    for (uint32_t i = 0; engine->listeners && i < engine->listener_count; i++)
        if (engine->listeners[i].port.handle != SOCKET_NONE) platform_socket_close(engine->listeners[i].port.handle);
    for (uint32_t i = 0; engine->workers && i < engine->worker_count; i++) {
        struct worker *worker = &engine->workers[i];
        if (worker->thread_runs) {
            if (worker->port) worker->driver->post(worker->port, POST_EXIT);
            platform_thread_join(worker->thread);
        }
        worker_destroy(worker);
    }
    python_destroy(engine);
    if (engine->drain.farewell) payload_drop(engine->drain.farewell);
    if (engine->has_events) {
        platform_event_close(engine->control_event);
        platform_event_close(engine->start_event);
        platform_event_close(engine->exit_event);
        platform_event_close(engine->wait_event);
        labels_lock(engine); /* frees the old ones */
        labels_unlock(engine);
        platform_mutex_destroy(&engine->control_mutex);
        platform_mutex_destroy(&engine->drain.mutex);
        platform_mutex_destroy(&engine->labels_mutex);
        platform_mutex_destroy(&engine->notes_mutex);
    }
    gate_destroy(&engine->gate);
    ring_destroy(&engine->dominances);
    ring_destroy(&engine->notes);
    ring_destroy(&engine->note_texts);
    memory_free(engine->workers);
    memory_free(engine->listeners);
    memory_free(engine);
    platform_sockets_end();
}

static int open_events(iocpd_engine *engine) {
    platform_event *events[] = {&engine->control_event, &engine->start_event, &engine->exit_event, &engine->wait_event};
    for (int i = 0; i < 4; i++) {
        int error = platform_event_open(events[i]);
        if (!error) continue;
        while (i-- > 0) platform_event_close(*events[i]);
        return error;
    }
    platform_mutex_init(&engine->control_mutex);
    platform_mutex_init(&engine->drain.mutex);
    platform_mutex_init(&engine->labels_mutex);
    platform_mutex_init(&engine->notes_mutex);
    engine->has_events = true;
    return 0;
}

static int32_t build(iocpd_engine *engine, const iocpd_config *config, iocpd_problem *problem) {
    engine->config = *config;
    engine->config.listeners = NULL; /* the caller's memory */
    engine->started_ns = platform_monotonic_ns();
    engine->wall_offset_us = platform_wall_us() - engine->started_ns / 1000;
    int32_t status = choose_backend(engine, problem);
    if (status != IOCPD_OK) return status;
    int error = open_events(engine);
    if (error) return problem_set(problem, IOCPD_SYSTEM, error, "creation of an event");

    engine->listeners = memory_new((config->listener_count + 1) * sizeof *engine->listeners);
    engine->workers = memory_new(config->workers * sizeof *engine->workers);
    bool rings = engine->listeners && engine->workers && !gate_init(&engine->gate, config) &&
                 !ring_init(&engine->dominances, sizeof(struct event_record), 1) &&
                 !ring_init(&engine->notes, sizeof(struct event_record), config->event_capacity) &&
                 !ring_init(&engine->note_texts, IOCPD_TEXT_BYTES, config->event_capacity);
    if (!rings) return problem_set(problem, IOCPD_NO_MEMORY, 0, "no memory");
    engine->listener_count = config->listener_count;
    for (uint32_t i = 0; i < config->listener_count; i++) {
        struct listener *listener = &engine->listeners[i];
        listener->config = config->listeners[i];
        service_choose(listener);
        listener->number = i;
        listener->port.handle = SOCKET_NONE;
        memcpy(listener->bound.ip, listener->config.ip, 16);
        listener->bound.port = listener->config.port;
    }
    engine->worker_count = config->workers;
    for (uint32_t i = 0; i < config->workers; i++)
        if (worker_init(&engine->workers[i], engine, i))
            return problem_set(problem, IOCPD_NO_MEMORY, 0, "no memory for a worker");
    error = python_init(engine);
    if (error) return problem_set(problem, IOCPD_NO_MEMORY, error, "the inbox of a service thread");
    status = bind_listeners(engine, problem);
    /* Worker 0 last: it accepts at once and hands on to the others. */
    for (uint32_t i = config->workers; status == IOCPD_OK && i-- > 0;)
        status = start_worker(engine, &engine->workers[i], problem);
    return status;
}

int32_t iocpd_start(const iocpd_config *config, iocpd_engine **out, iocpd_problem *problem) {
    *problem = (iocpd_problem){.listener = -1};
    int error = platform_sockets_begin();
    if (error) return problem_set(problem, IOCPD_SYSTEM, error, "WSAStartup");
    iocpd_engine *engine = memory_new(sizeof *engine);
    if (!engine) {
        platform_sockets_end();
        return problem_set(problem, IOCPD_NO_MEMORY, 0, "no memory");
    }
    int32_t status = build(engine, config, problem);
    if (status == IOCPD_OK) *out = engine;
    else unwind(engine);
    return status;
}

void iocpd_configure(iocpd_engine *engine, const iocpd_limits *limits) {
    iocpd_config *config = &engine->config;
    u32_store(&config->max_connections, limits->max_connections);
    u32_store(&config->first_byte_ms, limits->first_byte_ms);
    u32_store(&config->idle_ms, limits->idle_ms);
    u32_store(&config->send_soft_bytes, limits->send_soft_bytes);
    u32_store(&config->send_soft_ms, limits->send_soft_ms);
    u32_store(&config->send_hard_bytes, limits->send_hard_bytes);
    u32_store(&config->max_per_address, limits->max_per_address);
    u32_store(&config->accepts_per_s, limits->accepts_per_s);
    u32_store(&config->accepts_per_s_per_address, limits->accepts_per_s_per_address);
    u32_add(&engine->limits_version, 1);
    engine_wake_all(engine);
}

/* ---- stop ----------------------------------------------------------------------------------------------------------- */

/* One caller at a time asks worker 0 and waits for its answer, which takes it a turn. Nothing is allocated on this way. */
static int32_t control_ask(iocpd_engine *engine) {
    struct control *control = &engine->control;
    control->message.kind = MESSAGE_CONTROL;
    u32_store(&control->answered, 0);
    if (!worker_post(&engine->workers[0], &control->message)) return IOCPD_STOPPED;
    while (!u32_load_acquire(&control->answered)) platform_event_wait(engine->control_event, 1000);
    return control->status;
}

int32_t iocpd_drain(iocpd_engine *engine, const iocpd_drain_config *config) {
    struct payload *farewell = NULL;
    if (config->farewell_bytes) {
        farewell = payload_new(config->farewell_bytes);
        if (farewell) memcpy(farewell->data, config->farewell, config->farewell_bytes);
        else if (!config->stop) return IOCPD_NO_MEMORY; /* a stop goes on without words */
    }
    platform_mutex_lock(&engine->control_mutex);
    int32_t status = engine->joined ? IOCPD_STOPPED : IOCPD_OK;
    if (status == IOCPD_OK) {
        engine->control.kind = CONTROL_DRAIN;
        engine->control.drain = *config;
        engine->control.farewell = farewell;
        status = control_ask(engine);
        farewell = engine->control.farewell; /* ours, if it was not taken; otherwise that of the drain before */
    }
    platform_mutex_unlock(&engine->control_mutex);
    if (farewell) payload_drop(farewell);
    return status;
}

int32_t iocpd_drain_cancel(iocpd_engine *engine, iocpd_problem *problem) {
    *problem = (iocpd_problem){.listener = -1};
    int32_t status;
    do {
        platform_mutex_lock(&engine->control_mutex);
        engine->control.kind = CONTROL_CANCEL;
        engine->control.problem = problem;
        status = engine->joined ? IOCPD_STOPPED : control_ask(engine);
        platform_mutex_unlock(&engine->control_mutex);
        if (status == IOCPD_BUSY) platform_thread_yield(); /* the accepts are being reaped */
    } while (status == IOCPD_BUSY);
    return status;
}

static uint64_t leaving(const iocpd_engine *engine) {
    uint64_t count = 0;
    for (uint32_t i = 0; i < engine->worker_count; i++) {
        const struct table *table = &engine->workers[i].table;
        for (uint32_t slot = 0, high = u32_load_acquire(&table->high); slot < high; slot++)
            count += u32_load(&table_at(table, slot)->state) > IOCPD_OPEN;
    }
    return count;
}

void iocpd_drain_read(iocpd_engine *engine, iocpd_drain_progress *progress) {
    const struct drain *drain = &engine->drain;
    memset(progress, 0, sizeof *progress);
    progress->phase = (int32_t)engine_phase(engine);
    progress->stop = (int32_t)u32_load(&drain->stop);
    progress->initial = u64_load(&drain->initial);
    progress->remaining = u64_load(&engine->connections);
    progress->cancelled = u64_load(&drain->cancelled);
    progress->rate_per_s = u32_load(&drain->rate_per_s);
    progress->exits_posted = u32_load(&engine->exits_posted);
    progress->exits_taken = u32_load(&engine->exits_taken);
    if (progress->phase == IOCPD_PHASE_NONE) return;
    progress->evicting = leaving(engine);
    progress->started_at_us = engine_wall_us(engine, (int64_t)u64_load(&drain->started_ns));
    progress->deadline_at_us = engine_wall_us(engine, (int64_t)u64_load(&drain->deadline_ns));
    int64_t ended = (int64_t)u64_load(&drain->ended_ns);
    if (ended) progress->ended_at_us = engine_wall_us(engine, ended);
}

static void post_exits(iocpd_engine *engine) {
    for (uint32_t i = 0; i < engine->worker_count; i++) {
        struct worker *worker = &engine->workers[i];
        u32_add(&engine->exits_posted, 1);
        worker->driver->post(worker->port, POST_EXIT);
    }
    for (uint32_t i = 0; i < engine->worker_count; i++) {
        platform_thread_join(engine->workers[i].thread);
        engine->workers[i].thread_runs = false;
    }
    for (uint32_t i = 0; i < engine->worker_count; i++) worker_close_inbox(&engine->workers[i]);
    ASSERT(u32_load(&engine->exits_taken) == engine->worker_count);
    engine->joined = true;
    u32_store_release(&engine->drain.phase, IOCPD_PHASE_STOPPED);
    for (uint32_t i = 0; i < engine->service_thread_count; i++) iocpd_service_wake(engine, i);
}

int32_t iocpd_join(iocpd_engine *engine, uint32_t timeout_ms) {
    int64_t until = platform_monotonic_ns() + (int64_t)timeout_ms * 1000000;
    while (engine_phase(engine) < IOCPD_PHASE_EXITING) {
        int64_t left_ms = (until - platform_monotonic_ns() + 999999) / 1000000;
        if (left_ms <= 0) return IOCPD_TIMEOUT;
        platform_event_wait(engine->exit_event, (uint32_t)left_ms);
    }
    platform_event_set(engine->exit_event); /* it woke one of those who wait: pass it on */
    platform_mutex_lock(&engine->control_mutex);
    if (!engine->joined) post_exits(engine);
    platform_mutex_unlock(&engine->control_mutex);
    return IOCPD_OK;
}

void iocpd_free(iocpd_engine *engine) {
    iocpd_ticket *done[64];
    ASSERT(engine->joined);
    while (iocpd_wait(engine, done, 64, 0) > 0) {} /* lets go of the engine's hold on each */
    unwind(engine);
}
