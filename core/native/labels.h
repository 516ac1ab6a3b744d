/* labels.h: a connection's tags and groups.
 *
 * A block of labels never changes; another one takes its place. Only the connection's owner changes the connection's pointer
 * (or moves it to the closed record), and it frees nothing: what is replaced goes to the engine's list of old blocks. Whoever
 * reads another thread's blocks holds labels_mutex, and only with it held are old blocks freed. So a worker never waits for a
 * reader, and a reader never sees freed memory.
 *
 * A label is a kind ('g' or 't'), its length in two bytes (low, high) and its text: a group's name, or a tag as key:value.
 */
#ifndef IOCPD_LABELS_H
#define IOCPD_LABELS_H

#include "platform.h"

struct iocpd_engine;

struct labels {
    struct labels *next_old;
    uint64_t version;     /* never the same again */
    uint32_t group_bytes; /* the labels that are groups come first */
    uint32_t label_bytes;
    uint32_t json_bytes; /* the same as JSON: ,"tags":{...} and then ,"groups":[...] */
    uint32_t tag_json_bytes;
    uint8_t data[]; /* labels, then JSON */
};

/* NULL without memory. */
struct labels *labels_new(const uint8_t *labels, uint32_t label_bytes, const char *json, uint32_t tag_json_bytes,
                          uint32_t json_bytes);
/* Every label of `wanted` is in `labels`, or with `any` at least one. `labels` may be NULL. */
bool labels_match(const struct labels *labels, const uint8_t *wanted, uint32_t wanted_bytes, bool any);
/* Any thread, without a lock: nobody will find this block any more (NULL is allowed). */
void labels_retire(struct iocpd_engine *engine, struct labels *labels);

void labels_lock(struct iocpd_engine *engine); /* and frees old blocks */
void labels_unlock(struct iocpd_engine *engine);

#endif
