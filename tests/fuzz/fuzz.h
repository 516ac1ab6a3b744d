/* fuzz.h: what the fuzz targets share: numbers out of the fuzzer's bytes, and a check that says what did not hold. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                                         \
    do {                                                                                                                         \
        if (condition) break;                                                                                                    \
        fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);                                           \
        abort();                                                                                                                 \
    } while (0)

struct input {
    const uint8_t *at;
    size_t left;
};

/* Beyond the end there are zeros. */
static inline uint8_t take_byte(struct input *input) {
    if (input->left == 0) return 0;
    input->left--;
    return *input->at++;
}

static inline uint64_t take_number(struct input *input, int bytes) {
    uint64_t number = 0;
    while (bytes-- > 0) number = number << 8 | take_byte(input);
    return number;
}

static inline void take_bytes(struct input *input, uint8_t *out, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) out[i] = take_byte(input);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#endif
