/* framing.c: see framing.h. */
#include "framing.h"

enum { REST_BYTES_MIN = 128 };

/* ---- where a frame ends ---------------------------------------------------------------------------------------------- */

/* Bytes of one frame in two pieces: those that were kept, and those that have just come. */
struct span {
    const uint8_t *before, *data;
    uint32_t before_bytes, bytes;
};

static uint8_t span_at(const struct span *span, uint32_t at) {
    return at < span->before_bytes ? span->before[at] : span->data[at - span->before_bytes];
}

/* Each says how many bytes of `data` belong to the first frame; 0: it is not whole yet, or too large. */

static uint32_t line_end(const iocpd_framing *framing, const struct span *span, bool *too_large) {
    const uint8_t *end = memchr(span->data, '\n', span->bytes);
    uint32_t share = end ? (uint32_t)(end - span->data) : span->bytes;
    uint64_t line = (uint64_t)span->before_bytes + share;
    bool return_may_end_it = line > 0 && span_at(span, (uint32_t)line - 1) == '\r';
    if (line > framing->max_bytes && !(line == (uint64_t)framing->max_bytes + 1 && return_may_end_it)) {
        *too_large = true;
        return 0;
    }
    return end ? share + 1 : 0;
}

static uint32_t prefix_read(const iocpd_framing *framing, const struct span *span) {
    uint32_t value = 0;
    for (uint32_t i = 0; i < framing->prefix_bytes; i++) {
        uint32_t byte = span_at(span, i);
        value = framing->little_endian ? value | byte << 8 * i : value << 8 | byte;
    }
    return value;
}

static uint32_t length_end(const iocpd_framing *framing, const struct span *span, bool *too_large) {
    uint64_t have = (uint64_t)span->before_bytes + span->bytes;
    if (have < framing->prefix_bytes) return 0;
    uint32_t length = prefix_read(framing, span);
    if (length > framing->max_bytes) {
        *too_large = true;
        return 0;
    }
    uint64_t total = (uint64_t)framing->prefix_bytes + length;
    return have < total ? 0 : (uint32_t)(total - span->before_bytes);
}

static uint32_t fixed_end(const iocpd_framing *framing, const struct span *span) {
    uint32_t missing = framing->max_bytes - span->before_bytes;
    return span->bytes < missing ? 0 : missing;
}

/* The first place of the delimiter in the data alone; `bytes` if there is none. */
static uint32_t delimiter_find(const iocpd_framing *framing, const uint8_t *data, uint32_t bytes) {
    uint32_t length = framing->delimiter_bytes, at = 0;
    while (bytes - at >= length) {
        const uint8_t *first = memchr(data + at, framing->delimiter[0], bytes - at - length + 1);
        if (!first) break;
        if (memcmp(first, framing->delimiter, length) == 0) return (uint32_t)(first - data);
        at = (uint32_t)(first - data) + 1;
    }
    return bytes;
}

/* How many bytes of a delimiter stand at the end of what was kept, if the data goes on with the others. */
static uint32_t delimiter_across(const iocpd_framing *framing, const struct span *span) {
    uint32_t length = framing->delimiter_bytes;
    for (uint32_t kept = length - 1; kept > 0; kept--) { /* the most first: that is the delimiter that begins first */
        if (kept > span->before_bytes || length - kept > span->bytes) continue;
        if (memcmp(span->before + span->before_bytes - kept, framing->delimiter, kept) == 0 &&
            memcmp(span->data, framing->delimiter + kept, length - kept) == 0)
            return kept;
    }
    return 0;
}

static uint32_t delimiter_end(const iocpd_framing *framing, const struct span *span, bool *too_large) {
    uint32_t length = framing->delimiter_bytes, across = delimiter_across(framing, span);
    uint32_t at = across ? 0 : delimiter_find(framing, span->data, span->bytes);
    bool found = across || at < span->bytes;
    uint64_t message = (uint64_t)span->before_bytes + at - across;
    if (!found) message -= message < length - 1 ? message : length - 1; /* these may be the delimiter's */
    if (message > framing->max_bytes) {
        *too_large = true;
        return 0;
    }
    return found ? at + length - across : 0;
}

