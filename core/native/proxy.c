/* proxy.c: see proxy.h. */
#include "proxy.h"

static uint32_t lesser(uint32_t a, uint32_t b) { return a < b ? a : b; }

static void ipv4_set(struct platform_address *out, const uint8_t *ip) {
    memset(out->ip, 0, 10);
    memset(out->ip + 10, 0xff, 2);
    memcpy(out->ip + 12, ip, 4);
}

/* ---- version 1: one line of text, such as "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n" ------------------------------- */

/* What is left of the line. Each function below takes its part from the front; false: it is not there. */
struct text {
    const char *at, *end;
};

static bool take_word(struct text *text, const char *word) {
    size_t bytes = strlen(word);
    if ((size_t)(text->end - text->at) < bytes || memcmp(text->at, word, bytes) != 0) return false;
    text->at += bytes;
    return true;
}

/* In decimal digits, without zeros in front. */
static bool take_number(struct text *text, uint32_t most, uint32_t *out) {
    const char *begin = text->at;
    uint32_t number = 0;
    while (text->at < text->end && *text->at >= '0' && *text->at <= '9') {
        number = number * 10 + (uint32_t)(*text->at++ - '0');
        if (number > most) return false;
    }
    *out = number;
    return text->at > begin && (text->at == begin + 1 || *begin != '0');
}

static bool take_ipv4(struct text *text, struct platform_address *out) {
    uint8_t ip[4];
    for (int i = 0; i < 4; i++) {
        uint32_t number;
        if ((i > 0 && !take_word(text, ".")) || !take_number(text, 255, &number)) return false;
        ip[i] = (uint8_t)number;
    }
    ipv4_set(out, ip);
    return true;
}

static bool is_ipv6_letter(char letter) {
    return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f') || (letter >= 'A' && letter <= 'F') ||
           letter == ':' || letter == '.';
}

static bool take_ipv6(struct text *text, struct platform_address *out) {
    char copy[INET6_ADDRSTRLEN];
    size_t bytes = 0;
    while (text->at < text->end && is_ipv6_letter(*text->at) && bytes < sizeof copy - 1) copy[bytes++] = *text->at++;
    copy[bytes] = 0;
    return inet_pton(AF_INET6, copy, out->ip) == 1;
}

static bool take_client(struct text *text, bool (*take_ip)(struct text *, struct platform_address *),
                        struct platform_address *client) {
    struct platform_address server;
    uint32_t client_port, server_port;
    if (!take_ip(text, client) || !take_word(text, " ") || !take_ip(text, &server) || !take_word(text, " ")) return false;
    if (!take_number(text, 65535, &client_port) || !take_word(text, " ") || !take_number(text, 65535, &server_port)) return false;
    client->port = (uint16_t)client_port;
    return text->at == text->end;
}

static enum proxy_answer parse_text(const uint8_t *data, uint32_t bytes, struct proxy_header *header) {
    const uint8_t *end = memchr(data, '\n', lesser(bytes, PROXY_BYTES_KEPT));
    if (!end) return bytes < PROXY_BYTES_KEPT ? PROXY_MORE : PROXY_INVALID;
    if (end[-1] != '\r') return PROXY_INVALID;
    struct text text = {.at = (const char *)data, .end = (const char *)end - 1};
    struct proxy_header found = {.bytes = (uint32_t)(end + 1 - data)};
    bool valid;
    take_word(&text, "PROXY ");
    if (take_word(&text, "TCP4 ")) valid = found.has_client = take_client(&text, take_ipv4, &found.client);
    else if (take_word(&text, "TCP6 ")) valid = found.has_client = take_client(&text, take_ipv6, &found.client);
    else valid = take_word(&text, "UNKNOWN") && (text.at == text.end || *text.at == ' '); /* what follows does not count */
    if (!valid) return PROXY_INVALID;
    *header = found;
    return PROXY_HEADER;
}

/* ---- version 2: signature, version and command, family and transport, length in two bytes, addresses, and more ------------- */

static const uint8_t signature[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};

enum {
    FIXED_BYTES = 16,
    LOCAL = 0x20, /* version 2, and the balancer speaks for itself: a health check */
    PROXY = 0x21,
    FAMILY_MAX = 3,    /* unspecified, IPv4, IPv6, Unix */
    TRANSPORT_MAX = 2, /* unspecified, stream, datagram */
    TCP4 = 0x11,
    TCP6 = 0x21,
    TCP4_BYTES = 12, /* the client's address, the server's, their ports */
    TCP6_BYTES = 36,
};

static enum proxy_answer parse_binary(const uint8_t *data, uint32_t bytes, struct proxy_header *header) {
    if (bytes < FIXED_BYTES) return PROXY_MORE;
    uint8_t command = data[12], family = data[13];
    uint32_t length = (uint32_t)data[14] << 8 | data[15];
    struct proxy_header found = {.bytes = FIXED_BYTES + length};
    if (command != LOCAL && command != PROXY) return PROXY_INVALID;
    if (command == PROXY) {
        if (family >> 4 > FAMILY_MAX || (family & 15) > TRANSPORT_MAX) return PROXY_INVALID;
        uint32_t wanted = family == TCP4 ? TCP4_BYTES : family == TCP6 ? TCP6_BYTES : 0;
        if (length < wanted) return PROXY_INVALID;
        if (bytes < FIXED_BYTES + wanted) return PROXY_MORE;
        found.has_client = wanted > 0;
    }
    if (found.has_client) {
        const uint8_t *addresses = data + FIXED_BYTES;
        const uint8_t *port = addresses + (family == TCP4 ? 8 : 32);
        if (family == TCP4) ipv4_set(&found.client, addresses);
        else memcpy(found.client.ip, addresses, 16);
        found.client.port = (uint16_t)(port[0] << 8 | port[1]);
    }
    *header = found;
    return PROXY_HEADER;
}

enum proxy_answer proxy_parse(const uint8_t *data, uint32_t bytes, struct proxy_header *header) {
    static const char word[6] = {'P', 'R', 'O', 'X', 'Y', ' '};
    if (bytes == 0) return PROXY_MORE;
    if (memcmp(data, word, lesser(bytes, sizeof word)) == 0)
        return bytes < sizeof word ? PROXY_MORE : parse_text(data, bytes, header);
    if (memcmp(data, signature, lesser(bytes, sizeof signature)) == 0) return parse_binary(data, bytes, header);
    return PROXY_INVALID;
}
