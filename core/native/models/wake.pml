/* wake.pml: how a thread gives a worker a message and wakes it, and how the worker goes to sleep. For spin; .ci/run runs it.
 *
 * Each proctype is a function of worker.c, or of port_iocp.c where that says so; each statement is one access to memory that others
 * see. The accesses that decide are sequentially consistent there (u32_exchange, u32_load_ordered, pointer_swap_if), so
 * interleavings are all that there is. The one relaxed load that matters, at the beginning of a turn, may see an old value here.
 *
 * What holds: when nothing moves any more, no message waits; and nobody touches the port once it is closed.
 *
 * A name in MUTANTS, defined, breaks one rule, and spin must then find the harm:
 *
 *   LOOK_THEN_SLEEP   the worker looks at `attention` before it says that it sleeps
 *   LOOK_THEN_ASK     the poster looks whether it sleeps before it asks for attention
 *   CLEAR_LATE        the turn clears `attention` after it has looked into the inbox
 *   BUSY_SLEEPS       the worker sleeps although its backlog has something
 *   POSTED_KEPT       take_packets does not clear `wake_posted`
 *   LOST_FOR_EVER     iocp_port_post does not note that a post has failed
 *   POLL_IS_LOOK      the worker takes a look of its busy polling for the one that must follow the word that it sleeps
 *   LEAVE_EARLY       worker_post counts itself out before it wakes
 */

#define POSTERS 2
#define MESSAGES 1 /* of each poster */
#define PER_TURN 1 /* MESSAGES_PER_TURN */

byte inbox, backlog, taken; /* how many messages are where; `inbox` is worker->inbox */
bool inbox_closed;
bool attention, sleeping;
byte posters;
bool closed; /* the port */

/* port_iocp.c. The eventfd of port_linux.h is the same without wake_posted and without posts that fail. */
byte packets; /* KEY_WAKE, in the kernel's queue */
bool wake_posted, wake_lost;
bool may_fail = true; /* PostQueuedCompletionStatus: once is enough */

inline exchange(flag, value, before) {
    atomic { before = flag; flag = value }
}

inline iocp_port_post(before) {
    assert(!closed);
    exchange(wake_posted, 1, before);
    if
    :: before -> skip
    :: else ->
        if
        :: packets++
        :: may_fail -> may_fail = false;
#ifndef LOST_FOR_EVER
            wake_lost = true
#endif
        fi
    fi
}

inline worker_wake(before) {
#ifdef LOOK_THEN_ASK
    exchange(sleeping, 0, before);
    attention = true;
#else
    attention = true;
    exchange(sleeping, 0, before);
#endif
    if
    :: before -> iocp_port_post(before)
    :: else -> skip
    fi
}

inline worker_post(open, before) {
    posters++;
    atomic {
        open = !inbox_closed;
        if
        :: open -> inbox++
        :: else -> skip
        fi
    }
#ifdef LEAVE_EARLY
    posters--;
#endif
    if
    :: open -> worker_wake(before)
    :: else -> skip
    fi;
#ifndef LEAVE_EARLY
    posters--
#endif
}

proctype poster() {
    byte left = MESSAGES;
    bool open, before;
    do
    :: left > 0 -> left--; worker_post(open, before)
    :: else -> break
    od
}

/* What a wake is not: a packet of some socket ends a wait too. */
bool io_packet;
proctype kernel() { io_packet = true }

inline inbox_turn() {
    byte round = 0;
    do
    :: round < PER_TURN && !backlog && inbox -> atomic { backlog = inbox; inbox = 0 } /* one exchange */
    :: round < PER_TURN && backlog -> backlog--; taken++; round++
    :: else -> break
    od;
    round = 0
}

inline take_packets() {
    if
    :: packets -> packets--;
#ifndef POSTED_KEPT
        wake_posted = false
#endif
    :: else -> skip
    fi;
    io_packet = false;
    if
    :: wake_lost -> wake_lost = false; wake_posted = false
    :: else -> skip
    fi
}

/* The engine has stopped: the worker's thread has ended, and then its inbox closes (engine.c). */
bool stop;
proctype stopper() { stop = true }

inline worker_close_inbox() {
    atomic { taken = taken + inbox + backlog; inbox = 0; backlog = 0; inbox_closed = true }
    posters == 0; /* platform_thread_yield until then */
    closed = true
}

proctype worker() {
    bool wait;
turn:
    do
    :: stop -> worker_close_inbox(); break
    :: true ->
#ifndef CLEAR_LATE
        if
        :: attention -> attention = false
        :: true -> skip /* an old value was seen, or there is none */
        fi;
#endif
        inbox_turn();
#ifdef CLEAR_LATE
        attention = false;
#endif
#ifdef BUSY_SLEEPS
        wait = true;
#else
        wait = (backlog == 0);
#endif
        if /* busy polling: asks any number of times and does not say that it sleeps */
        :: wait && (packets || io_packet || wake_lost) -> take_packets(); goto turn
        :: wait && attention -> goto turn
        :: true -> skip /* its time is over, and the last look may have seen an old value; or it does not poll */
        fi;
        if
        :: wait ->
#ifdef LOOK_THEN_SLEEP
            wait = !attention;
            sleeping = true;
#elif defined(POLL_IS_LOOK)
            sleeping = true;
#else
            sleeping = true;
            wait = !attention;
#endif
        :: else -> skip
        fi;
        if
        :: wait -> /* GetQueuedCompletionStatusEx; with a post that was lost it returns after LOST_POST_MS */
asleep:     packets || io_packet || wake_lost || stop
        :: else -> skip
        fi;
        take_packets();
        sleeping = false
    od
}

/* The engine stops in the middle of it all, or once nothing else moves: then no message may be left that nobody looks at. */
active proctype watcher() {
    byte number;
    bool early;
    run worker();
    run kernel();
    for (number : 1 .. POSTERS) { run poster() }
    if
    :: early = true
    :: skip
    fi;
    if
    :: !early -> timeout -> assert(inbox == 0 && backlog == 0 && taken == POSTERS * MESSAGES)
    :: else -> skip
    fi;
    run stopper();
    timeout -> assert(closed && posters == 0)
}
