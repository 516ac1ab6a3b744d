/* port_conformance.c: the promises of port.h, held against a driver.
 *
 *   port_conformance DRIVER            every test, each in a process of its own
 *   port_conformance DRIVER NAME       one test
 *   port_conformance DRIVER --list     the names of those that are for this driver
 *
 * Prints "ok NAME", "not ok NAME: why" or "skip NAME: why", one a line. The exit status is 0 if nothing is "not ok".
 *
 * The driver iocp-packets is iocp on sockets for which the system refuses to skip the packet of what ends at once.
 */
#include "rig.h"

#include <stdarg.h>

#ifdef _WIN32
#define IOCPD_CONFORMANCE_NO_RENAME
#include "faults.h"
#else
#include <sys/wait.h>
#endif

static const struct test *const groups[] = {accept_tests, receive_tests, hold_tests, send_tests, post_tests, life_tests};
enum { GROUPS = sizeof groups / sizeof groups[0] };

static const char *test_name = "";

/* ---- how a test ends -------------------------------------------------------------------------------------------- */

void test_failed(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("not ok %s: ", test_name);
    vprintf(format, arguments);
    printf(" (%s:%d)\n", file, line);
    va_end(arguments);
    fflush(stdout);
    _Exit(1); /* other threads still run: nothing is torn down under them */
}

void test_skipped(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("skip %s: ", test_name);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    fflush(stdout);
    _Exit(0);
}

/* ---- drivers ---------------------------------------------------------------------------------------------------- */

static const struct port_driver *driver_called(const char *name) {
#ifdef _WIN32
    if (strcmp(name, "iocp-packets") == 0) {
        faults.no_skip = true;
        return &port_iocp;
    }
    static const struct port_driver *const drivers[] = {&port_iocp};
#else
    static const struct port_driver *const drivers[] = {&port_uring, &port_epoll};
#endif
    for (size_t i = 0; i < sizeof drivers / sizeof drivers[0]; i++)
        if (strcmp(drivers[i]->name, name) == 0) return drivers[i];
    return NULL;
}

static bool is_for(const struct test *test, const struct port_driver *driver) {
    return !test->driver || strcmp(test->driver, driver->name) == 0;
}

/* ---- a driver that never comes back ----------------------------------------------------------------------------- */

enum { WATCH_S = 40 };

struct watch {
    platform_event event;
    uint32_t over; /* atomic */
    platform_thread thread;
};

static void watch_run(void *argument) {
    struct watch *watch = argument;
    int64_t until_ns = platform_monotonic_ns() + WATCH_S * SECOND_NS;
    while (!u32_load_acquire(&watch->over)) {
        platform_event_wait(watch->event, 1000);
        if (platform_monotonic_ns() > until_ns) FAIL("a call didn't come back within %d s", WATCH_S);
    }
}

static void watch_begin(struct watch *watch) {
    watch->over = 0;
    CHECK(platform_event_open(&watch->event) == 0);
    CHECK(platform_thread_start(&watch->thread, watch_run, watch, "watch") == 0);
}

static void watch_end(struct watch *watch) {
    u32_store_release(&watch->over, 1);
    platform_event_set(watch->event);
    platform_thread_join(watch->thread);
    platform_event_close(watch->event);
}

#ifdef _WIN32
/* Whether nothing was written behind a block, or to one that is freed, as far as the system looks; Wine says where. */
static bool heaps_are_whole(void) {
    HANDLE heaps[64];
    DWORD count = GetProcessHeaps(64, heaps);
    for (DWORD i = 0; i < count && i < 64; i++)
        if (!HeapValidate(heaps[i], 0, NULL)) return false;
    return true;
}
#else
static bool heaps_are_whole(void) { return true; } /* the sanitizers see it as it happens */
#endif

static int run_one(const struct test *test, const struct port_driver *driver) {
    static struct rig rig;
    const char *step = "";
    test_name = test->name;
    int error = driver->probe(&step);
    if (error) SKIP("%s does not work here: %s: error %d", driver->name, step, error);
#ifdef _WIN32
    bool handles_are_exact = false; /* Winsock opens some of its own, and keeps them */
#else
    bool handles_are_exact = true;
#endif
    uint64_t blocks = memory_blocks();
    uint32_t handles = handles_open();
    struct watch watch;
    watch_begin(&watch);
    rig_open(&rig, driver, &test->options);
    test->run(&rig);
    CHECK(heaps_are_whole());
    rig_close(&rig);
    CHECK(heaps_are_whole());
    watch_end(&watch);
    CHECK(memory_blocks() == blocks);
    if (handles_are_exact) CHECK(handles_open() == handles);
    printf("ok %s\n", test->name);
    fflush(stdout);
    return 0;
}

/* ---- every test in a process of its own ------------------------------------------------------------------------- */

static int run_apart(const char *program, const char *driver, const struct test *test) {
    test_name = test->name;
#ifdef _WIN32
    char command[1024];
    STARTUPINFOA startup = {.cb = sizeof startup};
    PROCESS_INFORMATION process;
    DWORD status = 1;
    snprintf(command, sizeof command, "\"%s\" %s %s", program, driver, test->name);
    if (!CreateProcessA(NULL, command, NULL, NULL, TRUE, 0, NULL, NULL, &startup, &process)) FAIL("CreateProcess");
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &status);
    CloseHandle(process.hThread);
    CloseHandle(process.hProcess);
    if (status > 1) printf("not ok %s: it ended with status %lu\n", test->name, status);
#else
    int status = 1;
    pid_t child = fork();
    if (child == 0) {
        execl(program, program, driver, test->name, (char *)NULL);
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) FAIL("fork");
    if (WIFSIGNALED(status)) printf("not ok %s: signal %d\n", test->name, WTERMSIG(status));
    else if (WEXITSTATUS(status) > 1) printf("not ok %s: it ended with status %d\n", test->name, WEXITSTATUS(status));
#endif
    fflush(stdout);
    return status != 0;
}

int main(int argc, char **argv) {
    const struct port_driver *driver = argc > 1 ? driver_called(argv[1]) : NULL;
    const char *wanted = argc > 2 ? argv[2] : NULL;
    if (!driver) {
        fprintf(stderr, "usage: port_conformance DRIVER [NAME | --list]; no such driver here: %s\n",
                argc > 1 ? argv[1] : "(none)");
        return 2;
    }
    bool list = wanted && strcmp(wanted, "--list") == 0;
    if (platform_sockets_begin()) return 2;
    int failures = 0;
    for (int group = 0; group < GROUPS; group++) {
        for (const struct test *test = groups[group]; test->name; test++) {
            if (!is_for(test, driver)) continue;
            if (list) printf("%s\n", test->name);
            else if (!wanted) failures += run_apart(argv[0], argv[1], test);
            else if (strcmp(wanted, test->name) == 0) return run_one(test, driver);
        }
    }
    if (list || !wanted) return failures > 0;
    fprintf(stderr, "no such test for %s: %s\n", argv[1], wanted);
    return 2;
}
