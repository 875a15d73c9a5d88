/* ring.pml: ring.h's hold-off of notifications, both ways, with store buffers (x86-TSO), masked ports and restarts.
 *
 * Claim: no wake-up is lost: every request is consumed and every response seen. Indices have 3 bits and wrap.
 * Each side has one store buffer of depth one, drained at any time: a second store waits for the first, as in a FIFO,
 * and a full barrier is waiting for it to be empty. Loads see their own side's buffer first.
 */
#ifndef M
#define M 5             /* requests, each of which is answered */
#endif
#ifndef SIZE
#define SIZE 2          /* of the ring */
#endif
#ifndef MAXC
#define MAXC 0          /* kills of the backend */
#endif
#define START 6
#define W(x) ((x)&7)
#define NONE 0
#define PROD 1
#define EVENT 2

/* shared page */
byte req_prod=START, req_event=START+1, rsp_prod=START, rsp_event=START+1;
/* store buffers: which variable waits with which value */
byte fvar, fval, bvar, bval;
/* event channels: pending bits; the backend's port is masked from reading it until it is written back */
bit back, front, masked;
/* ghosts */
byte pushed, consumed, seen, kills;

#define FEMPTY (fvar==NONE)
#define BEMPTY (bvar==NONE)
#ifdef NO_WRAP
#define PASSES(event, old, new) ((event)>(old) && (event)<=(new))
#else
#define PASSES(event, old, new) (W((new)-(event)) < W((new)-(old)))
#endif

active proctype memory() {
end: do
    :: atomic { fvar==PROD -> req_prod=fval; fvar=NONE; fval=0 }
    :: atomic { fvar==EVENT -> rsp_event=fval; fvar=NONE; fval=0 }
    :: atomic { bvar==PROD -> rsp_prod=bval; bvar=NONE; bval=0 }
    :: atomic { bvar==EVENT -> req_event=bval; bvar=NONE; bval=0 }
    od
}

#define ROOM(k) (pushed+(k)<=M && W(prod+(k)-rcons)<=SIZE)
active proctype frontend() { byte prod=START, rcons=START, old, e;
push:
    do
    :: ROOM(1) ->
        old=prod;
        if :: prod=W(prod+1); pushed++ :: ROOM(2) -> prod=W(prod+2); pushed=pushed+2 fi;
        atomic { FEMPTY -> fvar=PROD; fval=prod };      /* the write barrier before it is free on TSO */
#ifndef NO_MB_PUSH
        FEMPTY;
#endif
        e=req_event;
        if :: PASSES(e, old, prod) -> back=1 :: else fi;
        old=0; e=0
    :: !ROOM(1) -> break
    od;
drain:
    do
    :: atomic { rcons!=rsp_prod -> seen=seen+W(rsp_prod-rcons); rcons=rsp_prod }
    :: atomic { rcons==rsp_prod -> break }
    od;
    if :: ROOM(1) -> goto push :: seen==M -> goto done :: else fi;
    atomic { FEMPTY -> fvar=EVENT; fval=W(rcons+1) };
#ifndef NO_MB_SLEEP
    FEMPTY;
#endif
#ifndef NO_RECHECK
    if :: rcons!=rsp_prod -> goto drain :: else fi;
#endif
    atomic { front -> front=0 };                        /* sleeps */
    goto drain;
done: skip
}

/* The backend: a kill may hit between any two steps. */
byte pc, cons=START, rpvt=START, old;
active proctype backend() {
end: do
    :: atomic { pc==0 && cons!=req_prod ->
        if :: cons==W(START+consumed) -> consumed++ :: else fi;     /* or once more after a kill */
        cons=W(cons+1); pc=1 }
    :: atomic { pc==0 && cons==req_prod -> pc=5 }
    :: atomic { pc==1 -> old=rpvt; rpvt=cons; pc=2 }
    :: atomic { pc==2 && BEMPTY -> bvar=PROD; bval=rpvt; pc=3 }
#ifdef NO_MB_PUSH
    :: atomic { pc==3 -> pc=4 }
#else
    :: atomic { pc==3 && BEMPTY -> pc=4 }
#endif
    :: atomic { pc==4 -> if :: PASSES(rsp_event, old, rpvt) -> front=1 :: else fi; old=0; pc=0 }
#ifdef EVENT_LATE
    :: atomic { pc==5 && BEMPTY -> bvar=EVENT; bval=W(cons+2); pc=6 }
#else
    :: atomic { pc==5 && BEMPTY -> bvar=EVENT; bval=W(cons+1); pc=6 }
#endif
#ifdef NO_MB_SLEEP
    :: atomic { pc==6 -> pc=7 }
#else
    :: atomic { pc==6 && BEMPTY -> pc=7 }
#endif
#ifdef NO_RECHECK
    :: atomic { pc==7 -> pc=8 }
#else
    :: atomic { pc==7 -> if :: cons!=req_prod -> pc=0 :: else -> pc=8 fi }
#endif
    /* Unmasks by writing the port back; what came meanwhile stays pending. Then sleeps. */
#ifdef UNMASK_CLEARS
    :: atomic { pc==8 -> if :: masked -> masked=0; back=0 :: else fi; pc=9 }
#else
    :: atomic { pc==8 -> masked=0; pc=9 }
#endif
    :: atomic { pc==9 && back -> back=0; masked=1; pc=0 }
    /* A restart: Xen sets a port pending that is bound again; the backend relies on it and does not look first. */
    :: atomic { pc==20 && BEMPTY ->
        cons=rsp_prod; rpvt=rsp_prod; masked=0;
#ifndef NO_KICK_ON_BIND
        back=1;
#endif
#ifndef NO_NOTIFY_ON_BIND
        front=1;
#endif
        pc=9 }
    od
}

/* What is sent to a port that is not bound is dropped. */
active proctype killer() {
    do
    :: atomic { kills<MAXC && pc!=20 -> kills++; pc=20; cons=0; rpvt=0; old=0; back=0; masked=0 }
    :: kills==MAXC -> break
    od
}
active proctype checker() { timeout -> assert(consumed==M && seen==M) }