static uint32_t frame_end(const iocpd_framing *framing, const struct span *span, bool *too_large) {
    switch (framing->kind) {
    case IOCPD_LINES: return line_end(framing, span, too_large);
    case IOCPD_LENGTH_PREFIXED: return length_end(framing, span, too_large);
    case IOCPD_FIXED: return fixed_end(framing, span);
    case IOCPD_DELIMITED: return delimiter_end(framing, span, too_large);
    default: return span->bytes;
    }
}

/* The lines that begin and end in `data`, up to the first that must be looked at closely. */
static uint32_t short_lines(const iocpd_framing *framing, const uint8_t *data, uint32_t bytes, uint32_t *count) {
    const uint8_t *at = data, *end = data + bytes;
    for (const uint8_t *lf; (lf = memchr(at, '\n', (size_t)(end - at))) && lf - at <= (ptrdiff_t)framing->max_bytes; at = lf + 1)
        ++*count;
    return (uint32_t)(at - data);
}

struct frame_cut framing_cut(const iocpd_framing *framing, const struct frame_rest *rest, const uint8_t *data, uint32_t bytes) {
    struct frame_cut cut = {.bytes = 0};
    struct span span = {.before = rest ? rest->data : data, .before_bytes = rest ? rest->bytes : 0, .data = data, .bytes = bytes};
    while (span.bytes > 0) {
        bool lines = framing->kind == IOCPD_LINES && span.before_bytes == 0;
        uint32_t count = 0, share = lines ? short_lines(framing, span.data, span.bytes, &count) : 0;
        if (share == 0) {
            share = frame_end(framing, &span, &cut.too_large);
            count = 1;
        }
        if (share == 0) break;
        cut.bytes += share;
        cut.count += count;
        span.before_bytes = 0;
        span.data += share;
        span.bytes -= share;
    }
    return cut;
}

/* ---- the rest -------------------------------------------------------------------------------------------------------- */

static uint64_t rest_bytes_max(const iocpd_framing *framing) {
    return (uint64_t)framing->max_bytes + framing->prefix_bytes + framing->delimiter_bytes + 2;
}

bool framing_keep(const iocpd_framing *framing, struct frame_rest **rest, const uint8_t *data, uint32_t bytes) {
    struct frame_rest *had = *rest;
    uint64_t needed = (had ? had->bytes : 0) + (uint64_t)bytes;
    if (bytes == 0) return true;
    ASSERT(needed <= rest_bytes_max(framing));
    if (!had || had->capacity < needed) {
        uint64_t capacity = REST_BYTES_MIN;
        while (capacity < needed) capacity *= 2;
        if (capacity > rest_bytes_max(framing)) capacity = rest_bytes_max(framing);
        struct frame_rest *grown = memory_new(sizeof *grown + (size_t)capacity);
        if (!grown) return false;
        grown->capacity = (uint32_t)capacity;
        if (had) {
            memcpy(grown->data, had->data, had->bytes);
            grown->bytes = had->bytes;
            memory_free(had);
        }
        *rest = had = grown;
    }
    memcpy(had->data + had->bytes, data, bytes);
    had->bytes += bytes;
    return true;
}

uint32_t framing_drop(struct frame_rest **rest) {
    uint32_t bytes = *rest ? (*rest)->bytes : 0;
    memory_free(*rest);
    *rest = NULL;
    return bytes;
}

/* ---- messages -------------------------------------------------------------------------------------------------------- */

