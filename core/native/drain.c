/* drain.c: see drain.h. */
#include "drain.h"

#include "internal.h"

enum { EVICT_SLICE = 32 }; /* connections that one turn drains or cancels */

static void phase_set(struct iocpd_engine *engine, enum iocpd_phase phase) {
    u32_store_release(&engine->drain.phase, phase);
    event_phase(&engine->workers[0], phase);
    engine_wake_all(engine);
}

static bool listeners_closed(const struct iocpd_engine *engine) {
    for (uint32_t i = 0; i < engine->listener_count; i++)
        if (engine->listeners[i].port.handle != SOCKET_NONE) return false;
    return true;
}

static void listeners_close(struct worker *worker) {
    struct iocpd_engine *engine = worker->engine;
    for (uint32_t i = 0; i < engine->listener_count; i++) {
        struct listener *listener = &engine->listeners[i];
        u32_store(&listener->open, 0);
        if (listener->port.accept.outstanding) worker->driver->accept_cancel(worker->port, &listener->port);
        else if (listener->port.handle != SOCKET_NONE) {
            platform_socket_close(listener->port.handle);
            listener->port.handle = SOCKET_NONE;
        }
    }
}

/* ---- control: asked by a caller, answered here by worker 0 ---------------------------------------------------------------- */

/* The caller drops what it gets back: the farewell of an earlier drain. */
static void farewell_swap(struct drain *drain, struct control *control) {
    struct payload *before = drain->farewell;
    platform_mutex_lock(&drain->mutex);
    drain->farewell = control->farewell;
    platform_mutex_unlock(&drain->mutex);
    control->farewell = before;
}

static struct payload *farewell_hold(struct drain *drain) {
    platform_mutex_lock(&drain->mutex);
    struct payload *farewell = drain->farewell;
    if (farewell) payload_hold(farewell);
    platform_mutex_unlock(&drain->mutex);
    return farewell;
}

static int32_t drain_begin(struct worker *worker, struct control *control) {
    struct iocpd_engine *engine = worker->engine;
    struct drain *drain = &engine->drain;
    const iocpd_drain_config *asked = &control->drain;
    int64_t now = worker->now_ns, deadline = now + (int64_t)asked->deadline_ms * 1000000;
    bool under_way = drain->phase != IOCPD_PHASE_NONE;
    if (under_way && !asked->stop) return IOCPD_CONFLICT;
    if (drain->stop) { /* the second stop */
        if (deadline < (int64_t)drain->deadline_ns) u64_store(&drain->deadline_ns, (uint64_t)deadline);
        engine_wake_all(engine);
        return IOCPD_OK;
    }
    drain->grace_ns = (int64_t)asked->grace_ms * 1000000;
    u64_store(&drain->deadline_ns, (uint64_t)deadline);
    u32_store(&drain->rate_per_s, asked->rate_per_s);
    u32_store(&drain->stop, asked->stop ? 1 : 0);
    if (under_way) { /* a stop takes a drain over where it is; only the waiting is cut to what the stop asks for */
        int64_t lb_until = now + (int64_t)asked->lb_delay_ms * 1000000, grace_until = now + drain->grace_ns;
        if (lb_until < drain->lb_until_ns) drain->lb_until_ns = lb_until;
        if (grace_until < drain->grace_until_ns) drain->grace_until_ns = grace_until;
        if (control->farewell) farewell_swap(drain, control); /* else what the drain says */
        engine_wake_all(engine);
        return IOCPD_OK;
    }
    u64_store(&drain->initial, u64_load(&engine->connections));
    u64_store(&drain->cancelled, 0);
    u64_store(&drain->started_ns, (uint64_t)now);
    u64_store(&drain->ended_ns, 0);
    drain->lb_until_ns = now + (int64_t)asked->lb_delay_ms * 1000000;
    farewell_swap(drain, control);
    phase_set(engine, IOCPD_PHASE_LB_DELAY);
    return IOCPD_OK;
}

