/* common.h: what the load programs share. Each includes it once; everything is private to the program. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DIAL_TRIES_MAX = 100, DIAL_PAUSE_US = 20000 };
enum { BUCKETS_PER_OCTAVE = 32, BUCKETS = 64 * BUCKETS_PER_OCTAVE };

static _Noreturn void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(2);
}

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static inline struct sockaddr_in loopback(uint32_t host, int port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + host)};
}

/* A blocking connection from 127.0.0.`host` to 127.0.0.1. A server that is busy accepting may refuse for a moment. */
static inline int dial_from(uint32_t host, int port) {
    struct sockaddr_in from = loopback(host, 0), address = loopback(1, port);
    int one = 1;
    for (int tries = 0; tries < DIAL_TRIES_MAX; tries++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) die("socket");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        /* The port only when the peer is known, so that there are as many ports for each peer. */
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (host != 1 && bind(fd, (struct sockaddr *)&from, sizeof from)) die("bind");
        if (!connect(fd, (struct sockaddr *)&address, sizeof address)) return fd;
        close(fd);
        usleep(DIAL_PAUSE_US);
    }
    die("connect");
}

static inline int dial(int port) { return dial_from(1, port); }

/* User and system time of all threads of a process since it began; 0 for pid 0. */
static inline double process_cpu_s(int pid) {
    char path[64], line[1024];
    unsigned long user = 0, system = 0;
    if (!pid) return 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    /* The name, in brackets, may hold anything; the fields after it are fixed. */
    const char *rest = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    if (rest) sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    fclose(file);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* Times in buckets that grow with their value: 32 to each power of two, so a percentile is right within 3 %. */
struct histogram {
    uint64_t count, max_ns;
    uint64_t buckets[BUCKETS];
};

static inline unsigned bucket_of(uint64_t ns) {
    if (ns < BUCKETS_PER_OCTAVE) return (unsigned)ns;
    int exponent = 63 - __builtin_clzll(ns);
    return (unsigned)(exponent - 4) * BUCKETS_PER_OCTAVE + ((ns >> (exponent - 5)) & (BUCKETS_PER_OCTAVE - 1));
}

static inline uint64_t bucket_ns(unsigned bucket) {
    if (bucket < BUCKETS_PER_OCTAVE) return bucket;
    unsigned exponent = bucket / BUCKETS_PER_OCTAVE + 4;
    return (uint64_t)(BUCKETS_PER_OCTAVE + bucket % BUCKETS_PER_OCTAVE) << (exponent - 5);
}

static inline void histogram_add(struct histogram *histogram, uint64_t ns) {
    histogram->buckets[bucket_of(ns)]++;
    histogram->count++;
    if (ns > histogram->max_ns) histogram->max_ns = ns;
}

static inline double percentile_us(const struct histogram *histogram, double share) {
    uint64_t seen = 0;
    for (unsigned b = 0; b < BUCKETS; b++) {
        seen += histogram->buckets[b];
        if (histogram->count && (double)seen >= share * (double)histogram->count) return (double)bucket_ns(b) / 1e3;
    }
    return 0;
}

#endif
