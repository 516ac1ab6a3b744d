/* balancers.c: clients that must begin with a PROXY header, as balancers do: which ones, and what they write. */
#include "world.h"

#include <arpa/inet.h>
#include <stdio.h>

enum { NAMED = 12, LINE_MAX = 107, V2_FIXED = 16 };

static uint32_t between(uint64_t least, uint64_t most) { return (uint32_t)roll_between(DICE_PROXY, least, most); }
static bool sometimes(uint32_t times) { return one_in(DICE_PROXY, times); }

bool is_in_network(const uint8_t *ip, const uint8_t *network, uint32_t prefix) {
    for (uint32_t bit = 0; bit < prefix; bit++)
        if ((network[bit / 8] ^ ip[bit / 8]) & 0x80 >> bit % 8) return false;
    return true;
}

/* Half of the clients' network, all of it, or two of them. */
static void networks_choose(iocpd_listener_config *listener) {
    uint32_t prefix = (uint32_t[]){120, 112, 128}[between(0, 2)];
    listener->proxy_from_count = prefix == 128 ? 2 : 1;
    for (uint32_t i = 0; i < listener->proxy_from_count; i++) {
        uint8_t *ip = listener->proxy_from[i].ip;
        listener->proxy_from[i].prefix = prefix;
        memcpy(ip, client_address(2 * i).ip, 16);
        for (uint32_t bit = prefix; bit < 128; bit++) ip[bit / 8] &= (uint8_t)~(0x80 >> bit % 8);
    }
}

void balancers_choose(void) {
    if (!(world.faults & FAULT_PROXY)) return;
    for (uint32_t i = 0; i < LISTENERS_MAX_SIM; i++)
        if (!sometimes(4)) networks_choose(&world.listeners[i]);
}

/* Those of clients that come without a header, and IPv6: three in each of two networks of 64 bits. */
struct platform_address named_address(void) {
    uint32_t which = between(0, NAMED - 1);
    if (which < NAMED / 2) return client_address(which);
    which -= NAMED / 2;
    return (struct platform_address){.ip = {0x20, 0x01, 0x0d, 0xb8, [7] = (uint8_t)(which % 2), [15] = (uint8_t)(1 + which / 2)}};
}

/* ---- the header ------------------------------------------------------------------------------------------------------- */

static void put(struct header *header, const void *data, uint32_t bytes) {
    memcpy(header->data + header->bytes, data, bytes);
    header->bytes += bytes;
}

static void put_filler(struct header *header, uint32_t bytes) {
    while (bytes-- > 0) header->data[header->bytes++] = (uint8_t)between('a', 'z');
}

static bool is_ipv4(const struct platform_address *address) { return address->ip[0] == 0; }

static void line_write(struct header *header, const struct platform_address *server) {
    char line[LINE_MAX + 1], client_ip[INET6_ADDRSTRLEN], server_ip[INET6_ADDRSTRLEN];
    if (!header->has_client) {
        put(header, "PROXY UNKNOWN", 13);
        if (sometimes(2)) put(header, " ", 1), put_filler(header, between(0, LINE_MAX - 16));
        put(header, "\r\n", 2);
        return;
    }
    bool ipv4 = is_ipv4(&header->client);
    inet_ntop(ipv4 ? AF_INET : AF_INET6, header->client.ip + (ipv4 ? 12 : 0), client_ip, sizeof client_ip);
    inet_ntop(ipv4 ? AF_INET : AF_INET6, server->ip + (ipv4 ? 12 : 0), server_ip, sizeof server_ip);
    put(header, line,
        (uint32_t)snprintf(line, sizeof line, "PROXY TCP%c %s %s %u %u\r\n", ipv4 ? '4' : '6', client_ip, server_ip,
                           header->client.port, server->port));
}

