/* drain.h: drain and stop, step by step; see enum iocpd_phase. Worker 0 leads: it owns the phase, the others follow it.
 *
 * 1. LB_DELAY: not ready, still accepting. 2. LISTENERS: accepts are cancelled and reaped, the sockets closed. 3. GRACE:
 * clients may leave. 4. EVICT: each worker drains its connections, at a rate if one is set. 5. HARD, at the deadline: each
 * worker cancels what is left. DRAINED when no connection is left, and then, for a stop, EXITING: iocpd_join posts one exit
 * completion to each port and joins the threads.
 */
#ifndef IOCPD_DRAIN_H
#define IOCPD_DRAIN_H

#include "engine.h"
#include "platform.h"

struct worker;
struct payload;

struct drain {
    /* Shared: written by worker 0, read by anyone. */
    uint32_t phase, stop, rate_per_s;
    uint64_t initial, cancelled; /* the latter: atomic, bumped by every worker */
    uint64_t started_ns, deadline_ns, ended_ns, evict_started_ns;
    /* Between workers only, so nobody holds it for longer than a few instructions. */
    platform_mutex mutex;
    struct payload *farewell;
    /* Worker 0's. */
    int64_t lb_until_ns, grace_ns, grace_until_ns;
};

/* A drain, a stop or a cancel on its way to worker 0; the engine has one, for one caller at a time. */
enum control_kind { CONTROL_DRAIN, CONTROL_CANCEL };

/* Worker 0: answers engine->control. */
void drain_control(struct worker *worker);
/* Every worker, each turn while a drain is under way. Returns how long it may wait at most (< 0: as long as it likes). */
int64_t drain_turn(struct worker *worker);

#endif
