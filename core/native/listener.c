/* listener.c: see listener.h. */
#include "listener.h"

#include "internal.h"

static const int64_t ACCEPT_RETRY_NS = 100 * 1000 * 1000; /* until there may be handles or memory again */

int listener_bind(struct listener *listener, const char **step) {
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

void listeners_accept(struct iocpd_engine *engine) {
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

int64_t listeners_turn(struct iocpd_engine *engine) {
    int64_t now = engine->workers[0].now_ns;
    if (engine->accept_retry_ns == 0) return -1;
    if (engine_phase(engine) >= IOCPD_PHASE_LISTENERS) engine->accept_retry_ns = 0; /* they are closed */
    else if (engine->accept_retry_ns <= now) listeners_accept(engine);
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

enum gate_answer listener_enter(struct iocpd_engine *engine, struct listener *listener, const uint8_t *ip,
                                struct visitor **visitor) {
    enum gate_answer answer = gate_enter(&engine->gate, &engine->config, ip, engine->workers[0].now_ns, visitor);
    if (answer != GATE_ADMITTED) u64_add(refused_counter(listener, answer), 1);
    return answer;
}

void listener_entered(struct iocpd_engine *engine, const struct visitor *visitor) {
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
    if (visitor) listener_entered(engine, visitor);
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
    if (listener_enter(engine, listener, event->peer.ip, &visitor) == GATE_ADMITTED)
        hand_on(engine, listener, event, visitor, false);
    else refuse(event->accepted);
}

void listener_accepted(struct iocpd_engine *engine, const struct port_event *event) {
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
        listeners_accept(engine);
        return;
    }
    /* The last accept is reaped, so nobody uses the socket any more. */
    u32_store(&listener->open, 0);
    platform_socket_close(listener->port.handle);
    listener->port.handle = SOCKET_NONE;
}

void listener_left(struct iocpd_engine *engine, uint32_t listener, struct visitor *visitor) {
    gate_leave(visitor);
    u64_add(&engine->listeners[listener].connections, (uint64_t)-1);
    if (u64_add(&engine->connections, (uint64_t)-1) == 1 && engine_phase(engine) != IOCPD_PHASE_NONE)
        worker_wake(&engine->workers[0]);
}
