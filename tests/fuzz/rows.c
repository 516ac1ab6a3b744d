/* A connection's row as JSON: each member as the C library writes it, in the room that there is for a row. The input is the row.
 */
#include "fuzz.h"

/* Its functions are its own file's, so that file is part of this one. */
#include "../../core/native/rows.c"

#include <time.h>

static void expect_ip(char *out, const uint8_t *ip) {
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (memcmp(ip, mapped, 12) == 0) inet_ntop(AF_INET, ip + 12, out, INET6_ADDRSTRLEN);
    else inet_ntop(AF_INET6, ip, out, INET6_ADDRSTRLEN);
}

static void expect_endpoint(char *out, const uint8_t *ip, uint16_t port) {
    char text[INET6_ADDRSTRLEN];
    expect_ip(text, ip);
    sprintf(out, "{\"ip\":\"%s\",\"port\":%u}", text, port);
}

static void expect_time(char *out, int64_t at_us) {
    time_t seconds = at_us / 1000000;
    struct tm tm;
    gmtime_r(&seconds, &tm);
    sprintf(out + strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm), ".%06uZ", (unsigned)(at_us % 1000000));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    struct listener listener = {.service_name = "echo"};
    struct iocpd_engine engine = {.listeners = &listener};
    iocpd_connection row = {
        .token = take_number(&input, 8), .state = take_byte(&input) % 5, .reason = take_byte(&input) % IOCPD_REASON_COUNT};
    uint8_t kinds = take_byte(&input);
    uint32_t members = (uint32_t)take_number(&input, 3) & IOCPD_MEMBER_ALL;
    if (!members) members = IOCPD_MEMBER_ALL;
    uint8_t *ips[] = {row.peer_ip, row.local_ip, row.via_ip};
    for (int i = 0; i < 3; i++) {
        take_bytes(&input, ips[i], 16);
        if (kinds >> 2 * i & 1) memset(ips[i], 0, 10), memset(ips[i] + 10, 0xff, 2);
        if (kinds >> 2 * i & 2) memset(ips[i], 0, 10 + (kinds >> 6) * 2);
    }
    row.peer_port = (uint16_t)take_number(&input, 2);
    row.local_port = (uint16_t)take_number(&input, 2);
    row.via_port = (uint16_t)take_number(&input, 2);
    row.connected_at_us = (int64_t)(take_number(&input, 8) % 253402300800000000u); /* before the year 10000 */
    row.last_activity_at_us = (int64_t)(take_number(&input, 8) % 253402300800000000u);
    row.bytes_in = take_number(&input, 8);
    row.bytes_out = take_number(&input, 8);
    row.messages_in = take_number(&input, 8);
    row.messages_out = take_number(&input, 8);
    row.pending_bytes = take_number(&input, 8);
    row.worker = (uint16_t)take_number(&input, 2);

    char peer[96], local[96], via[96], connected[48], active[48], expected[IOCPD_ROW_JSON_BYTES], *at = expected;
    static const uint8_t nobody[16];
    expect_endpoint(peer, row.peer_ip, row.peer_port);
    expect_endpoint(local, row.local_ip, row.local_port);
    if (memcmp(row.via_ip, nobody, 16) == 0) strcpy(via, "null");
    else expect_endpoint(via, row.via_ip, row.via_port);
    expect_time(connected, row.connected_at_us);
    expect_time(active, row.last_activity_at_us);
    static const char *const states[] = {"\"free\"", "\"arriving\"", "\"open\"", "\"draining\"", "\"closing\""};
    char reason[64] = "null";
    if (row.reason) sprintf(reason, "\"%s\"", iocpd_reason_name(row.reason));
#define MEMBER(bit, ...)                                                                                                         \
    if (members & (bit)) {                                                                                                       \
        *at++ = ',';                                                                                                             \
        at += sprintf(at, __VA_ARGS__);                                                                                          \
    }
    MEMBER(IOCPD_MEMBER_ID, "\"id\":\"abcdefghijklmno-%llx\"", (unsigned long long)row.token)
    MEMBER(IOCPD_MEMBER_LISTENER, "\"listener\":0")
    MEMBER(IOCPD_MEMBER_SERVICE, "\"service\":\"echo\"")
    MEMBER(IOCPD_MEMBER_STATE, "\"state\":%s", states[row.state])
    MEMBER(IOCPD_MEMBER_REASON, "\"reason\":%s", reason)
    MEMBER(IOCPD_MEMBER_PEER, "\"peer\":%s", peer)
    MEMBER(IOCPD_MEMBER_VIA, "\"via\":%s", via)
    MEMBER(IOCPD_MEMBER_LOCAL, "\"local\":%s", local)
    MEMBER(IOCPD_MEMBER_CONNECTED_AT, "\"connected_at\":\"%s\"", connected)
    MEMBER(IOCPD_MEMBER_LAST_ACTIVITY_AT, "\"last_activity_at\":\"%s\"", active)
    MEMBER(IOCPD_MEMBER_BYTES_IN, "\"bytes_in\":%llu", (unsigned long long)row.bytes_in)
    MEMBER(IOCPD_MEMBER_BYTES_OUT, "\"bytes_out\":%llu", (unsigned long long)row.bytes_out)
    MEMBER(IOCPD_MEMBER_MESSAGES_IN, "\"messages_in\":%llu", (unsigned long long)row.messages_in)
    MEMBER(IOCPD_MEMBER_MESSAGES_OUT, "\"messages_out\":%llu", (unsigned long long)row.messages_out)
    MEMBER(IOCPD_MEMBER_PENDING_BYTES, "\"pending_bytes\":%llu", (unsigned long long)row.pending_bytes)
    MEMBER(IOCPD_MEMBER_TAGS, "\"tags\":{}")
    MEMBER(IOCPD_MEMBER_GROUPS, "\"groups\":[]")
    MEMBER(IOCPD_MEMBER_WORKER, "\"worker\":%u", row.worker)
    expected[0] = '{';
    *at++ = '}';

    /* A listener's name may be the longest that there is: the other members leave room for it. */
    CHECK((size_t)(at - expected) + IOCPD_SERVICE_BYTES < IOCPD_ROW_JSON_BYTES);
    char *out = malloc((size_t)(at - expected));
    char *end = put_row(out, &engine, &row, members, "abcdefghijklmno-");
    CHECK(end - out == at - expected && memcmp(out, expected, (size_t)(at - expected)) == 0);
    free(out);
    return 0;
}
