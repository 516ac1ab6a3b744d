/* Labels: which of them a connection has, against a comparison of each with each. The input: two lists of labels, as Python gives
 * them to the engine. */
#include "labels.h"
#include "fuzz.h"

enum { LABELS = 8, TEXT = 6 };

struct list {
    uint8_t data[LABELS * (TEXT + 3)];
    uint32_t bytes, count;
    uint32_t at[LABELS + 1];
};

static void take_list(struct input *input, struct list *list, char *json, uint32_t *group_bytes) {
    uint32_t groups = take_byte(input) % (LABELS + 1), tags = take_byte(input) % (LABELS + 1 - groups);
    memset(list, 0, sizeof *list);
    *group_bytes = 0;
    for (; list->count < groups + tags; list->count++) {
        uint32_t text = take_byte(input) % (TEXT + 1);
        list->at[list->count] = list->bytes;
        list->data[list->bytes++] = list->count < groups ? 'g' : 't';
        list->data[list->bytes++] = (uint8_t)text;
        list->data[list->bytes++] = 0;
        for (uint32_t i = 0; i < text; i++) list->data[list->bytes++] = 'a' + take_byte(input) % 2;
        if (list->count < groups) *group_bytes = list->bytes;
    }
    list->at[list->count] = list->bytes;
    memset(json, 'j', 8);
}

static bool has(const struct list *list, const struct list *wanted, uint32_t number) {
    uint32_t bytes = wanted->at[number + 1] - wanted->at[number];
    for (uint32_t i = 0; i < list->count; i++)
        if (list->at[i + 1] - list->at[i] == bytes &&
            memcmp(list->data + list->at[i], wanted->data + wanted->at[number], bytes) == 0)
            return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    struct list list, wanted;
    char json[8];
    uint32_t group_bytes, ignored, found = 0;
    take_list(&input, &list, json, &group_bytes);
    take_list(&input, &wanted, json, &ignored);
    uint8_t *copy = malloc(wanted.bytes ? wanted.bytes : 1);
    memcpy(copy, wanted.data, wanted.bytes);
    struct labels *labels = labels_new(list.data, list.bytes, json, 4, sizeof json);
    CHECK(labels && labels->label_bytes == list.bytes && labels->group_bytes == group_bytes);
    CHECK(memcmp(labels->data, list.data, list.bytes) == 0 && memcmp(labels->data + list.bytes, json, sizeof json) == 0);
    for (uint32_t i = 0; i < wanted.count; i++) found += has(&list, &wanted, i);
    CHECK(labels_match(labels, copy, wanted.bytes, false) == (found == wanted.count));
    CHECK(labels_match(labels, copy, wanted.bytes, true) == (found > 0));
    CHECK(!labels_match(NULL, copy, wanted.bytes, true));
    memory_free(labels);
    free(copy);
    CHECK(memory_blocks() == 0);
    return 0;
}
