/* crash.pml: a block ring, its journal and SIGKILL between any two stores that outlive the process.
 *
 * Steps are named as in the code: F fetch, D issue, P publish, R recover. Requests complete in any order; Q rings, one
 * thread each, share one claim table and die together. Ring indices have 3 bits and wrap; sequence numbers do not.
 *
 * A request is known by its serial number: op[] and ext[] say what it is, so copying the number is copying the request.
 * Claims, all of them as the guest sees them:
 *   - every request is answered once, and no answer names a request that is not outstanding;
 *   - an answered write has happened, and a value that was overwritten does not come back (A-B-A), on any sector;
 *   - a read returns nothing that had been overwritten before it was submitted;
 *   - writes answered before a flush or barrier was submitted are durable when that is answered;
 *   - a barrier runs after all earlier writes of its ring are answered, later ones run after it is answered;
 *   - nobody waits for ever.
 * -DMUTANT leaves out the checks of our own invariants, so that a mutant dies of what the guest sees.
 */
#ifndef Q
#define Q 1             /* rings */
#endif
#ifndef M
#define M 4             /* requests, over all rings; at most 7 */
#endif
#ifndef NS
#define NS 1            /* sectors; with -DWIDE requests may cover both */
#endif
#ifndef MAXC
#define MAXC 2          /* kills */
#endif
#ifndef START
#define START 6         /* first ring index: wraps after two requests */
#endif
#define N 2             /* slots of a ring, which are as many as its journal's entries */
#define K (N*Q)
#define W(x) ((x)&7)
#define BIT(r) (1<<(r))

#define FREE 0
#define INFL 1
#define PUB 2

#define WRITE 0
#define BARRIER 1
#define FLUSH 2
#define READ 3
#define CLAIMS(r) (op[r]<=BARRIER)

#ifdef MUTANT
#define INVARIANT(x) skip
#else
#define INVARIANT(x) assert(x)
#endif

/* shared with the guest: survives */
byte req_prod[Q]=START, rsp_prod[Q]=START;
byte slot[K], slotid[K];
bit slotrsp[K];
bit event[Q];

/* journal: survives */
byte tag[K], seq[K], jser[K], jid[K], jrsp[K];
bit mark[K];
byte jC[Q]=START, jcons[Q]=START;

/* kernel and disk: survive. A killed process's writes land later or never. */
byte kser[K];
#ifdef NO_FENCE
byte zombie[K*MAXC];
#else
byte zombie[K];
#endif
byte disk[NS], over[NS];        /* over: serials whose value was overwritten */
byte applied;
#if defined(FLUSHES) || defined(BARRIERS)
byte durable, ksnap[K];
#endif

/* process memory: lost */
byte pc[Q], cons[Q]=START, rpvt[Q]=START, cur[Q];
bit issued[K], done[K], inbatch[K];
byte rpc, rq;
#ifdef CLAIM_PER_RING
byte claimed[Q];
#define CLAIMED(q) claimed[q]
#else
byte claimed;                   /* sectors */
#define CLAIMED(q) claimed
#endif
#ifdef PHASE_A_PER_RING
byte left[Q];
#define LEFT(q) left[q]
#else
byte left;                      /* issued entries of the last life that are not yet answered and published: phase A */
#define LEFT(q) left
#endif
#ifdef NEW_IN_PHASE_A
bit fresh[K];
#endif
#ifdef CLAIM_PARTS
byte part[K];
#endif
byte kills;

/* ghosts */
byte op[M+1], ext[M+1], nser;
byte ringof;                    /* serials of ring 1 */
byte idser[K], rcons[Q]=START, answered, acked, published, writes;
#if defined(FLUSHES) || defined(BARRIERS) || defined(READS)
byte before[M+1];               /* flush: what must be durable; read: what it must not see */
#endif
#ifdef READS
byte got[M+1];
#endif
#ifdef BARRIERS
byte barriers;
#endif
#define RING_MASK(r) ((ringof & BIT(r)) -> ringof : ~ringof)

