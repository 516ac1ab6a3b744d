/* streams.c: what is written to connections, and the check of what comes back.
 *
 * Each byte tells where it belongs. A client of an unframed service writes bytes of 7 bits that depend on its connection and
 * their place. With framing (and for a relay, whose clients' messages are then never cut by the kernel) it writes messages that
 * say who wrote them, which one it is and how long they are:
 *
 *     m cccc ssssss llll filler...        connection, sequence, length: hexadecimal; "b" and a number: a service's broadcast
 *
 * What an operator says begins with a byte that nothing else begins with, and then its number and length; so each copy of it can
 * be told from what clients wrote, however they are mixed, as long as nothing is torn.
 */
#include "world.h"

#include <stdio.h>

enum { SAID_MARK = 0xf5, HEAD_BYTES = 15, SERVICE_SENDER = 0xffff };

struct said said[SAID_MAX];
uint32_t said_count;

void streams_reset(void) {
    memset(said, 0, said_count * sizeof *said);
    said_count = 0;
}

static uint32_t mix(uint32_t word) {
    word = (word ^ word >> 16) * 0x7feb352du;
    word = (word ^ word >> 15) * 0x846ca68bu;
    return word ^ word >> 16;
}

static uint8_t raw_byte(uint32_t number, uint64_t at) { return mix(number * 0x9e3779b9u + (uint32_t)at) & 0x7f; }
static uint8_t said_byte(uint32_t number, uint32_t at) { return 0x80 | (uint8_t)mix(number * 131071u + at); }
static uint8_t filler(uint32_t sender, uint32_t sequence, uint32_t at) {
    return 'a' + (uint8_t)(mix(sender * 8191u + sequence * 127u + at) % 26);
}

/* Messages that only their length cuts: an unframed relay passes on what a receive brings. */
static bool is_raw(const iocpd_listener_config *listener) {
    return listener->framing.kind == IOCPD_RAW && listener->service != IOCPD_RELAY && listener->service != IOCPD_RELAY_GROUP;
}

static uint32_t suffix_of(const iocpd_framing *framing, uint8_t *out) {
    if (framing->kind == IOCPD_DELIMITED) memcpy(out, framing->delimiter, framing->delimiter_bytes);
    if (framing->kind == IOCPD_DELIMITED) return framing->delimiter_bytes;
    if (framing->kind != IOCPD_LINES) return 0;
    memcpy(out, framing->crlf ? "\r\n" : "\n", framing->crlf ? 2 : 1);
    return framing->crlf ? 2 : 1;
}

static uint32_t prefix_of(const iocpd_framing *framing, uint32_t bytes, uint8_t *out) {
    if (framing->kind != IOCPD_LENGTH_PREFIXED) return 0;
    for (uint32_t i = 0; i < framing->prefix_bytes; i++)
        out[framing->little_endian ? i : framing->prefix_bytes - 1u - i] = (uint8_t)(bytes >> 8 * i);
    return framing->prefix_bytes;
}

static void message_write(uint8_t *out, char kind, uint32_t sender, uint32_t sequence, uint32_t bytes) {
    char head[HEAD_BYTES + 1];
    snprintf(head, sizeof head, "%c%04x%06x%04x", kind, sender & 0xffff, sequence & 0xffffff, bytes & 0xffff);
    memcpy(out, head, HEAD_BYTES);
    for (uint32_t at = HEAD_BYTES; at < bytes; at++) out[at] = filler(sender, sequence, at);
}

static uint32_t message_bytes_choose(const iocpd_framing *framing, enum dice dice) {
    if (framing->kind == IOCPD_FIXED || framing->kind == IOCPD_RAW) return framing->max_bytes;
    uint32_t bytes =
        (uint32_t)roll_between(dice, HEAD_BYTES, one_in(dice, 4) || framing->max_bytes < 60 ? framing->max_bytes : 60);
    return (bytes & 0xff) == SAID_MARK ? bytes - 1 : bytes; /* no prefix begins with the mark */
}

/* ---- what clients write ----------------------------------------------------------------------------------------------------- */

