/* Loaded before the C library (LD_PRELOAD): the process is killed before a step of what it writes. TEST_CRASH names a file with
 * a struct crash, which the test writes to while the service runs. Tests only; Linux. */
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct crash {
    _Atomic int64_t steps; /* it is killed before the last of so many; 0 and below: it is not */
    char folder[500];      /* of the state: that its names are flushed is a step, too */
    char name[12];         /* what is in the path of a file whose steps count */
};

static struct crash *crash;

__attribute__((constructor)) static void map(void) {
    const char *path = getenv("TEST_CRASH");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *crash, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) crash = page;
}

static bool armed(void) { return crash && atomic_load(&crash->steps) > 0; }

static void step(const char *path) {
    if (!armed() || !(strstr(path, crash->name) || strcmp(path, crash->folder) == 0)) return;
    if (atomic_fetch_sub(&crash->steps, 1) != 1) return;
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static const char *path_of(int file, char path[1000]) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = armed() ? readlink(link, path, 999) : -1;
    path[length < 0 ? 0 : length] = 0;
    return path;
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = flags & O_CREAT ? va_arg(more, int) : 0;
    va_end(more);
    if (flags & O_CREAT) step(path);
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

/* The second step of a write is in its middle. */
ssize_t write(int file, const void *data, size_t length) {
    char path[1000];
    step(path_of(file, path));
    size_t first = armed() && strstr(path, crash->name) ? length / 2 : 0;
    ssize_t written = first ? syscall(SYS_write, file, data, first) : 0;
    if (written < 0) return written;
    step(path);
    ssize_t rest = syscall(SYS_write, file, (const char *)data + written, length - (size_t)written);
    return rest < 0 ? rest : written + rest;
}

int fsync(int file) {
    char path[1000];
    step(path_of(file, path));
    return (int)syscall(SYS_fsync, file);
}

int rename(const char *from, const char *to) {
    step(from);
    return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}

int unlink(const char *path) {
    step(path);
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
