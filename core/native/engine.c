/* engine.c: the life of the engine: start, configure, drain, join, free. */
#include "engine.h"

#include "internal.h"

#include <stdio.h>

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

/* ---- start ---------------------------------------------------------------------------------------------------------- */

void engine_wake_all(struct iocpd_engine *engine) {
    for (uint32_t i = 0; i < engine->worker_count; i++) worker_wake(&engine->workers[i]);
}

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
        int error = listener_bind(listener, &step);
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