inline apply(r) {
#ifdef BARRIERS
    if :: op[r]==BARRIER -> assert(!(writes & (BIT(r)-1) & RING_MASK(r) & ~published)) :: else fi;
    assert(!(barriers & (BIT(r)-1) & RING_MASK(r) & ~published));
#endif
    applied = applied | BIT(r);
    s=0;
    do
    :: s<NS ->
        if
        :: (ext[r] & BIT(s)) && disk[s]!=r ->
            assert(!(over[s] & BIT(r)));            /* an overwritten value comes back */
            over[s] = over[s] | BIT(disk[s]);
            disk[s] = r
        :: else
        fi;
        s++
    :: else -> break
    od;
    s=0
}

/* A zombie lands late, or was cancelled. */
inline zombie_ends(z) {
    r=zombie[z]; zombie[z]=0;
    if :: apply(r) :: skip fi;
    r=0
}

active [K] proctype kernel() { byte r, s;
end: do
    :: atomic { kser[_pid]!=0 ->
        r=kser[_pid]; kser[_pid]=0;
        if
        :: op[r]==READ ->
#ifdef READS
            got[r] = (ext[r]==1 -> disk[0] : disk[NS-1]);
#endif
            skip
        :: op[r]==FLUSH -> skip
        :: else -> apply(r)
        fi;
#if defined(FLUSHES) || defined(BARRIERS)
        durable = durable | ksnap[_pid]; ksnap[_pid]=0;
        if :: op[r]==BARRIER -> durable = durable | BIT(r) :: else fi;      /* barriers are written through */
#endif
        done[_pid]=1;
#ifdef LOCK_EARLY
        if :: CLAIMS(r) -> CLAIMED(0) = CLAIMED(0) & ~ext[r] :: else fi;
#endif
        r=0 }
    :: atomic { zombie[_pid]!=0 -> zombie_ends(_pid) }
#ifdef NO_FENCE
    :: atomic { zombie[_pid+K]!=0 -> zombie_ends(_pid+K) }
#endif
    od
}

#define F (_pid-K)
active [Q] proctype frontend() { byte x, r;
    do
    :: atomic { nser<M && W(req_prod[F]-rcons[F])<N ->
        nser++;
        if
        :: op[nser]=WRITE
#ifdef BARRIERS
        :: op[nser]=BARRIER; barriers = barriers | BIT(nser)
#endif
#ifdef FLUSHES
        :: op[nser]=FLUSH
#endif
#ifdef READS
        :: op[nser]=READ
#endif
        fi;
        if
        :: op[nser]==FLUSH -> skip
        :: else ->
            if
            :: ext[nser]=1
#if NS>1
            :: nser>1 -> ext[nser]=2            /* sectors are alike: the first request takes the first one */
#ifdef WIDE
            :: op[nser]!=READ -> ext[nser]=3
#endif
#endif
            fi
        fi;
        if :: CLAIMS(nser) -> writes = writes | BIT(nser) :: else fi;
#if Q>1
        if :: F==1 -> ringof = ringof | BIT(nser) :: else fi;
#endif
#if defined(FLUSHES) || defined(BARRIERS)
        if :: op[nser]==FLUSH || op[nser]==BARRIER -> before[nser] = acked & writes :: else fi;
#endif
#ifdef READS
        if :: op[nser]==READ -> before[nser] = (ext[nser]==1 -> over[0] : over[NS-1]) :: else fi;
#endif
        x=F*N; do :: idser[x]!=0 -> x++ :: else -> break od;
        assert(x<F*N+N);
        idser[x]=nser;
        slot[F*N+req_prod[F]%N]=nser; slotid[F*N+req_prod[F]%N]=x; slotrsp[F*N+req_prod[F]%N]=0;
        req_prod[F]=W(req_prod[F]+1);
        x=0 }
    :: atomic { event[F] ->
        event[F]=0;
        do
        :: rcons[F]!=rsp_prod[F] ->
            x=F*N+rcons[F]%N;
            assert(slotrsp[x]);
            r=slot[x]; x=slotid[x];
            assert(r!=0 && idser[x]==r);        /* answers nothing that is outstanding, or another one */
            assert(!CLAIMS(r) || (applied & BIT(r)));
#if defined(FLUSHES) || defined(BARRIERS)
            assert(!(op[r]==FLUSH || op[r]==BARRIER) || !(before[r] & ~durable));
            assert(op[r]!=BARRIER || (durable & BIT(r)));
#endif
#ifdef READS
            assert(op[r]!=READ || !(before[r] & BIT(got[r])));
            got[r]=0;
#endif
#if defined(FLUSHES) || defined(BARRIERS) || defined(READS)
            before[r]=0;
#endif
            idser[x]=0; acked = acked | BIT(r); answered++; rcons[F]=W(rcons[F]+1)
        :: else -> break
        od;
        x=0; r=0 }
    :: answered==M -> break
    od
}