/* Opens again what is closed; all or nothing. */
static int32_t listeners_reopen(struct worker *worker, iocpd_problem *problem) {
    struct iocpd_engine *engine = worker->engine;
    for (uint32_t i = 0; i < engine->listener_count; i++) {
        struct listener *listener = &engine->listeners[i];
        const char *step;
        int error = listener->port.handle == SOCKET_NONE ? listener_bind(listener, &step) : 0;
        if (!error) continue;
        problem->os_error = error;
        platform_error_text(error, problem->text, sizeof problem->text);
        listeners_close(worker);
        return problem->status = IOCPD_SYSTEM;
    }
    listeners_accept(engine);
    return IOCPD_OK;
}

static int32_t drain_end(struct worker *worker, struct control *control) {
    struct drain *drain = &worker->engine->drain;
    if (drain->phase == IOCPD_PHASE_NONE || drain->stop) return IOCPD_CONFLICT;
    if (drain->phase == IOCPD_PHASE_LISTENERS && !listeners_closed(worker->engine)) return IOCPD_BUSY; /* asked again soon */
    int32_t status = listeners_reopen(worker, control->problem);
    if (status == IOCPD_OK) phase_set(worker->engine, IOCPD_PHASE_NONE);
    return status;
}

void drain_control(struct worker *worker) {
    struct control *control = &worker->engine->control;
    control->status = control->kind == CONTROL_DRAIN ? drain_begin(worker, control) : drain_end(worker, control);
    /* Answered: from here on `control` is the caller's again. */
    u32_store_release(&control->answered, 1);
    platform_event_set(worker->engine->control_event);
}

/* ---- worker 0: from phase to phase ----------------------------------------------------------------------------------------- */

static void lead(struct worker *worker) {
    struct iocpd_engine *engine = worker->engine;
    struct drain *drain = &engine->drain;
    int64_t now = worker->now_ns;
    bool late = now >= (int64_t)drain->deadline_ns;
    if (drain->phase == IOCPD_PHASE_LB_DELAY && (now >= drain->lb_until_ns || late)) {
        phase_set(engine, IOCPD_PHASE_LISTENERS);
        listeners_close(worker);
    }
    if (drain->phase == IOCPD_PHASE_LISTENERS && listeners_closed(engine)) {
        drain->grace_until_ns = now + drain->grace_ns;
        phase_set(engine, IOCPD_PHASE_GRACE);
    }
    if (drain->phase < IOCPD_PHASE_GRACE || drain->phase >= IOCPD_PHASE_EXITING) return;
    bool empty = u64_load(&engine->connections) == 0;
    if (drain->phase == IOCPD_PHASE_GRACE && (now >= drain->grace_until_ns || late || empty)) {
        u64_store(&drain->evict_started_ns, (uint64_t)now);
        phase_set(engine, IOCPD_PHASE_EVICT);
    }
    if (drain->phase == IOCPD_PHASE_EVICT && late && !empty) phase_set(engine, IOCPD_PHASE_HARD);
    if ((drain->phase == IOCPD_PHASE_EVICT || drain->phase == IOCPD_PHASE_HARD) && empty) {
        u64_store(&drain->ended_ns, (uint64_t)now);
        phase_set(engine, IOCPD_PHASE_DRAINED);
    }
    if (drain->phase == IOCPD_PHASE_DRAINED && drain->stop) {
        phase_set(engine, IOCPD_PHASE_EXITING);
        platform_event_set(engine->exit_event);
    }
}

/* When worker 0 has to look again; < 0: when it is woken. */
static int64_t lead_next(const struct worker *worker) {
    const struct drain *drain = &worker->engine->drain;
    int64_t at;
    switch (drain->phase) {
    case IOCPD_PHASE_LB_DELAY: at = drain->lb_until_ns; break;
    case IOCPD_PHASE_GRACE: at = drain->grace_until_ns; break;
    case IOCPD_PHASE_EVICT: at = (int64_t)drain->deadline_ns; break;
    default: return -1;
    }
    if ((int64_t)drain->deadline_ns < at) at = (int64_t)drain->deadline_ns;
    return at > worker->now_ns ? at - worker->now_ns : 0;
}