struct frame framing_next(const iocpd_framing *framing, const uint8_t *data, uint32_t bytes) {
    struct span span = {.before = data, .data = data, .bytes = bytes};
    bool too_large = false;
    struct frame frame = {.message = data, .bytes = frame_end(framing, &span, &too_large)};
    ASSERT(frame.bytes > 0);
    frame.message_bytes = frame.bytes;
    switch (framing->kind) {
    case IOCPD_LINES:
        frame.message_bytes--;
        if (frame.message_bytes > 0 && data[frame.message_bytes - 1] == '\r') frame.message_bytes--;
        break;
    case IOCPD_LENGTH_PREFIXED:
        frame.message += framing->prefix_bytes;
        frame.message_bytes -= framing->prefix_bytes;
        break;
    case IOCPD_DELIMITED: frame.message_bytes -= framing->delimiter_bytes; break;
    default: break;
    }
    return frame;
}

uint32_t framing_encoded_bytes(const iocpd_framing *framing, uint32_t message_bytes) {
    switch (framing->kind) {
    case IOCPD_LINES: return message_bytes + (framing->crlf ? 2 : 1);
    case IOCPD_LENGTH_PREFIXED: return message_bytes + framing->prefix_bytes;
    case IOCPD_DELIMITED: return message_bytes + framing->delimiter_bytes;
    default: return message_bytes;
    }
}

void framing_encode(const iocpd_framing *framing, const uint8_t *message, uint32_t message_bytes, uint8_t *out) {
    if (framing->kind == IOCPD_LENGTH_PREFIXED) {
        uint32_t prefix = framing->prefix_bytes;
        for (uint32_t i = 0; i < prefix; i++)
            out[i] = (uint8_t)(message_bytes >> 8 * (framing->little_endian ? i : prefix - 1 - i));
        out += prefix;
    }
    if (message_bytes) memcpy(out, message, message_bytes);
    out += message_bytes;
    if (framing->kind == IOCPD_LINES) {
        if (framing->crlf) *out++ = '\r';
        *out = '\n';
    } else if (framing->kind == IOCPD_DELIMITED) {
        memcpy(out, framing->delimiter, framing->delimiter_bytes);
    }
}

/* ---- for other uses --------------------------------------------------------------------------------------------------- */

struct iocpd_framer {
    iocpd_framing framing;
    struct frame_rest *rest;
};

uint32_t iocpd_frame_encode(const iocpd_framing *framing, const uint8_t *message, uint32_t bytes, uint8_t *out) {
    if (out) framing_encode(framing, message, bytes, out);
    return framing_encoded_bytes(framing, bytes);
}

iocpd_framer *iocpd_framer_new(const iocpd_framing *framing) {
    struct iocpd_framer *framer = memory_new(sizeof *framer);
    if (framer) framer->framing = *framing;
    return framer;
}

void iocpd_framer_free(iocpd_framer *framer) {
    framing_drop(&framer->rest);
    memory_free(framer);
}

uint32_t iocpd_framer_bytes(const iocpd_framer *framer) { return framer->rest ? framer->rest->bytes : 0; }

int32_t iocpd_framer_feed(iocpd_framer *framer, const uint8_t *data, uint32_t bytes, uint8_t *out, uint32_t *lengths,
                          uint32_t *count) {
    const iocpd_framing *framing = &framer->framing;
    struct frame_cut cut = framing_cut(framing, framer->rest, data, bytes);
    *count = 0;
    if (cut.count) {
        /* The frames that are whole, put together; then each message takes the place of the frames before it. */
        uint32_t kept = iocpd_framer_bytes(framer), at = 0, total = kept + cut.bytes;
        if (kept) memcpy(out, framer->rest->data, kept);
        memcpy(out + kept, data, cut.bytes);
        for (uint8_t *to = out; at < total;) {
            struct frame frame = framing_next(framing, out + at, total - at);
            memmove(to, frame.message, frame.message_bytes);
            to += frame.message_bytes;
            at += frame.bytes;
            lengths[(*count)++] = frame.message_bytes;
        }
        framing_drop(&framer->rest);
    }
    if (cut.too_large) return IOCPD_FULL;
    return framing_keep(framing, &framer->rest, data + cut.bytes, bytes - cut.bytes) ? IOCPD_OK : IOCPD_NO_MEMORY;
}