const uint8_t *writer_next(struct writer *writer, uint32_t *bytes) {
    if (writer->frame_at < writer->frame_bytes) {
        *bytes = writer->frame_bytes - writer->frame_at;
        return writer->frame + writer->frame_at;
    }
    const iocpd_framing *framing = &writer->listener->framing;
    writer->frame_at = 0;
    if (is_raw(writer->listener)) {
        writer->frame_bytes = (uint32_t)roll_between(DICE_CLIENTS, 1, one_in(DICE_CLIENTS, 4) ? 4000 : 200);
        for (uint32_t i = 0; i < writer->frame_bytes; i++) writer->frame[i] = raw_byte(writer->number, writer->written + i);
    } else {
        uint32_t message = message_bytes_choose(framing, DICE_CLIENTS);
        bool cuts = framing->kind == IOCPD_LINES || framing->kind == IOCPD_LENGTH_PREFIXED || framing->kind == IOCPD_DELIMITED;
        bool can = framing->kind != IOCPD_LENGTH_PREFIXED || framing->prefix_bytes > 1;
        if (cuts && can && one_in(DICE_CLIENTS, 60)) {
            message = framing->max_bytes + (uint32_t)roll_between(DICE_CLIENTS, 1, 300);
            writer->too_large = true;
        }
        uint32_t at = prefix_of(framing, message, writer->frame);
        message_write(writer->frame + at, 'm', writer->number, writer->messages, message);
        writer->frame_bytes = at + message;
        writer->frame_bytes += suffix_of(framing, writer->frame + writer->frame_bytes);
        if (writer->messages == MESSAGES_MAX_SIM) sim_fail("a client has written too many messages");
        writer->lengths[writer->messages++] = message > framing->max_bytes ? 0 : (uint16_t)writer->frame_bytes;
    }
    *bytes = writer->frame_bytes;
    return writer->frame;
}

void writer_wrote(struct writer *writer, uint32_t bytes) {
    writer->written += bytes;
    writer->frame_at += bytes;
}

/* ---- what is said to connections --------------------------------------------------------------------------------------------- */

uint8_t *say(uint32_t bytes, uint32_t *number) {
    static uint8_t text[4096];
    if (said_count == SAID_MAX) return NULL;
    *number = said_count++;
    said[*number] = (struct said){.listener = -1, .bytes = bytes};
    text[0] = SAID_MARK;
    for (uint32_t i = 0; i < 4; i++) text[1 + i] = (uint8_t)(*number >> 8 * i);
    text[5] = (uint8_t)bytes;
    text[6] = (uint8_t)(bytes >> 8);
    for (uint32_t at = SAID_BYTES_MIN; at < bytes; at++) text[at] = said_byte(*number, at);
    return text;
}

uint32_t say_message(uint32_t number, uint8_t *out) {
    const iocpd_framing *framing = &world.listeners[said[number].listener].framing;
    uint32_t bytes = message_bytes_choose(framing, DICE_OPERATORS);
    message_write(out, 'b', SERVICE_SENDER, number, bytes);
    said[number].bytes = bytes;
    return bytes;
}

/* ---- what connections get ------------------------------------------------------------------------------------------------------ */

static void copy_seen(const struct reader *reader, uint32_t number, uint32_t bytes) {
    if (number >= said_count) sim_fail("connection %u gets something that nobody has said (%u)", reader->number, number);
    struct said *one = &said[number];
    const struct witness *witness = &witnesses[reader->number];
    if (one->cancelled) sim_fail("connection %u gets %u, though that command was refused", reader->number, number);
    if (one->bytes != bytes)
        sim_fail("connection %u gets %u bytes of %u instead of %u", reader->number, bytes, number, one->bytes);
    if (one->seen[reader->number]) sim_fail("connection %u gets %u twice", reader->number, number);
    if (one->token && one->token != witness->token)
        sim_fail("connection %u gets %u, which was for somebody else", reader->number, number);
    if (one->listener >= 0 && reader->listener != &world.listeners[one->listener])
        sim_fail("connection %u gets %u, which was for listener %d", reader->number, number, one->listener);
    one->seen[reader->number] = 1;
    one->written++;
    sim_trace("connection %u: is sent all of %u", reader->number, number);
}

static uint32_t hexadecimal(const uint8_t *text, uint32_t digits) {
    uint32_t value = 0;
    for (uint32_t i = 0; i < digits; i++) {
        uint8_t digit = text[i];
        value = value << 4 | (digit >= 'a' && digit <= 'f'   ? digit - 'a' + 10u
                              : digit >= '0' && digit <= '9' ? digit - (uint32_t)'0'
                                                             : 0xffffu);
    }
    return value;
}