#define B (_pid-K-Q)
#define E0 (B*N)
#define E1 (B*N+1)

#define UNISSUED(e) (tag[e]==INFL && !issued[e])
#ifdef BARRIER_OVERTAKEN
#define BARRIER_OPEN(e) (0)
#else
#define BARRIER_OPEN(e) (tag[e]!=FREE && op[jser[e]]==BARRIER)
#endif
#ifdef NEW_IN_PHASE_A
#define PHASE_B (1)
#define REPLAYED(e) (mark[e] || fresh[e])
#else
#define PHASE_B (LEFT(B)==0)
#define REPLAYED(e) mark[e]
#endif
#define MAY_FETCH (pc[B]==0 && cons[B]%8!=req_prod[B] && PHASE_B && !UNISSUED(E0) && !UNISSUED(E1) \
    && !BARRIER_OPEN(E0) && !BARRIER_OPEN(E1))

/* Head of line: only the oldest unissued entry may go. */
#ifdef NO_ORDER
#define MAY_ISSUE(e,o) (pc[B]==0 && UNISSUED(e))
#else
#define MAY_ISSUE(e,o) (pc[B]==0 && UNISSUED(e) \
    && (LEFT(B)>0 -> REPLAYED(e) : !(UNISSUED(o) && seq[o]<seq[e])))
#endif
#ifdef NO_CLAIM
#define CLAIM_FREE(e) (1)
#elif defined(CLAIM_PARTS)
#define CLAIM_FREE(e) (part[e]==ext[jser[e]])
#else
#define CLAIM_FREE(e) !(CLAIMED(B) & ext[jser[e]])
#endif
#ifdef BARRIER_PASSES
#define DRAINED(e,o) (1)
#else
#define DRAINED(e,o) (op[jser[e]]!=BARRIER || !(tag[o]!=FREE && CLAIMS(jser[o]) && seq[o]<seq[e]))
#endif
#define MAY_CLAIM(e,o) (CLAIM_FREE(e) && DRAINED(e,o))

