/* claims.pml: queues that wait for each other's claims on sectors, and for the end of each other's first stage of a replay.
 *
 * A claim is a word's bit, or bits of two words, which are set one after the other and taken back if the second is held.
 * Who finds one held announces itself, looks whether somebody else goes first, and tries once more before it sleeps; only
 * who goes first tries then. Woken are all that wait: by who frees sectors, by who has gone first, and by who takes back
 * what it had set. Every atomic operation is a step; an eventfd stays signalled until it is read.
 *
 * Claims: no two hold the same sector, and nobody sleeps for ever.
 */
#ifndef Q
#define Q 3             /* queues, each a thread */
#endif
#ifndef M
#define M 1             /* claims of each */
#endif
#define BIT(g) (1<<(g))
#define MINE BIT(_pid)

byte owner[2];          /* of a word's bit: queue + 1 */
byte first, waiting, replaying = Q;
bit event[Q];
byte held[Q];

inline wake(whom) {
    d_step { w=0; do :: w<Q -> if :: whom&BIT(w) -> event[w]=1 :: else fi; w++ :: else -> break od; w=0 }
}
inline wake_all() { atomic { old=waiting; waiting=0 } wake(old); old=0 }
inline wake_others() { atomic { old=waiting&~MINE; waiting=waiting&MINE } wake(old); old=0 }

/* All or nothing; ok says which. */
inline set() {
    ok=1; i=0; taken=0;
    do
    :: i<2 && ok && !(want&BIT(i)) -> i++
    :: atomic { i<2 && ok && (want&BIT(i)) ->
        if
        :: owner[i]==0 -> owner[i]=_pid+1; taken=taken|BIT(i)
        :: else -> ok=0
        fi; i++ }
    :: i==2 || !ok -> break
    od;
    if
    :: !ok && taken ->
        clear(taken);
#ifndef NO_WAKE_AFTER_TAKING_BACK
        if :: waiting&~MINE -> wake_others() :: else fi
#endif
    :: else
    fi; i=0; taken=0
}
inline clear(what) {
    if :: what&2 -> owner[1]=0 :: else fi;
    if :: what&1 -> owner[0]=0 :: else fi
}
inline gone_first() {
    first=0;
    wake_all()          /* sooner than its release would: nobody hangs without it */
}
inline await_event() { atomic { event[_pid] -> event[_pid]=0 } }

inline try() {
    ok=0; turn=first;
    if :: turn==0 || turn==_pid+1 -> set() :: else fi;
    if
    :: ok && turn!=0 -> gone_first()
    :: ok && turn==0 -> skip
    :: !ok ->
#ifdef LATE_ANNOUNCEMENT
        atomic { if :: first==0 -> first=_pid+1 :: else fi }
        waiting=waiting|MINE;
        turn=first;
#else
#ifndef NO_ANNOUNCEMENT
        waiting=waiting|MINE;
#endif
        atomic { if :: first==0 -> first=_pid+1 :: else fi; turn=first }
#endif
#ifdef NO_SECOND_LOOK
        skip
#else
        if
        :: turn==_pid+1 -> set(); if :: ok -> gone_first() :: else fi
        :: else
        fi
#endif
    fi; turn=0
}

active [Q] proctype queue() {
    byte want, n, i, w, taken, turn, old; bit ok;
    /* The first stage is over; what is left waits for the others'. */
    atomic { replaying--; ok = replaying==0 }
#ifndef NO_WAKE_AFTER_REPLAY
    if :: ok -> wake(255) :: else fi;
#endif
    do :: replaying==0 -> break :: else -> await_event() od;
    ok=0;
    do
    :: n<M ->
        if :: want=1 :: want=2 :: want=3 fi;
        do
        :: try(); if :: ok -> break :: else -> await_event() fi
        od;
        skip;   /* a loop must not end in a d_step */
        d_step { held[_pid]=want;
            w=0; do :: w<Q -> assert(w==_pid || !(held[w]&want)); w++ :: else -> break od; w=0; ok=0 }
        held[_pid]=0;
        clear(want);
#ifndef NO_WAKE_AFTER_RELEASE
        if :: waiting -> wake_all() :: else fi;
#endif
        want=0; n++
    :: else -> break
    od
}
