/* rows.c: rows as JSON, for listings that are too long to make Python objects of.
 *
 * The members and their order are those of `Connection` in the management API; a test there compares both. What is written
 * needs no escapes: names of this program, numbers, addresses, times; the caller answers for the prefix, and who gave the labels
 * has given their JSON too. */
#include "engine.h"
#include "internal.h"

#include <stdio.h>

static char *put_text(char *out, const char *text) {
    size_t bytes = strlen(text);
    memcpy(out, text, bytes);
    return out + bytes;
}

static char *put_number(char *out, uint64_t number) {
    char digits[20];
    int count = 0;
    do digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    while (count > 0) *out++ = digits[--count];
    return out;
}

static char *put_hex(char *out, uint64_t number) {
    int shift = 60;
    while (shift > 0 && number >> shift == 0) shift -= 4;
    for (; shift >= 0; shift -= 4) *out++ = "0123456789abcdef"[number >> shift & 15];
    return out;
}

static char *put_padded(char *out, uint32_t number, int digits) {
    for (int i = digits; i-- > 0; number /= 10) out[i] = (char)('0' + number % 10);
    return out + digits;
}

/* RFC 3339 in UTC, with microseconds. From days to a date: Howard Hinnant, "chrono-compatible low-level date algorithms",
 * civil_from_days, for days since 1970 that are not negative. */
static char *put_time(char *out, int64_t at_us) {
    uint64_t seconds = (uint64_t)at_us / 1000000, days = seconds / 86400 + 719468;
    uint32_t era = (uint32_t)(days / 146097), day_of_era = (uint32_t)(days % 146097);
    uint32_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    uint32_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint32_t shifted_month = (5 * day_of_year + 2) / 153; /* from March */
    uint32_t month = shifted_month < 10 ? shifted_month + 3 : shifted_month - 9;
    out = put_padded(out, year_of_era + era * 400 + (month <= 2), 4);
    *out++ = '-';
    out = put_padded(out, month, 2);
    *out++ = '-';
    out = put_padded(out, day_of_year - (153 * shifted_month + 2) / 5 + 1, 2);
    *out++ = 'T';
    out = put_padded(out, (uint32_t)(seconds / 3600 % 24), 2);
    *out++ = ':';
    out = put_padded(out, (uint32_t)(seconds / 60 % 60), 2);
    *out++ = ':';
    out = put_padded(out, (uint32_t)(seconds % 60), 2);
    *out++ = '.';
    out = put_padded(out, (uint32_t)(at_us % 1000000), 6);
    *out++ = 'Z';
    return out;
}

static char *put_ip(char *out, const uint8_t *ip) {
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (memcmp(ip, mapped, sizeof mapped) != 0) {
        inet_ntop(AF_INET6, ip, out, INET6_ADDRSTRLEN);
        return out + strlen(out);
    }
    for (int i = 12; i < 16; i++) {
        out = put_number(out, ip[i]);
        if (i < 15) *out++ = '.';
    }
    return out;
}

static char *put_endpoint(char *out, const char *name, const uint8_t *ip, uint16_t port) {
    out = put_text(out, name);
    out = put_text(out, "{\"ip\":\"");
    out = put_ip(out, ip);
    out = put_text(out, "\",\"port\":");
    out = put_number(out, port);
    *out++ = '}';
    return out;
}

static char *put_via(char *out, const iocpd_connection *row) {
    static const uint8_t nobody[16];
    if (memcmp(row->via_ip, nobody, sizeof nobody) == 0) return put_text(out, ",\"via\":null");
    return put_endpoint(out, ",\"via\":", row->via_ip, row->via_port);
}

static char *put_member(char *out, const char *name, uint64_t number) { return put_number(put_text(out, name), number); }

static char *put_quoted(char *out, const char *name, const char *text) {
    out = put_text(out, name);
    if (!*text) return put_text(out, "null");
    *out++ = '"';
    out = put_text(out, text);
    *out++ = '"';
    return out;
}

static char *put_moment(char *out, const char *name, int64_t at_us) {
    out = put_time(put_text(out, name), at_us);
    *out++ = '"';
    return out;
}

static char *put_labels(char *out, uint64_t from, uint32_t members) {
    const struct labels *labels = (const struct labels *)(uintptr_t)from;
    const uint8_t *json = labels ? labels->data + labels->label_bytes : (const uint8_t *)",\"tags\":{},\"groups\":[]";
    uint32_t tags = labels ? labels->tag_json_bytes : 10, both = labels ? labels->json_bytes : 22;
    uint32_t begin = members & IOCPD_MEMBER_TAGS ? 0 : tags, end = members & IOCPD_MEMBER_GROUPS ? both : tags;
    memcpy(out, json + begin, end - begin);
    return out + (end - begin);
}

