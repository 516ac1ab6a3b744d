/* sequence.pml: how a slot changes hands while others read it (table.c). For spin; .ci/run runs it.
 *
 * Each proctype is a function of table.c or worker.c, each statement one access to memory. The writer's stores between the brackets
 * are releases and come after the odd sequence; the reader's loads are acquires and come before its second look. So both
 * are in the order of the program, and interleavings are all that there is; the mutants that reorder show why it must be so.
 *
 * What holds: a copy is of one owner, or of nobody, with the generation of that time; and a token that has ended is never found.
 *
 * A name in MUTANTS, defined, breaks one rule, and spin must then find the harm:
 *
 *   NO_SECOND_LOOK   the reader does not look at the sequence again
 *   ODD_IS_FINE      the reader copies while the sequence is odd
 *   STORE_EARLY      a store of the writer is seen before the odd sequence, as a relaxed one could be
 *   LOAD_LATE        a load of the reader is taken after its second look, as a relaxed one could be
 *   NO_BRACKETS      connection_begin changes the slot without the brackets
 *   GENERATION_KEPT  table_give does not change the generation
 */

#define OWNERS 2
#define FREE 0
#define OPEN 1

/* The slot. `peer` stands for all that says who it is: it is the number of the owner. */
byte sequence, generation = 1, peer, state = FREE;

byte owner_of[OWNERS + 2]; /* by generation: who had it; for the oracle alone */

inline table_write_begin() { sequence++ }
inline table_write_end() { sequence++ }

/* connection_begin (worker.c) for each owner, and table_give after it. */
proctype owner() {
    byte number;
    for (number : 1 .. OWNERS) {
        owner_of[generation] = number;
#ifdef STORE_EARLY
        state = OPEN;
        table_write_begin();
        peer = number;
        table_write_end();
#else
#ifndef NO_BRACKETS
        table_write_begin();
#endif
        peer = number;
        state = OPEN;
#ifndef NO_BRACKETS
        table_write_end();
#endif
#endif
        table_write_begin();
        state = FREE;
#ifndef GENERATION_KEPT
        generation++;
#endif
        table_write_end()
    }
}

inline read_slot() {
    do
    :: before = sequence;
        if
#ifndef ODD_IS_FINE
        :: before % 2 -> skip /* platform_thread_yield, and again */
#endif
        :: else ->
            age = generation;
#ifndef LOAD_LATE
            who = peer;
#endif
            how = state;
#ifdef NO_SECOND_LOOK
            break
#else
            if
            :: sequence == before -> break
            :: else -> skip
            fi
#endif
        fi
    od;
#ifdef LOAD_LATE
    who = peer
#endif
}

/* table_get for a token that was the first owner's: ENDED once another generation is there, never somebody else's row. */
proctype reader() {
    byte before, age, who, how;
    read_slot();
    assert(how == FREE || who == owner_of[age]); /* one owner, and the one of that generation */
    assert(!(age == 1 && how == OPEN) || who == 1)
}

init {
    atomic { run owner(); run reader(); run reader() }
}