inline submit(e) {
#if defined(FLUSHES) || defined(BARRIERS)
    if :: op[jser[e]]==FLUSH || op[jser[e]]==BARRIER -> ksnap[e]=applied :: else fi;
#ifdef BARRIER_UNFLUSHED
    ksnap[e]=(op[jser[e]]==BARRIER -> 0 : ksnap[e]);
#endif
#endif
    kser[e]=jser[e]
}
inline issue(e) {
    issued[e]=1;
    if
    :: CLAIMS(jser[e]) ->
        CLAIMED(B) = CLAIMED(B) | ext[jser[e]];     /* D1; one step with the mark, since a kill loses the claim */
#ifdef MARK_LATE
        submit(e);
#else
        mark[e]=1;                                  /* D2 */
#endif
        cur[B]=e; pc[B]=30
    :: else ->
#ifdef FLUSH_EARLY
        if :: op[jser[e]]==FLUSH -> done[e]=1 :: else -> submit(e) fi
#else
        submit(e)
#endif
    fi
}
#define MAY_PUBLISH(e) ((pc[B]==0 || pc[B]==22) && tag[e]==INFL && done[e] && !inbatch[e])
inline publish(e) {                                 /* P1 */
    inbatch[e]=1;
#ifdef RSPNO_LATE
    tag[e]=PUB; pc[B]=20;
#else
    jrsp[e]=rpvt[B]; pc[B]=21;
#ifndef NO_PUB_STATE
    tag[e]=PUB;
#endif
#endif
    cur[B]=e
}
inline free(e) {
    tag[e]=FREE; inbatch[e]=0; issued[e]=0; done[e]=0;
#ifdef CLAIM_PARTS
    part[e]=0;
#endif
#ifndef LOCK_EARLY
    if :: CLAIMS(jser[e]) -> CLAIMED(B) = CLAIMED(B) & ~ext[jser[e]] :: else fi;
#endif
#ifdef NEW_IN_PHASE_A
    if :: LEFT(B)>0 && !fresh[e] -> LEFT(B)=LEFT(B)-1 :: else fi;
    fresh[e]=0;
#else
    if :: LEFT(B)>0 -> LEFT(B)=LEFT(B)-1 :: else fi;
#endif
    /* What a free entry says means nothing: one state for all of it. */
#ifndef MARK_STALE
    mark[e]=0;
#endif
#ifndef RSPNO_LATE
    jrsp[e]=0;
#endif
    jser[e]=0; jid[e]=0; seq[e]=0
}