/* ---- every worker: its own connections --------------------------------------------------------------------------------------- */

static uint64_t random_next(struct worker *worker) { /* xorshift: jitter needs no more */
    worker->random ^= worker->random << 13;
    worker->random ^= worker->random >> 7;
    return worker->random ^= worker->random << 17;
}

/* The next connection of this worker that the phase still has to do something with; goes round the table. */
static struct connection *evict_candidate(struct worker *worker, bool hard) {
    /* When all are on their way out, the table is not searched in each turn. */
    if (hard ? worker->table.used == worker->closing_count : worker->open_count == 0) return NULL;
    for (uint32_t looked = 0; looked < worker->table.high; looked++) {
        if (worker->evict_slot >= worker->table.high) worker->evict_slot = 0;
        struct connection *connection = table_at(&worker->table, worker->evict_slot++);
        if (connection->state == IOCPD_OPEN || connection->state == IOCPD_ARRIVING ||
            (hard && connection->state == IOCPD_DRAINING))
            return connection;
    }
    return NULL;
}

static int64_t evict_some(struct worker *worker, struct payload *farewell) {
    struct drain *drain = &worker->engine->drain;
    uint32_t rate = u32_load(&drain->rate_per_s);
    int64_t interval_ns = rate ? (int64_t)worker->engine->worker_count * 1000000000 / rate : 0, now = worker->now_ns;
    int64_t deadline = (int64_t)u64_load(&drain->deadline_ns), begun = (int64_t)u64_load(&drain->evict_started_ns);
    if (worker->evict_next_ns < begun) worker->evict_next_ns = begun;
    for (int i = 0; i < EVICT_SLICE; i++) {
        if (rate && worker->evict_next_ns > now) return worker->evict_next_ns - now;
        struct connection *connection = evict_candidate(worker, false);
        if (!connection) return -1;
        connection_drain(connection, u32_load(&drain->stop) ? IOCPD_SHUTDOWN : IOCPD_DRAINED, farewell, deadline);
        /* Half to one and a half times the interval: clients that come back don't come back in step. */
        if (rate) worker->evict_next_ns += interval_ns / 2 + (int64_t)(random_next(worker) % (uint64_t)(interval_ns + 1));
    }
    return 0;
}

static int64_t evict(struct worker *worker) {
    struct payload *farewell = farewell_hold(&worker->engine->drain);
    int64_t next_ns = evict_some(worker, farewell);
    if (farewell) payload_drop(farewell);
    return next_ns;
}

static int64_t cancel_rest(struct worker *worker) {
    struct drain *drain = &worker->engine->drain;
    for (int i = 0; i < EVICT_SLICE; i++) {
        struct connection *connection = evict_candidate(worker, true);
        if (!connection) return -1;
        connection_terminate(connection, u32_load(&drain->stop) ? IOCPD_SHUTDOWN : IOCPD_DRAINED, true);
        u64_add(&drain->cancelled, 1);
    }
    return 0;
}

int64_t drain_turn(struct worker *worker) {
    enum iocpd_phase phase = engine_phase(worker->engine);
    if (phase == IOCPD_PHASE_NONE) return -1;
    if (worker->number == 0) lead(worker);
    int64_t own = -1;
    phase = engine_phase(worker->engine);
    if (phase == IOCPD_PHASE_EVICT) own = evict(worker);
    if (phase == IOCPD_PHASE_HARD) own = cancel_rest(worker);
    if (worker->number != 0) return own;
    int64_t next = lead_next(worker);
    return own >= 0 && (next < 0 || own < next) ? own : next;
}
