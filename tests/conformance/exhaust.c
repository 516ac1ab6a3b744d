/* Memory that runs out at one chosen allocation of the engine. Tests only. All of the engine's memory comes from memory_new
 * (platform.c), which calls calloc. On Linux this is loaded before the C library (LD_PRELOAD) and has a calloc of its own; on
 * Windows it puts one in its place in the table of the functions that the engine's module imports. */
#ifdef _WIN32
#include <string.h>
#include <windows.h>

#define EXPORT __declspec(dllexport)
#define LOAD(word) InterlockedCompareExchange(word, 0, 0)
#define EXCHANGE(word, value) InterlockedExchange(word, value)
#define TAKE_ONE(word) InterlockedExchangeAdd(word, -1)
#else
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT
#define LOAD(word) __atomic_load_n(word, __ATOMIC_SEQ_CST)
#define EXCHANGE(word, value) __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST)
#define TAKE_ONE(word) __atomic_fetch_sub(word, 1, __ATOMIC_SEQ_CST)
#endif

static long left = -1; /* allocations until the one that fails; -1: none will */
static long failed;

/* The engine's n-th allocation from now on fails, from 0; -1: none. Gives whether the last one that was asked for has. */
EXPORT int exhaust(long n) {
    int before = (int)EXCHANGE(&failed, 0);
    EXCHANGE(&left, n);
    return before;
}

static int this_one_fails(void) {
    if (TAKE_ONE(&left) != 0) return 0;
    EXCHANGE(&failed, 1);
    return 1;
}

#ifdef _WIN32

static void *(*real_calloc)(size_t count, size_t bytes);

static void *failing_calloc(size_t count, size_t bytes) {
    return LOAD(&left) >= 0 && this_one_fails() ? NULL : real_calloc(count, bytes);
}

/* 1: the module's calloc is ours from now on; 0: it imports none. */
EXPORT int exhaust_attach(void *module) {
    char *base = module;
    IMAGE_NT_HEADERS *headers = (IMAGE_NT_HEADERS *)(base + ((IMAGE_DOS_HEADER *)module)->e_lfanew);
    DWORD imports = headers->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_IMPORT].VirtualAddress;
    for (IMAGE_IMPORT_DESCRIPTOR *library = (IMAGE_IMPORT_DESCRIPTOR *)(base + imports); library->Name; library++) {
        IMAGE_THUNK_DATA *name = (IMAGE_THUNK_DATA *)(base + library->OriginalFirstThunk);
        IMAGE_THUNK_DATA *function = (IMAGE_THUNK_DATA *)(base + library->FirstThunk);
        for (; name->u1.AddressOfData; name++, function++) {
            IMAGE_IMPORT_BY_NAME *import = (IMAGE_IMPORT_BY_NAME *)(base + name->u1.AddressOfData);
            if (IMAGE_SNAP_BY_ORDINAL(name->u1.Ordinal) || strcmp((char *)import->Name, "calloc") != 0) continue;
            DWORD before;
            if (!VirtualProtect(&function->u1, sizeof function->u1, PAGE_READWRITE, &before)) return 0;
            memcpy(&real_calloc, &function->u1, sizeof real_calloc);
            void *(*ours)(size_t, size_t) = failing_calloc;
            memcpy(&function->u1, &ours, sizeof ours);
            return VirtualProtect(&function->u1, sizeof function->u1, before, &before) != 0;
        }
    }
    return 0;
}

#else

extern void *__libc_calloc(size_t count, size_t bytes);

void *calloc(size_t count, size_t bytes) {
    Dl_info caller;
    if (LOAD(&left) >= 0 && dladdr(__builtin_return_address(0), &caller) && caller.dli_fname &&
        strstr(caller.dli_fname, "/_native.") && this_one_fails())
        return NULL;
    return __libc_calloc(count, bytes);
}

#endif
