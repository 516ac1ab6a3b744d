/* clients.c: the other ends of the connections. Each has a manner that the seed gives it, and acts when its time has come. */
#include "world.h"

enum { CLIENTS_MAX = 64, ADDRESSES = 6 };

struct client {
    struct sim_stream *stream; /* NULL: not connected (yet, or any more) */
    struct witness *witness;
    uint32_t number;
    uint32_t connects_left;
    int64_t next_ns;
    int64_t pace_ns;
    uint64_t budget; /* bytes that it still writes */
    uint32_t reads;  /* at most so many bytes at once; 0: never */
    enum { LEAVE_NOT, LEAVE_END, LEAVE_RESET, LEAVE_AT_ONCE } leave;
    bool ended, answers_end; /* it closes when the server has */
};

static struct client clients[CLIENTS_MAX];

struct platform_address client_address(uint32_t which) {
    struct platform_address address = {.ip = {[10] = 0xff, [11] = 0xff, [12] = 10, [13] = 0, [14] = (uint8_t)(which / 2 % 2)}};
    address.ip[15] = (uint8_t)(1 + which % ADDRESSES);
    return address;
}

static int64_t soon(const struct client *client) {
    return world.now_ns + 1 + (int64_t)roll(DICE_CLIENTS, (uint64_t)(world.calm ? 200000 : client->pace_ns));
}

void clients_begin(void) {
    uint32_t count = world.clients < CLIENTS_MAX ? world.clients : CLIENTS_MAX;
    world.clients = count;
    memset(clients, 0, count * sizeof *clients);
    for (uint32_t i = 0; i < count; i++) {
        struct client *client = &clients[i];
        client->number = i;
        client->connects_left = (uint32_t)roll_between(DICE_CLIENTS, 1, 4);
        client->pace_ns = one_in(DICE_CLIENTS, 3) ? 10000000 : 1000000;
        client->next_ns = soon(client);
    }
}

static void client_connect(struct client *client) {
    client->connects_left--;
    client->next_ns = soon(client);
    uint32_t listener = (uint32_t)roll(DICE_CLIENTS, world.config.listener_count);
    struct platform_address peer = client_address((uint32_t)roll(DICE_CLIENTS, ADDRESSES));
    peer.port = (uint16_t)(20000 + client->number);
    struct sim_stream *stream = sim_connect(listener, &peer, client);
    if (!stream) return;
    const iocpd_listener_config *config = &world.listeners[listener];
    bool relay = config->service == IOCPD_RELAY || config->service == IOCPD_RELAY_GROUP;
    stream->whole_messages = relay && config->framing.kind == IOCPD_RAW;
    stream->message_bytes = config->framing.max_bytes;
    client->stream = stream;
    client->witness = &witnesses[stream->number];
    client->witness->writer.number = client->witness->reader.number = stream->number;
    client->witness->writer.listener = client->witness->reader.listener = config;
    client->budget = one_in(DICE_CLIENTS, 8) ? 0 : roll_between(DICE_CLIENTS, 1, one_in(DICE_CLIENTS, 3) ? 60000 : 3000);
    client->reads = one_in(DICE_CLIENTS, 6) ? 0 : (uint32_t)roll_between(DICE_CLIENTS, 1, one_in(DICE_CLIENTS, 3) ? 200 : 60000);
    client->leave = one_in(DICE_CLIENTS, 3) ? LEAVE_NOT : roll_between(DICE_CLIENTS, LEAVE_END, LEAVE_AT_ONCE);
    client->ended = false;
    client->answers_end = !one_in(DICE_CLIENTS, 3);
    struct header *header = &client->witness->header;
    header_choose(header, stream);
    stream->header_bytes = header->bytes;
    if (header->wrong) client->budget = 0;
    sim_trace("client %u connects to listener %u as connection %u, writes %llu bytes, reads %u at once, leave %d", client->number,
              listener, stream->number, (unsigned long long)client->budget, client->reads, client->leave);
}

static void client_gone(struct client *client) {
    client->stream = NULL;
    client->witness = NULL;
}