active [Q] proctype backend() {
end: do
#ifdef SEQMOD
    :: atomic { MAY_FETCH && W(cons[B]-rpvt[B])<N -> cur[B]=E0+cons[B]%N; pc[B]=10 }
#else
    :: atomic { MAY_FETCH && (tag[E0]==FREE || tag[E1]==FREE) ->
        cur[B]=(tag[E0]==FREE -> E0 : E1); pc[B]=10 }
#endif
    :: atomic { pc[B]==10 ->                        /* F1 */
        jid[cur[B]]=slotid[E0+cons[B]%N]; jser[cur[B]]=slot[E0+cons[B]%N];
#ifndef MARK_STALE
        mark[cur[B]]=0;
#endif
        pc[B]=11 }
#ifdef CONS_BEFORE_TAG
    :: atomic { pc[B]==11 -> jcons[B]=cons[B]+1; pc[B]=12 }
    :: atomic { pc[B]==12 -> tag[cur[B]]=INFL; seq[cur[B]]=cons[B]; issued[cur[B]]=0; done[cur[B]]=0;
        cons[B]=cons[B]+1; cur[B]=0; pc[B]=0 }
#else
    :: atomic { pc[B]==11 -> tag[cur[B]]=INFL; seq[cur[B]]=cons[B]; issued[cur[B]]=0; done[cur[B]]=0;   /* F2 */
#ifdef NEW_IN_PHASE_A
        fresh[cur[B]]=1;
#endif
        pc[B]=12 }
    :: atomic { pc[B]==12 -> cons[B]=cons[B]+1; jcons[B]=cons[B]; cur[B]=0; pc[B]=0 }                   /* F3 */
#endif

    :: atomic { MAY_ISSUE(E0,E1) && (!CLAIMS(jser[E0]) || MAY_CLAIM(E0,E1)) -> issue(E0) }
    :: atomic { MAY_ISSUE(E1,E0) && (!CLAIMS(jser[E1]) || MAY_CLAIM(E1,E0)) -> issue(E1) }
#ifdef CLAIM_PARTS
#define CLAIM_PART(e) part[e] = part[e] | (ext[jser[e]] & ~CLAIMED(B)); CLAIMED(B) = CLAIMED(B) | part[e]
    :: atomic { MAY_ISSUE(E0,E1) && (ext[jser[E0]] & ~CLAIMED(B)) -> CLAIM_PART(E0) }
    :: atomic { MAY_ISSUE(E1,E0) && (ext[jser[E1]] & ~CLAIMED(B)) -> CLAIM_PART(E1) }
#endif
#ifdef MARK_LATE
    :: atomic { pc[B]==30 -> mark[cur[B]]=1; cur[B]=0; pc[B]=0 }
#else
    :: atomic { pc[B]==30 -> submit(cur[B]); cur[B]=0; pc[B]=0 }                                        /* D3 */
#endif

    :: atomic { MAY_PUBLISH(E0) -> publish(E0) }    /* starts a batch or adds to it */
    :: atomic { MAY_PUBLISH(E1) -> publish(E1) }
#ifdef RSPNO_LATE
    :: atomic { pc[B]==20 -> jrsp[cur[B]]=rpvt[B]; pc[B]=21 }
#endif
    :: atomic { pc[B]==21 ->                        /* P2 */
        slotrsp[E0+rpvt[B]%N]=1; slotid[E0+rpvt[B]%N]=jid[cur[B]]; slot[E0+rpvt[B]%N]=jser[cur[B]];
#ifdef FREE_BEFORE_PUBLISH
        published = published | BIT(jser[cur[B]]); free(cur[B]);
#endif
        rpvt[B]=W(rpvt[B]+1); cur[B]=0; pc[B]=22 }
    :: atomic { pc[B]==22 ->                        /* P3: the answers are given */
        rsp_prod[B]=rpvt[B];
        if :: inbatch[E0] -> published = published | BIT(jser[E0]) :: else fi;
        if :: inbatch[E1] -> published = published | BIT(jser[E1]) :: else fi;
#ifdef C_LATE
        pc[B]=24
#else
        pc[B]=23
#endif
        }
    :: atomic { pc[B]==23 -> jC[B]=rpvt[B]; pc[B]=24 }                                                  /* P4 */
    :: atomic { pc[B]==24 && inbatch[E0] -> free(E0) }                                                  /* P5 */
    :: atomic { pc[B]==24 && !inbatch[E0] && inbatch[E1] -> free(E1) }
    :: atomic { pc[B]==24 && !inbatch[E0] && !inbatch[E1] ->                                            /* P6 */
#ifdef C_LATE
        jC[B]=rpvt[B];
#endif
        event[B]=1; pc[B]=0 }
    od
}

/* After a kill, before any ring runs. Signed distances as in the code; NO_WRAP compares as if indices did not wrap. */
#ifdef NO_WRAP
#define BELOW(a,b) ((a)<(b))
#else
#define BELOW(a,b) (W((a)-(b))>=4)
#endif
#ifdef NO_FENCE
#define FENCED (1)
#else
#define FENCED (zombie[0]==0 && zombie[1]==0 && zombie[K-2]==0 && zombie[K-1]==0)
#endif
#define R0 (rq*N)
#define R1 (rq*N+1)

inline redo(e) {
    slotrsp[R0+jrsp[e]%N]=1; slotid[R0+jrsp[e]%N]=jid[e]; slot[R0+jrsp[e]%N]=jser[e];
    published = published | BIT(jser[e]); tag[e]=FREE
}
inline later(e) { if :: tag[e]==PUB && BELOW(x, W(jrsp[e]+1)) -> x=W(jrsp[e]+1) :: else fi }
inline settle(e) {
    if
    :: BELOW(jrsp[e], rpvt[rq]) -> tag[e]=FREE; jser[e]=0; jid[e]=0; seq[e]=0; mark[e]=0; jrsp[e]=0
    :: else -> tag[e]=INFL
    fi
}
inline recopy(e) { if :: tag[e]==INFL -> jid[e]=slotid[R0+seq[e]%N]; jser[e]=slot[R0+seq[e]%N] :: else fi }
inline skip_rerun(e) { if :: tag[e]==INFL && !CLAIMS(jser[e]) -> issued[e]=1; done[e]=1 :: else fi }
inline roll(e) { if :: tag[e]!=FREE && seq[e]>=cons[rq] -> cons[rq]=seq[e]+1 :: else fi }
#define MARKED(e) (tag[e]==INFL && mark[e])
inline count(e) {
    if
    :: MARKED(e) ->
        INVARIANT(!(x & ext[jser[e]]));             /* what was issued does not overlap */
        x = x | ext[jser[e]];
#ifndef NO_PHASE_A
        LEFT(e/N)=LEFT(e/N)+1
#endif
    :: else
    fi
}

