/* labels.c: see labels.h. */
#include "labels.h"

#include "internal.h"

enum { HEAD = 3 }; /* kind and length */

static uint32_t text_bytes(const uint8_t *label) { return label[1] | (uint32_t)label[2] << 8; }

static uint32_t whole_bytes(const uint8_t *label) { return HEAD + text_bytes(label); }

struct labels *labels_new(const uint8_t *data, uint32_t label_bytes, const char *json, uint32_t tag_json_bytes,
                          uint32_t json_bytes) {
    struct labels *labels = memory_new(sizeof *labels + label_bytes + json_bytes);
    if (!labels) return NULL;
    memcpy(labels->data, data, label_bytes);
    memcpy(labels->data + label_bytes, json, json_bytes);
    labels->label_bytes = label_bytes;
    labels->json_bytes = json_bytes;
    labels->tag_json_bytes = tag_json_bytes;
    while (labels->group_bytes < label_bytes && data[labels->group_bytes] == 'g')
        labels->group_bytes += whole_bytes(data + labels->group_bytes);
    return labels;
}

static bool has(const struct labels *labels, const uint8_t *label) {
    uint32_t bytes = whole_bytes(label);
    for (uint32_t at = 0; at < labels->label_bytes; at += whole_bytes(labels->data + at))
        if (memcmp(labels->data + at, label, HEAD) == 0 && memcmp(labels->data + at, label, bytes) == 0) return true;
    return false;
}

bool labels_match(const struct labels *labels, const uint8_t *wanted, uint32_t wanted_bytes, bool any) {
    if (!labels) return false;
    for (uint32_t at = 0; at < wanted_bytes; at += whole_bytes(wanted + at))
        if (has(labels, wanted + at) == any) return any;
    return !any;
}

void labels_retire(struct iocpd_engine *engine, struct labels *labels) {
    if (!labels) return;
    void *head;
    do {
        head = pointer_load_acquire(&engine->old_labels);
        labels->next_old = head;
    } while (!pointer_swap_if(&engine->old_labels, head, labels));
}

void labels_lock(struct iocpd_engine *engine) {
    platform_mutex_lock(&engine->labels_mutex);
    struct labels *old = pointer_exchange(&engine->old_labels, NULL);
    while (old) {
        struct labels *next = old->next_old;
        memory_free(old);
        old = next;
    }
}

void labels_unlock(struct iocpd_engine *engine) { platform_mutex_unlock(&engine->labels_mutex); }
