/* Loaded before the C library (LD_PRELOAD): memory that runs out at one chosen allocation of the engine. Tests only; Linux. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_calloc(size_t count, size_t bytes);

static long left = -1; /* allocations until the one that fails; -1: none will */
static int failed;

/* The engine's n-th allocation from now on fails, from 0; -1: none. Gives whether the last one that was asked for has. */
int exhaust(long n) {
    int before = __atomic_exchange_n(&failed, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&left, n, __ATOMIC_SEQ_CST);
    return before;
}

/* All of the engine's memory comes from memory_new (platform.c), which calls this. */
void *calloc(size_t count, size_t bytes) {
    Dl_info caller;
    if (__atomic_load_n(&left, __ATOMIC_SEQ_CST) >= 0 && dladdr(__builtin_return_address(0), &caller) && caller.dli_fname &&
        strstr(caller.dli_fname, "/_native.") && __atomic_fetch_sub(&left, 1, __ATOMIC_SEQ_CST) == 0) {
        __atomic_store_n(&failed, 1, __ATOMIC_SEQ_CST);
        return NULL;
    }
    return __libc_calloc(count, bytes);
}
