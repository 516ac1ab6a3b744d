/* The PROXY header: against a reader written from the specification, whole and in pieces. The input is what a connection begins
 * with. */
#include "fuzz.h"

/* Its functions are its own file's, so that file is part of this one. */
#include "../../core/native/arrival.c"

/* ---- a reader that anybody can check ------------------------------------------------------------------------------------- */

static bool port_of(const char *word, uint16_t *port) {
    char again[8];
    unsigned long number = strtoul(word, NULL, 10);
    if (number > 65535) return false;
    snprintf(again, sizeof again, "%lu", number);
    *port = (uint16_t)number;
    return strcmp(word, again) == 0;
}

static bool address_of(const char *word, bool ipv6, uint8_t *ip) {
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (ipv6) return inet_pton(AF_INET6, word, ip) == 1;
    memcpy(ip, mapped, 12);
    return inet_pton(AF_INET, word, ip + 12) == 1;
}

static enum proxy_answer read_text(const uint8_t *data, uint32_t bytes, struct proxy_header *header) {
    char line[108], *words[6], *rest = line;
    const uint8_t *end = memchr(data, '\n', bytes < 107 ? bytes : 107);
    int count = 0;
    uint8_t server[16];
    uint16_t server_port;
    if (!end) return bytes < 107 ? PROXY_MORE : PROXY_INVALID;
    size_t length = (size_t)(end - data) - 1;
    if (data[length] != '\r') return PROXY_INVALID;
    memcpy(line, data, length);
    line[length] = 0;
    header->bytes = (uint32_t)length + 2;
    header->has_client = false;
    if (strncmp(line, "PROXY UNKNOWN", 13) == 0) return length == 13 || line[13] == ' ' ? PROXY_HEADER : PROXY_INVALID;
    if (strlen(line) != length) return PROXY_INVALID;
    while (count < 6 && (words[count] = strsep(&rest, " "))) count++;
    if (count < 6 || rest) return PROXY_INVALID;
    bool ipv6 = strcmp(words[1], "TCP6") == 0;
    if (!ipv6 && strcmp(words[1], "TCP4") != 0) return PROXY_INVALID;
    header->has_client = true;
    bool good = address_of(words[2], ipv6, header->client.ip) && address_of(words[3], ipv6, server) &&
                port_of(words[4], &header->client.port) && port_of(words[5], &server_port);
    return good ? PROXY_HEADER : PROXY_INVALID;
}

static enum proxy_answer read_binary(const uint8_t *data, uint32_t bytes, struct proxy_header *header) {
    if (bytes < 16) return PROXY_MORE;
    uint32_t length = data[14] * 256u + data[15];
    header->bytes = 16 + length;
    header->has_client = false;
    if (data[12] == 0x20) return PROXY_HEADER;
    if (data[12] != 0x21 || data[13] >= 0x40 || data[13] % 16 >= 3) return PROXY_INVALID;
    if (data[13] != 0x11 && data[13] != 0x21) return PROXY_HEADER;
    bool ipv6 = data[13] == 0x21;
    uint32_t wanted = ipv6 ? 36 : 12;
    if (length < wanted) return PROXY_INVALID;
    if (bytes < 16 + wanted) return PROXY_MORE;
    header->has_client = true;
    char word[INET6_ADDRSTRLEN];
    inet_ntop(ipv6 ? AF_INET6 : AF_INET, data + 16, word, sizeof word);
    CHECK(address_of(word, ipv6, header->client.ip));
    header->client.port = (uint16_t)(data[16 + wanted - 4] * 256 + data[16 + wanted - 3]);
    return PROXY_HEADER;
}

static enum proxy_answer read_header(const uint8_t *data, uint32_t bytes, struct proxy_header *header) {
    uint32_t text = bytes < 6 ? bytes : 6, binary = bytes < 12 ? bytes : 12;
    if (bytes == 0) return PROXY_MORE;
    if (memcmp(data, "PROXY ", text) == 0) return text < 6 ? PROXY_MORE : read_text(data, bytes, header);
    if (memcmp(data, "\r\n\r\n\0\r\nQUIT\n", binary) == 0) return read_binary(data, bytes, header);
    return PROXY_INVALID;
}

/* ---- the targets ----------------------------------------------------------------------------------------------------------- */

static void same(const struct proxy_header *header, const struct proxy_header *expected) {
    CHECK(header->bytes == expected->bytes && header->has_client == expected->has_client);
    if (!header->has_client) return;
    CHECK(memcmp(header->client.ip, expected->client.ip, 16) == 0 && header->client.port == expected->client.port);
}

/* The stream in pieces of `step` bytes and of less, as a connection gets it: what is behind the header comes out whole. */
static void in_pieces(const uint8_t *data, uint32_t bytes, uint32_t step, enum proxy_answer whole,
                      const struct proxy_header *expected) {
    struct arrival arrival = {.begin_bytes = 0};
    enum proxy_answer answer = PROXY_MORE;
    uint32_t at = 0, taken = 0;
    while (at < bytes && answer == PROXY_MORE) {
        uint32_t share = bytes - at < step ? bytes - at : step;
        uint8_t *copy = malloc(share); /* of its own, so that a read beyond it is seen */
        memcpy(copy, data + at, share);
        struct buffer buffer = {.memory = copy, .bytes = share};
        taken = header_take(&arrival, &buffer, &answer);
        CHECK(taken <= share && (answer != PROXY_MORE || taken == share));
        free(copy);
        if (answer == PROXY_MORE) at += share;
    }
    if (whole == PROXY_HEADER && expected->bytes <= bytes) {
        CHECK(answer == PROXY_HEADER && at + taken == expected->bytes);
        same(&arrival.header, expected);
    } else {
        CHECK(answer == (whole == PROXY_INVALID ? PROXY_INVALID : PROXY_MORE));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint32_t bytes = (uint32_t)size;
    struct proxy_header header = {0}, expected = {0};
    enum proxy_answer answer = proxy_parse(data, bytes, &header);
    CHECK(answer == read_header(data, bytes, &expected));
    CHECK(answer != PROXY_MORE || bytes < PROXY_BYTES_KEPT);
    if (answer == PROXY_HEADER) same(&header, &expected);
    for (uint32_t part = 0; part < bytes && part <= PROXY_BYTES_KEPT; part++) {
        struct proxy_header early = {0};
        enum proxy_answer before = proxy_parse(data, part, &early);
        CHECK(before == PROXY_MORE || before == answer); /* an answer that was given stays */
        if (before == PROXY_HEADER) same(&early, &header);
    }
    in_pieces(data, bytes, 1, answer, &expected);
    in_pieces(data, bytes, bytes ? 1 + data[bytes - 1] : 1, answer, &expected);
    return 0;
}