/* With the labels locked. Each member comes with the comma before it; that of the first is overwritten. */
static char *put_row(char *out, const iocpd_engine *engine, const iocpd_connection *row, uint32_t members, const char *prefix) {
    static const char *const states[] = {"free", "arriving", "open", "draining", "closing"};
    char *first = out;
    if (members & IOCPD_MEMBER_ID) {
        out = put_hex(put_text(put_text(out, ",\"id\":\""), prefix), row->token);
        *out++ = '"';
    }
    if (members & IOCPD_MEMBER_LISTENER) out = put_member(out, ",\"listener\":", row->listener);
    if (members & IOCPD_MEMBER_SERVICE) out = put_quoted(out, ",\"service\":", engine->listeners[row->listener].service_name);
    if (members & IOCPD_MEMBER_STATE) out = put_quoted(out, ",\"state\":", states[row->state]);
    if (members & IOCPD_MEMBER_REASON) out = put_quoted(out, ",\"reason\":", iocpd_reason_name(row->reason));
    if (members & IOCPD_MEMBER_PEER) out = put_endpoint(out, ",\"peer\":", row->peer_ip, row->peer_port);
    if (members & IOCPD_MEMBER_VIA) out = put_via(out, row);
    if (members & IOCPD_MEMBER_LOCAL) out = put_endpoint(out, ",\"local\":", row->local_ip, row->local_port);
    if (members & IOCPD_MEMBER_CONNECTED_AT) out = put_moment(out, ",\"connected_at\":\"", row->connected_at_us);
    if (members & IOCPD_MEMBER_LAST_ACTIVITY_AT) out = put_moment(out, ",\"last_activity_at\":\"", row->last_activity_at_us);
    if (members & IOCPD_MEMBER_BYTES_IN) out = put_member(out, ",\"bytes_in\":", row->bytes_in);
    if (members & IOCPD_MEMBER_BYTES_OUT) out = put_member(out, ",\"bytes_out\":", row->bytes_out);
    if (members & IOCPD_MEMBER_MESSAGES_IN) out = put_member(out, ",\"messages_in\":", row->messages_in);
    if (members & IOCPD_MEMBER_MESSAGES_OUT) out = put_member(out, ",\"messages_out\":", row->messages_out);
    if (members & IOCPD_MEMBER_PENDING_BYTES) out = put_member(out, ",\"pending_bytes\":", row->pending_bytes);
    if (members & (IOCPD_MEMBER_TAGS | IOCPD_MEMBER_GROUPS)) out = put_labels(out, row->labels, members);
    if (members & IOCPD_MEMBER_WORKER) out = put_member(out, ",\"worker\":", row->worker);
    *first = '{';
    *out++ = '}';
    return out;
}

/* Another row surely fits, with a comma before it. */
static bool has_room(const char *out, const char *at, uint32_t capacity) {
    return (size_t)(at - out) + IOCPD_ROW_JSON_BYTES + IOCPD_LABEL_BYTES < capacity;
}

uint32_t iocpd_list_json(iocpd_engine *engine, const iocpd_filter *filter, iocpd_cursor *cursor, uint32_t limit, uint32_t members,
                         const char *prefix, char *out, uint32_t capacity, uint32_t *bytes, int32_t *more) {
    char *at = out;
    uint32_t count = 0;
    iocpd_connection row;
    ASSERT(strlen(prefix) <= IOCPD_PREFIX_BYTES && members);
    *more = 1;
    labels_lock(engine);
    while (count < limit && has_room(out, at, capacity)) {
        if (snapshot_list(engine, filter, cursor, &row, 1) == 0) {
            *more = 0;
            break;
        }
        if (count++ > 0) *at++ = ',';
        at = put_row(at, engine, &row, members, prefix);
    }
    labels_unlock(engine);
    *bytes = (uint32_t)(at - out);
    return count;
}

uint32_t iocpd_sorted_json(iocpd_engine *engine, const iocpd_sorted *sorted, uint32_t count, uint32_t *position, uint32_t limit,
                           uint32_t members, const char *prefix, char *out, uint32_t capacity, uint32_t *bytes) {
    char *at = out;
    uint32_t written = 0;
    iocpd_connection row;
    ASSERT(strlen(prefix) <= IOCPD_PREFIX_BYTES && members);
    labels_lock(engine);
    for (; *position < count; ++*position) {
        if (iocpd_get(engine, sorted[*position].token, &row) != IOCPD_OK) continue;
        if (written == limit || !has_room(out, at, capacity)) break;
        if (written++ > 0) *at++ = ',';
        at = put_row(at, engine, &row, members, prefix);
    }
    labels_unlock(engine);
    *bytes = (uint32_t)(at - out);
    return written;
}