static void binary_write(struct header *header, const struct platform_address *server) {
    static const uint8_t signature[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};
    bool ipv4 = is_ipv4(&header->client), local = !header->has_client && sometimes(2);
    uint8_t family = !header->has_client ? (uint8_t[]){0x00, 0x31, 0x12}[between(0, 2)] : ipv4 ? 0x11 : 0x21;
    uint8_t fixed[V2_FIXED] = {[12] = local ? 0x20 : 0x21, [13] = family};
    memcpy(fixed, signature, sizeof signature);
    put(header, fixed, V2_FIXED);
    if (header->has_client) {
        uint16_t ports[2] = {htons(header->client.port), htons(server->port)};
        put(header, header->client.ip + (ipv4 ? 12 : 0), ipv4 ? 4 : 16);
        put(header, server->ip + (ipv4 ? 12 : 0), ipv4 ? 4 : 16);
        put(header, ports, sizeof ports);
    }
    put_filler(header, sometimes(2) ? 0 : sometimes(4) ? between(0, 1000) : between(0, 100)); /* whatever else it says */
    header->data[14] = (uint8_t)((header->bytes - V2_FIXED) >> 8);
    header->data[15] = (uint8_t)(header->bytes - V2_FIXED);
}

/* What looks much like one, and is none. */
static void wrong_write(struct header *header) {
    static const char *const lines[] = {
        "GET / HTTP/1.1\r\n",
        "PROXY TCP4 10.0.0.256 10.0.0.2 1000 2000\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 01000 2000\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1000 65536\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1000 2000 \r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1000 2000\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 1000 2000\r\n",
        "PROXY TCP6 2001:db8::1 10.0.0.2 1000 2000\r\n",
        "PROXY TCP6 2001:db8::1::2 2001:db8::2 1000 2000\r\n",
        "PROXY UDP4 10.0.0.1 10.0.0.2 1000 2000\r\n",
        "PROXY UNKNOWNS\r\n",
    };
    static const uint8_t wrong_at[] = {0, 4, 11, 12, 13, 13, 14}, wrong[] = {0x0a, 0x01, 0x0b, 0x11, 0x41, 0x13, 0x00};
    header->wrong = true;
    if (sometimes(6)) {
        put(header, "PROXY TCP4 ", 11);
        put_filler(header, LINE_MAX); /* a line without an end */
    } else if (sometimes(2)) {
        const char *line = lines[between(0, sizeof lines / sizeof *lines - 1)];
        put(header, line, (uint32_t)strlen(line));
    } else {
        uint32_t which = between(0, sizeof wrong - 1);
        header->has_client = true;
        header->bytes = 0;
        binary_write(header, &header->client);
        header->data[wrong_at[which]] = wrong[which];
        if (wrong_at[which] == 14) header->data[15] = 11; /* too short for addresses */
        header->has_client = false;
    }
    if (sometimes(2)) put_filler(header, between(0, 60));
}

void header_choose(struct header *header, const struct sim_stream *stream) {
    const iocpd_listener_config *listener = &world.listeners[stream->listener];
    for (uint32_t i = 0; i < listener->proxy_from_count; i++)
        header->wanted |= is_in_network(stream->peer.ip, listener->proxy_from[i].ip, listener->proxy_from[i].prefix);
    if (!header->wanted) return;
    header->client = named_address();
    header->client.port = (uint16_t)between(1, 65535);
    header->has_client = !sometimes(8);
    if (sometimes(10)) header->has_client = false, wrong_write(header);
    else if (sometimes(2)) line_write(header, &header->client);
    else binary_write(header, &header->client);
    header->stops_at = sometimes(10) ? between(0, header->bytes - 1) : header->bytes;
    header->pieces = sometimes(2) ? header->bytes : sometimes(4) ? 1 : between(1, header->bytes);
    header->leaves = sometimes(6);
    header->begin_ns = world.now_ns + (sometimes(8) ? (int64_t)roll(DICE_PROXY, 300000000) : 0);
}
