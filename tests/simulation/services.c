/* services.c: threads of services in Python, without Python: they send each message back, and now and then do something else. */
#include "world.h"

enum { SESSIONS_MAX = 1024, OPS_MAX = 8192, DATA_MAX = 1 << 20 };

struct service_state {
    uint32_t number, listener;
    uint64_t tokens[SESSIONS_MAX];
    uint64_t ops[OPS_MAX];
    uint32_t sizes[OPS_MAX], count, bytes;
    uint32_t lengths[OPS_MAX], length_count;
    uint8_t data[DATA_MAX];
};

static struct service_state *states[LISTENERS_MAX_SIM * 2];
static platform_thread threads[LISTENERS_MAX_SIM * 2];
uint32_t services_running;

static void op(struct service_state *state, uint64_t kind, uint64_t amount, uint32_t session, const void *data, uint32_t bytes) {
    if (state->count == OPS_MAX || state->bytes + bytes > DATA_MAX) sim_fail("a service has too much to say");
    state->ops[state->count] = kind << 60 | amount << 32 | session;
    state->sizes[state->count++] = bytes;
    memcpy(state->data + state->bytes, data, bytes);
    state->bytes += bytes;
}

static void say_to_all(struct service_state *state, uint32_t session) {
    uint32_t number;
    uint8_t message[4096];
    if (!say(SAID_BYTES_MIN, &number)) return;
    said[number].kind = SAID_BROADCAST;
    said[number].listener = (int32_t)state->listener;
    uint32_t bytes = say_message(number, message);
    if (one_in(DICE_OPERATORS, 2)) op(state, IOCPD_OP_TO, 0, session, "g\1\0a", 4);
    op(state, IOCPD_OP_BROADCAST, 0, 0, message, bytes);
}

static void act(struct service_state *state, uint32_t session) {
    uint64_t token = state->tokens[session % SESSIONS_MAX];
    switch (roll(DICE_OPERATORS, 200)) {
    case 0:
        oracle_cause(token, CAUSE_SERVICE_CLOSE);
        op(state, IOCPD_OP_CLOSE, 0, session, "", 0);
        break;
    case 1:
        oracle_cause(token, CAUSE_KICK);
        op(state, one_in(DICE_OPERATORS, 2) ? IOCPD_OP_KICK : IOCPD_OP_RESET, 0, session, "enough", 6);
        break;
    case 2:
        oracle_cause(token, CAUSE_SERVICE_FAIL);
        op(state, IOCPD_OP_FAIL, 0, session, "", 0);
        break;
    case 3:
    case 4: say_to_all(state, session); break;
    default: break;
    }
}

/* Sends back `count` messages of a record as they stand in the batch, in one operation. */
static void echo(struct service_state *state, uint32_t session, const iocpd_service_batch *batch, uint32_t first, uint32_t count,
                 uint32_t at, uint32_t bytes, bool lines) {
    if (!lines) {
        if (state->length_count + count > OPS_MAX) sim_fail("a service has too much to say");
        memcpy(state->lengths + state->length_count, batch->lengths + first, count * sizeof *batch->lengths);
        state->length_count += count;
    }
    op(state, IOCPD_OP_SEND, count, session, batch->data + at, bytes);
}

/* Of the message that stands at `at`, with the LF behind a line. */
static uint32_t message_bytes(const iocpd_service_batch *batch, uint32_t message, uint32_t at, bool lines) {
    if (!lines) return batch->lengths[message];
    const uint8_t *lf = memchr(batch->data + at, '\n', batch->bytes - at);
    if (!lf) sim_fail("a line has no end");
    return (uint32_t)(lf + 1 - (batch->data + at));
}

static void open(struct service_state *state, uint32_t session, const iocpd_service_open *who) {
    const struct witness *witness = witness_of(who->token);
    state->tokens[session % SESSIONS_MAX] = who->token;
    /* Without one it is just being taken over. */
    if (witness) arrival_told(witness, &(struct told){who->peer_ip, who->via_ip, who->peer_port, who->via_port}, TOLD_OPEN);
}

static void handle(struct service_state *state, const iocpd_service_batch *batch, bool concurrent, bool lines) {
    uint32_t message = 0, at = 0;
    state->count = state->bytes = state->length_count = 0;
    for (uint32_t i = 0; i < batch->record_count; i++) {
        const iocpd_service_record *record = &batch->records[i];
        switch (record->kind) {
        case IOCPD_SERVICE_OPEN: open(state, record->session, &batch->opens[record->count]); break;
        case IOCPD_SERVICE_MESSAGES: {
            uint32_t run = one_in(DICE_OPERATORS, 2) ? record->count : 1, end = message + record->count, began = at;
            while (message < end) {
                uint32_t first = message, from = at;
                for (; message < end && message < first + run; message++) at += message_bytes(batch, message, at, lines);
                echo(state, record->session, batch, first, message - first, from, at - from, lines);
            }
            if (at - began != record->data_bytes) sim_fail("a record is not what it says");
            act(state, record->session);
            if (concurrent) op(state, IOCPD_OP_HANDLED, record->bytes, record->session, "", 0);
            break;
        }
        case IOCPD_SERVICE_END:
            if (concurrent) op(state, IOCPD_OP_ANSWERED, 0, record->session, "", 0);
            break;
        default:
            if (concurrent) op(state, IOCPD_OP_FORGET, 0, record->session, "", 0);
        }
    }
    if (at != batch->bytes || message != batch->message_count) sim_fail("a batch is not what it says");
}

static void serve(void *argument) {
    struct service_state *state = argument;
    const iocpd_listener_config *listener = &world.listeners[state->listener];
    iocpd_service_batch batch;
    while (iocpd_service_take(world.engine, state->number, (uint32_t)roll(DICE_OPERATORS, 20), &batch) == IOCPD_OK) {
        if (!world.calm && one_in(DICE_OPERATORS, 4)) thread_sleep((int64_t)roll(DICE_OPERATORS, 20000000));
        handle(state, &batch, listener->concurrent, listener->framing.kind == IOCPD_LINES);
        if (state->count)
            iocpd_service_reply(world.engine, state->number, state->ops, state->sizes, state->count, state->lengths, state->data);
    }
    services_running--;
}

void services_begin(void) {
    services_running = 0;
    for (uint32_t i = 0; i < world.config.listener_count; i++) {
        for (uint32_t j = 0; j < world.listeners[i].threads; j++) {
            struct service_state *state = states[services_running];
            if (!state) state = states[services_running] = malloc(sizeof *state);
            if (!state) sim_fail("the simulation itself has no memory");
            state->number = services_running;
            state->listener = i;
            platform_thread_start(&threads[services_running++], serve, state, "service");
        }
    }
}