active proctype recovery() { byte x;
end: do
    :: atomic { rpc==1 && (rq>0 || FENCED) ->       /* R0, R2, R3 */
        x=jC[rq]; later(R0); later(R1);
#ifdef BLIND_REDO
        if :: tag[R0]==PUB -> redo(R0) :: else fi;
        if :: tag[R1]==PUB -> redo(R1) :: else fi;
        rsp_prod[rq]=x;
#else
#ifndef NO_PUB_STATE
        assert(rsp_prod[rq]==jC[rq] || rsp_prod[rq]==x);    /* or an honest guest loses its device */
#endif
#endif
        rpvt[rq]=rsp_prod[rq]; jC[rq]=rsp_prod[rq]; x=0; rpc=2 }
    :: atomic { rpc==2 && tag[R0]==PUB -> settle(R0) }                          /* R4 */
    :: atomic { rpc==2 && tag[R0]!=PUB && tag[R1]==PUB -> settle(R1) }
    :: atomic { rpc==2 && tag[R0]!=PUB && tag[R1]!=PUB ->                       /* R5, R6 */
        cons[rq]=jcons[rq];
#ifndef CONS_HINT_ONLY
        roll(R0); roll(R1);
#endif
        jcons[rq]=cons[rq];
#ifndef NO_NOTIFY
        event[rq]=1;
#endif
#ifdef NO_COPY
        recopy(R0); recopy(R1);
#endif
#if defined(FLUSH_NOT_RERUN) || defined(READ_NOT_RERUN)
        skip_rerun(R0); skip_rerun(R1);
#endif
        if
        :: rq+1<Q -> rq++; rpc=1
        :: else ->                                                              /* R7: phase A begins */
            count(0); count(1);
#if Q>1
            count(2); count(3); pc[1]=0;
#endif
            pc[0]=0; rq=0; x=0; rpc=0
        fi }
    od
}

inline kill_entry(e) {
    issued[e]=0; done[e]=0; inbatch[e]=0;
#ifdef NEW_IN_PHASE_A
    fresh[e]=0;
#endif
#ifdef CLAIM_PARTS
    part[e]=0;
#endif
    if
    :: kser[e]!=0 && CLAIMS(kser[e]) ->
#ifdef NO_FENCE
        zombie[e+K*(kills-1)]=kser[e]
#else
        zombie[e]=kser[e]
#endif
    :: else
    fi;
    kser[e]=0;
#if defined(FLUSHES) || defined(BARRIERS)
    ksnap[e]=0
#endif
}
inline kill_ring(q) {
    pc[q]=99; cons[q]=0; rpvt[q]=0; cur[q]=0; LEFT(q)=0; CLAIMED(q)=0;
    kill_entry(q*N); kill_entry(q*N+1)
}
/* All kills happen: fewer are the same as some on the idle ring first. A kill before the fence changes nothing. */
active proctype killer() {
    do
    :: atomic { kills<MAXC && !(rpc==1 && rq==0) ->
        kills++;
        kill_ring(0);
#if Q>1
        kill_ring(1);
#endif
        rq=0; rpc=1 }
    :: kills==MAXC -> break
    od
}

active proctype checker() { timeout -> assert(answered==M) }