/* A message has come whole. */
static void message_seen(struct reader *reader, const uint8_t *message, uint32_t bytes) {
    uint32_t sender = hexadecimal(message + 1, 4), sequence = hexadecimal(message + 5, 6);
    for (uint32_t at = HEAD_BYTES; at < bytes; at++)
        if (message[at] != filler(sender, sequence, at))
            sim_fail("connection %u: byte %u of a message is wrong", reader->number, at);
    if (message[0] == 'b') {
        copy_seen(reader, sequence, bytes);
        return;
    }
    bool relayed = reader->listener->service == IOCPD_RELAY || reader->listener->service == IOCPD_RELAY_GROUP;
    if (sender >= SIM_STREAMS_MAX) sim_fail("connection %u gets a message of nobody", reader->number);
    if (!relayed) {
        if (sender != reader->number) sim_fail("connection %u gets what %u has written", reader->number, sender);
        if (sequence != reader->messages)
            sim_fail("connection %u gets message %u of its own instead of %u", reader->number, sequence, reader->messages);
        reader->messages++;
        return;
    }
    if (sender == reader->number) sim_fail("connection %u is sent its own message by a relay", reader->number);
    if (witnesses[sender].writer.listener != reader->listener)
        sim_fail("connection %u gets a message of %u, which has another listener", reader->number, sender);
    if (reader->listener->service == IOCPD_RELAY && reader->last[sender] && sequence != reader->last[sender])
        sim_fail("connection %u gets message %u of %u instead of %u", reader->number, sequence, sender, reader->last[sender]);
    if (sequence < reader->last[sender]) sim_fail("connection %u gets a message of %u once more", reader->number, sender);
    reader->last[sender] = sequence + 1;
}

/* How long the unit will be that has begun; 0: too little has come to know it. */
static uint32_t unit_total(struct reader *reader) {
    const uint8_t *unit = reader->unit;
    if (unit[0] == SAID_MARK) return reader->unit_bytes < SAID_BYTES_MIN ? 0 : unit[5] | (uint32_t)unit[6] << 8;
    const iocpd_framing *framing = &reader->listener->framing;
    uint32_t prefix = framing->kind == IOCPD_LENGTH_PREFIXED ? framing->prefix_bytes : 0;
    if (reader->unit_bytes < prefix + HEAD_BYTES) return 0;
    uint8_t expected[8], kind = unit[prefix];
    uint32_t bytes = hexadecimal(unit + prefix + 11, 4);
    if ((kind != 'm' && kind != 'b') || bytes < HEAD_BYTES || bytes > 4000)
        sim_fail("connection %u gets what is no message", reader->number);
    if (prefix_of(framing, bytes, expected) && memcmp(expected, unit, prefix) != 0)
        sim_fail("connection %u gets a message with a wrong prefix", reader->number);
    return prefix + bytes + suffix_of(framing, expected);
}

static void unit_seen(struct reader *reader) {
    const uint8_t *unit = reader->unit;
    uint32_t total = reader->unit_bytes;
    if (unit[0] == SAID_MARK) {
        uint32_t number = unit[1] | (uint32_t)unit[2] << 8 | (uint32_t)unit[3] << 16 | (uint32_t)unit[4] << 24;
        for (uint32_t at = SAID_BYTES_MIN; at < total; at++)
            if (unit[at] != said_byte(number, at)) sim_fail("connection %u: byte %u of %u is wrong", reader->number, at, number);
        copy_seen(reader, number, total);
        return;
    }
    const iocpd_framing *framing = &reader->listener->framing;
    uint8_t suffix[8];
    uint32_t suffix_bytes = suffix_of(framing, suffix),
             prefix = framing->kind == IOCPD_LENGTH_PREFIXED ? framing->prefix_bytes : 0;
    if (memcmp(unit + total - suffix_bytes, suffix, suffix_bytes) != 0)
        sim_fail("connection %u: a message does not end as it should", reader->number);
    message_seen(reader, unit + prefix, total - prefix - suffix_bytes);
}

static void unit_byte(struct reader *reader, uint8_t byte) {
    if (reader->unit_bytes == sizeof reader->unit) sim_fail("connection %u gets a message without an end", reader->number);
    reader->unit[reader->unit_bytes++] = byte;
    if (reader->listener->service == IOCPD_DISCARD && reader->unit[0] != SAID_MARK)
        sim_fail("connection %u gets bytes from a service that sends none", reader->number);
    if (unit_total(reader) != reader->unit_bytes) return;
    unit_seen(reader);
    reader->units++;
    reader->unit_bytes = 0;
}

void reader_take(struct reader *reader, const uint8_t *data, uint32_t bytes) {
    bool raw_echo = reader->listener->service == IOCPD_ECHO && is_raw(reader->listener);
    for (uint32_t i = 0; i < bytes; i++) {
        if (!raw_echo || reader->unit_bytes || data[i] == SAID_MARK) {
            unit_byte(reader, data[i]);
        } else {
            if (data[i] != raw_byte(reader->number, reader->echoed))
                sim_fail("connection %u: byte %llu of its echo is wrong", reader->number, (unsigned long long)reader->echoed);
            reader->echoed++;
        }
    }
}

bool reader_between(const struct reader *reader) { return reader->unit_bytes == 0; }
