/* framing.h: where messages begin and end in a stream of bytes.
 *
 * A receive's bytes are cut after the last message that is whole; what is left is the beginning of the next one, and is kept
 * beside its connection until the rest of it comes. It is never more than one message of the largest size. Whoever has whole
 * frames, one after the other, takes the messages out of them with framing_next: without a state, in any thread.
 */
#ifndef IOCPD_FRAMING_H
#define IOCPD_FRAMING_H

#include "engine.h"
#include "platform.h"

/* The beginning of a message that is not whole yet. */
struct frame_rest {
    uint32_t bytes, capacity;
    uint8_t data[];
};

struct frame_cut {
    uint32_t bytes; /* up to here, data ends whole frames; the first of them begins with the rest */
    uint32_t count; /* of frames that are whole */
    bool too_large; /* what comes then is above the limit */
};

/* Whole frames, in two pieces: the first frame begins in the rest. */
struct frames {
    const uint8_t *rest, *data;
    uint32_t rest_bytes, bytes, count;
};

/* `rest` may be NULL. */
struct frame_cut framing_cut(const iocpd_framing *framing, const struct frame_rest *rest, const uint8_t *data, uint32_t bytes);
/* Adds to *rest, which is allocated if it is NULL. False without memory. */
bool framing_keep(const iocpd_framing *framing, struct frame_rest **rest, const uint8_t *data, uint32_t bytes);
/* Returns how many bytes it held. */
uint32_t framing_drop(struct frame_rest **rest);

struct frame {
    const uint8_t *message;
    uint32_t message_bytes;
    uint32_t bytes; /* the whole frame */
};

/* The first of the whole frames in `data`. */
struct frame framing_next(const iocpd_framing *framing, const uint8_t *data, uint32_t bytes);

/* What a message becomes to be sent. The caller has checked that it can be one. */
uint32_t framing_encoded_bytes(const iocpd_framing *framing, uint32_t message_bytes);
void framing_encode(const iocpd_framing *framing, const uint8_t *message, uint32_t message_bytes, uint8_t *out);

#endif
