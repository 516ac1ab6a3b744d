/* Framing: a stream that comes in pieces gives the messages that it has, against a reader of the whole stream. The input: kind,
 * limits, delimiter, sizes of pieces; then the stream. */
#include "engine.h"
#include "fuzz.h"

#include "platform.h"

enum { MESSAGE_BYTES_MAX = 64, PIECES = 16 };

enum found { WHOLE, MORE, TOO_LARGE };

struct message_at {
    size_t begin, bytes, frame_bytes;
};

/* The first message of the stream from its beginning. */
static enum found read_one(const iocpd_framing *framing, const uint8_t *data, size_t bytes, struct message_at *message) {
    size_t most = framing->max_bytes, length = 0;
    *message = (struct message_at){0};
    switch (framing->kind) {
    case IOCPD_LINES:
        while (length < bytes && data[length] != '\n') length++;
        message->frame_bytes = length + 1;
        message->bytes = length - (length > 0 && data[length - 1] == '\r');
        if (message->bytes > most) return TOO_LARGE;
        return length < bytes ? WHOLE : MORE;
    case IOCPD_LENGTH_PREFIXED:
        if (bytes < framing->prefix_bytes) return MORE;
        for (int i = 0; i < framing->prefix_bytes; i++)
            length |= (size_t)data[i] << 8 * (framing->little_endian ? i : framing->prefix_bytes - 1 - i);
        if (length > most) return TOO_LARGE;
        *message = (struct message_at){framing->prefix_bytes, length, framing->prefix_bytes + length};
        return message->frame_bytes <= bytes ? WHOLE : MORE;
    case IOCPD_FIXED: *message = (struct message_at){0, most, most}; return most <= bytes ? WHOLE : MORE;
    case IOCPD_DELIMITED:
        for (size_t size = framing->delimiter_bytes; length + size <= bytes; length++) {
            if (memcmp(data + length, framing->delimiter, size) != 0) continue;
            *message = (struct message_at){0, length, length + size};
            return length > most ? TOO_LARGE : WHOLE;
        }
        return length > most ? TOO_LARGE : MORE;
    default: *message = (struct message_at){0, bytes, bytes}; return bytes ? WHOLE : MORE;
    }
}

static iocpd_framing framing_of(struct input *input) {
    static const uint8_t prefixes[] = {1, 2, 4};
    iocpd_framing framing = {.kind = IOCPD_LINES + take_byte(input) % 4, .max_bytes = 1 + take_byte(input) % MESSAGE_BYTES_MAX};
    uint8_t options = take_byte(input);
    framing.crlf = options & 1;
    framing.little_endian = options >> 1 & 1;
    if (framing.kind == IOCPD_LENGTH_PREFIXED) framing.prefix_bytes = prefixes[(options >> 2) % 3];
    if (framing.kind == IOCPD_DELIMITED) {
        framing.delimiter_bytes = 1 + (options >> 2) % IOCPD_DELIMITER_BYTES;
        take_bytes(input, framing.delimiter, framing.delimiter_bytes);
    }
    return framing;
}

/* What is sent is received again, if it holds nothing that ends it. */
static void there_and_back(const iocpd_framing *framing, const uint8_t *data, const struct message_at *message) {
    uint8_t wire[MESSAGE_BYTES_MAX + IOCPD_DELIMITER_BYTES + 4];
    struct message_at again;
    uint32_t bytes = iocpd_frame_encode(framing, data + message->begin, (uint32_t)message->bytes, NULL);
    CHECK(bytes <= sizeof wire && iocpd_frame_encode(framing, data + message->begin, (uint32_t)message->bytes, wire) == bytes);
    CHECK(read_one(framing, wire, bytes, &again) == WHOLE);
    if (framing->kind == IOCPD_LINES && !framing->crlf && message->bytes && data[message->bytes - 1] == '\r') return;
    /* A message that ends with the beginning of the delimiter may end sooner. */
    if (framing->kind == IOCPD_DELIMITED && again.bytes < message->bytes) return;
    CHECK(again.bytes == message->bytes && again.frame_bytes == bytes);
    CHECK(memcmp(wire + again.begin, data + message->begin, message->bytes) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    iocpd_framing framing = framing_of(&input);
    uint8_t pieces[PIECES];
    take_bytes(&input, pieces, sizeof pieces);
    const uint8_t *stream = input.at;
    size_t bytes = input.left, fed = 0, read = 0;
    iocpd_framer *framer = iocpd_framer_new(&framing);
    for (int turn = 0; fed < bytes; turn++) {
        uint32_t share = 1 + pieces[turn % PIECES], count, kept = iocpd_framer_bytes(framer);
        if (share > bytes - fed) share = (uint32_t)(bytes - fed);
        uint8_t *piece = malloc(share), *out = malloc(kept + share);
        uint32_t *lengths = malloc(share * sizeof *lengths);
        memcpy(piece, stream + fed, share);
        fed += share;
        int32_t status = iocpd_framer_feed(framer, piece, share, out, lengths, &count);
        const uint8_t *at = out;
        struct message_at message;
        for (uint32_t i = 0; i < count; i++) {
            CHECK(read_one(&framing, stream + read, fed - read, &message) == WHOLE);
            CHECK(lengths[i] == message.bytes && memcmp(at, stream + read + message.begin, message.bytes) == 0);
            there_and_back(&framing, stream + read, &message);
            at += lengths[i];
            read += message.frame_bytes;
        }
        enum found then = fed > read ? read_one(&framing, stream + read, fed - read, &message) : MORE;
        CHECK(then != WHOLE && (status == IOCPD_FULL) == (then == TOO_LARGE));
        CHECK(status == IOCPD_FULL || (status == IOCPD_OK && iocpd_framer_bytes(framer) == fed - read));
        free(piece);
        free(out);
        free(lengths);
        if (status == IOCPD_FULL) break;
    }
    iocpd_framer_free(framer);
    CHECK(iocpd_allocations() == 0);
    return 0;
}