static void client_writes(struct client *client) {
    struct writer *writer = &client->witness->writer;
    struct sim_stream *stream = client->stream;
    for (uint32_t pieces = 1 + (uint32_t)roll(DICE_CLIENTS, 6); pieces > 0 && client->budget > 0; pieces--) {
        uint32_t bytes;
        const uint8_t *data = writer_next(writer, &bytes);
        if (stream->whole_messages && bytes > SIM_UNREAD_BYTES - stream->unread_bytes) return;
        if (!stream->whole_messages && one_in(DICE_CLIENTS, 4)) bytes = 1 + (uint32_t)roll(DICE_CLIENTS, bytes);
        bytes = sim_client_write(stream, data, bytes);
        if (writer->too_large) client->witness->causes |= CAUSE_TOO_LARGE;
        writer_wrote(writer, bytes);
        client->budget -= bytes < client->budget ? bytes : client->budget;
        if (bytes) sim_trace("client %u writes %u bytes to connection %u", client->number, bytes, stream->number);
        else return;
    }
}

static void client_ends(struct client *client) {
    if (client->ended) return;
    client->ended = true;
    client->witness->causes |= CAUSE_CLIENT_END;
    sim_trace("client %u ends connection %u", client->number, client->stream->number);
    sim_client_end(client->stream);
}

static void client_resets(struct client *client) {
    client->witness->causes |= CAUSE_CLIENT_RESET;
    sim_trace("client %u resets connection %u", client->number, client->stream->number);
    sim_client_reset(client->stream);
    client_gone(client);
}

/* It still has something to write of its header: true when it has done what it wanted to for now. */
static bool client_introduces(struct client *client) {
    struct header *header = &client->witness->header;
    uint32_t most = world.calm ? header->bytes : header->stops_at, bytes = header->pieces;
    if (header->written == header->bytes || client->ended) return false;
    bool leaves = world.calm ? header->stops_at < header->bytes : client->leave == LEAVE_AT_ONCE;
    if (leaves && one_in(DICE_PROXY, world.calm ? 2 : 20)) {
        if (one_in(DICE_PROXY, 2)) client_ends(client);
        else client_resets(client);
        return true;
    }
    if (world.now_ns < header->begin_ns && !world.calm) return true;
    if (bytes > most - header->written) bytes = most - header->written;
    bytes = sim_client_write(client->stream, header->data + header->written, bytes);
    header->written += bytes;
    if (bytes)
        sim_trace("client %u writes %u bytes of its header to connection %u", client->number, bytes, client->stream->number);
    if (header->written < header->bytes) return true;
    if (header->leaves && one_in(DICE_PROXY, 2)) client_ends(client);
    else if (header->leaves) client_resets(client);
    return header->leaves;
}

static void client_acts(struct client *client) {
    struct sim_stream *stream = client->stream;
    client->next_ns = soon(client);
    if (!stream) {
        if (client->connects_left && !world.calm) client_connect(client);
        else client->next_ns = INT64_MAX;
        return;
    }
    if (stream->server_reset || stream->broken) {
        client_gone(client);
        return;
    }
    if (client_introduces(client)) return;
    uint32_t reads = world.calm ? UINT32_MAX : client->reads;
    if (reads) sim_client_read(stream, reads);
    if (stream->server_ended && stream->in_window == 0 && (client->answers_end || world.calm)) {
        client_ends(client);
        if (stream->state == STREAM_CLOSED) client_gone(client);
        return;
    }
    bool writes = client->budget > 0 && !client->ended && !world.calm;
    if (writes) client_writes(client);
    if (client->leave == LEAVE_AT_ONCE && one_in(DICE_CLIENTS, 20)) {
        if (one_in(DICE_CLIENTS, 2)) client_ends(client);
        else client_resets(client);
    } else if (!writes && !world.calm && one_in(DICE_CLIENTS, 4)) {
        if (client->leave == LEAVE_END) client_ends(client);
        if (client->leave == LEAVE_RESET) client_resets(client);
    }
}

void client_told(struct sim_stream *stream) {
    struct client *client = stream->client;
    if (client && client->stream == stream && client->next_ns == INT64_MAX) client->next_ns = soon(client);
}

int64_t clients_act(void) {
    int64_t next = INT64_MAX;
    for (uint32_t i = 0; i < world.clients; i++) {
        struct client *client = &clients[i];
        if (client->next_ns <= world.now_ns) client_acts(client);
        if (client->next_ns < next) next = client->next_ns;
    }
    return next;
}
