/* labels.pml: how a worker gives a connection other labels, hands them on to its closed record and forgets that record, while others
 * read them (labels.c, connection.c, snapshot.c). For spin; .ci/run runs it.
 *
 * Each proctype is a worker or a reader, each statement one access to memory. labels_retire swaps and labels_lock exchanges, both
 * sequentially consistent: who finds a block among the old ones also sees what was stored before it was put there. So
 * interleavings are all that there is.
 *
 * What holds: a reader never looks into a block that was freed; no block is freed twice; and none is lost.
 *
 * A name in MUTANTS, defined, breaks one rule, and spin must then find the harm:
 *
 *   RETIRED_FIRST    closed_put retires the labels of a record before it overwrites the record
 *   REPLACED_LATE    connection_label retires the labels that it replaces before it has replaced them
 *   FREED_AT_ONCE    connection_label frees the labels that it has replaced
 *   SLOT_KEEPS       finish leaves the labels with the slot as well as with the closed record
 *   FREED_UNLOCKED   labels_lock frees the old blocks before it has the lock
 *   READ_UNLOCKED    a reader looks before it has the lock
 */

#define CONNECTIONS 3 /* one after the other in one slot */
#define BLOCKS (2 * CONNECTIONS)
#define READERS 2
#define LOOKS 2 /* of each reader */

#define IS_IN(set, block) ((set >> (block)) & 1)

byte slot, record, sequence; /* connection->labels; the ring's only record and its sequence; 0: no block */
byte old, freed;             /* sets of blocks */
byte blocks;                 /* that were ever given out */
bool locked;

inline retire(block) {
    if
    :: block -> old = old | (1 << block)
    :: else -> skip
    fi
}

inline connection_label() {
    before = slot;
    blocks++;
#ifdef REPLACED_LATE
    retire(before);
#endif
    slot = blocks;
#ifdef FREED_AT_ONCE
    if
    :: before -> freed = freed | (1 << before)
    :: else -> skip
    fi
#else
#ifndef REPLACED_LATE
    retire(before)
#endif
#endif
}

/* finish, with closed_put in it. */
inline connection_end() {
    after = slot;
#ifndef SLOT_KEEPS
    slot = 0;
#endif
    before = record;
#ifdef RETIRED_FIRST
    retire(before);
#endif
    sequence++;
    record = after;
    sequence++;
#ifndef RETIRED_FIRST
    retire(before)
#endif
}

proctype worker() {
    byte number, before, after;
    for (number : 1 .. CONNECTIONS) {
        connection_label();
        connection_label();
        connection_end()
    }
    before = 0;
    after = 0
}

inline lock() { atomic { !locked -> locked = true } }

inline free_old() {
    atomic { taken = old; old = 0 } /* one exchange */
    assert((taken & freed) == 0);
    freed = freed | taken
}

inline labels_lock() {
#ifdef FREED_UNLOCKED
    free_old();
    lock()
#else
    lock();
    free_old()
#endif
}

/* A listing, or labels_copy. */
inline look(block) {
    if
    :: block -> assert(!IS_IN(freed, block))
    :: else -> skip
    fi
}

proctype reader() {
    byte looks, taken, block, whole;
    for (looks : 1 .. LOOKS) {
#ifdef READ_UNLOCKED
        block = slot;
        labels_lock();
#else
        labels_lock();
        block = slot;
#endif
        look(block);
        whole = sequence; /* ring_read */
        if
        :: whole % 2 == 0 ->
            block = record;
            if
            :: sequence == whole -> look(block)
            :: else -> skip
            fi
        :: else -> skip
        fi;
        locked = false
    }
}

active proctype watcher() {
    byte number, kept, taken;
    run worker();
    for (number : 1 .. READERS) { run reader() }
    timeout; /* all have ended */
    free_old(); /* the engine's end, which frees the last record too */
    for (number : 1 .. BLOCKS) {
        kept = (record == number);
        assert(IS_IN(freed, number) + kept == 1)
    }
}
