/* inorder.pml: a network ring, answered in order, where a response overwrites the very request that it answers.
 *
 * The journal is one record: copies of a chunk of requests, up to PACKETS packets, and the word (base, n). A turn takes
 * requests T1, stores them T2 and the word T3, sends T4, writes the responses of the first m requests T5, m at a packet's
 * end, publishes rsp_prod = base+m T6 and notifies T7. Indices have 3 bits and wrap.
 *
 * After a kill, if rsp_prod is base, the record's requests are put back into their slots, one by one: the ring is whole
 * again, and from there on nothing is special. A record that is not put back but used by the first turn is not enough
 * (mutant REST_FROM_RING): that turn may send less than the killed one had, whose responses lie on the ring already.
 *
 * Claims: every request is answered once and in order, none is read from a slot that a response has overwritten,
 * packets are taken and published whole, nobody waits for ever. Packets may be sent twice after a kill.
 */
#ifndef M
#define M 8             /* requests; packets of one or two */
#endif
#ifndef MAXC
#define MAXC 2
#endif
#ifndef PACKETS
#define PACKETS 2
#endif
#define N 4
#define START 6
#define W(x) ((x)&7)
#define BIT(g) (1<<(g))

/* shared with the guest: survives. A request is known by its serial number, which stands for its grant, too. */
byte req_prod=START, rsp_prod=START;
byte slot[N], slotid[N];
bit slotrsp[N], event;

/* journal: survives */
byte base=START, n;     /* one word */
byte jser[N], jid[N];

/* process memory: lost */
byte pc, cons=START, count, m, j;
#ifdef REST_FROM_RING
bit restarted;
#endif
byte kills;

/* ghosts */
byte out[N], nser, rcons=START, answered;
short head, more;       /* serials that begin a packet; that another one follows */

inline push(i) {
    x=0; do :: out[x]!=0 -> x++ :: else -> break od;
    assert(x<N);
    nser++; out[x]=nser;
    slot[W(req_prod+i)%N]=nser; slotid[W(req_prod+i)%N]=x; slotrsp[W(req_prod+i)%N]=0;
    x=0
}
active proctype frontend() { byte x;
    do
    :: atomic { nser<M && W(req_prod-rcons)<N ->
        push(0); head = head | BIT(nser);
        if
        :: req_prod=W(req_prod+1)
        :: nser<M && W(req_prod+1-rcons)<N -> more = more | BIT(nser); push(1); req_prod=W(req_prod+2)
        fi }
    :: atomic { event ->
        event=0;
        do
        :: rcons!=rsp_prod ->
            assert(slotrsp[rcons%N]);
            x=slotid[rcons%N];
            assert(slot[rcons%N]!=0 && out[x]==slot[rcons%N] && out[x]==answered+1);
            out[x]=0; answered++; rcons=W(rcons+1)
        :: else -> break
        od;
        assert(!(more & BIT(answered)));            /* published in the middle of a packet */
        x=0 }
    :: answered==M -> break
    od
}

/* Whether the record's requests are put back. */
#if defined(NO_SAVE) || defined(REST_FROM_RING)
#define RESTORES (0)
#elif defined(REUSE_STALE)
#define RESTORES (n>0)
#else
#define RESTORES (n>0 && base==cons)
#endif
#ifdef REST_FROM_RING
#define FROM_RECORD (restarted && n>0 && base==cons)
#else
#define FROM_RECORD (0)
#endif

#define WHOLE(k) (!(more & BIT(jser[k])))           /* the record's request k ends a packet */
/* T1, T2: whole packets, as many as fit; a killable step for each request. */
inline take() {
    assert(!slotrsp[W(cons+count)%N]);              /* a response read as a request: a wild grant */
    x=slot[W(cons+count)%N];
    assert(((head & BIT(x)) != 0) == (count==0 || WHOLE(count-1)));     /* a fragment taken for a packet's head */
    jser[count]=x; jid[count]=slotid[W(cons+count)%N];
    if :: !(more & BIT(x)) -> j++ :: else fi;
    count++; x=0
}
#ifdef TAG_LATE
byte taken;
#define CHUNK taken
#else
#define CHUNK n
#endif
#ifdef TAG_FIRST
#define MORE_TO_TAKE (count<n)
#else
#define MORE_TO_TAKE (W(cons+count)!=req_prod && j<PACKETS)
#endif
active proctype backend() { byte x;
end: do
    :: atomic { pc==0 && FROM_RECORD -> pc=3 }
    :: atomic { pc==0 && !FROM_RECORD && cons!=req_prod ->
#ifdef TAG_FIRST
        do
        :: W(cons+count)!=req_prod && j<PACKETS ->
            if :: !(more & BIT(slot[W(cons+count)%N])) -> j++ :: else fi; count++
        :: else -> break
        od;
        base=cons; n=count; count=0; j=0;
#endif
        pc=1 }
    :: atomic { pc==1 && MORE_TO_TAKE -> take() }
    :: atomic { pc==1 && !MORE_TO_TAKE ->                                       /* T3: one store */
#ifdef TAG_LATE
        taken=count;
#else
        base=cons; n=count;
#endif
        count=0; j=0; pc=3 }
    :: atomic { pc==3 ->                                                        /* T4: sends some packets, or none */
        x=0;
        do
        :: x<CHUNK && (x==0 || WHOLE(x-1)) -> break
        :: x<CHUNK -> x++
        :: x==CHUNK -> break
        od;
        m=x; x=0;
#ifdef REST_FROM_RING
        if :: m>0 -> restarted=0 :: else fi;
#endif
        if :: m>0 -> pc=5 :: else -> pc=0 fi }
    :: atomic { pc==5 && j<m ->                                                 /* T5 */
        slotrsp[W(cons+j)%N]=1; slot[W(cons+j)%N]=jser[j]; slotid[W(cons+j)%N]=jid[j];
        j++;
#ifdef MIDPACKET
        rsp_prod=W(cons+j)
#endif
        }
#ifdef TAG_LATE
    :: atomic { pc==5 && j==m -> base=cons; n=taken; pc=55 }
    :: atomic { pc==55 -> rsp_prod=W(cons+m); pc=6 }
#else
    :: atomic { pc==5 && j==m ->                                                /* T6: the answers are given */
        rsp_prod=W(cons+m); pc=6 }
#endif
    :: atomic { pc==6 -> event=1; cons=W(cons+m);
        m=0; j=0; count=0; pc=0 }
    :: atomic { pc==100 ->
        cons=rsp_prod;
#ifdef REST_FROM_RING
        restarted=1;
#endif
        pc=(RESTORES -> 101 : 102) }
    :: atomic { pc==101 && j<n ->
        slotrsp[W(base+j)%N]=0; slot[W(base+j)%N]=jser[j]; slotid[W(base+j)%N]=jid[j]; j++ }
    :: atomic { pc==101 && j==n -> j=0; pc=102 }
    :: atomic { pc==102 ->
#ifndef NO_NOTIFY
        event=1;
#endif
        pc=0 }
    od
}
active proctype killer() {
    do
    :: atomic { kills<MAXC && pc!=100 ->
        kills++; pc=100; cons=0; count=0; m=0; j=0
#ifdef TAG_LATE
        ; taken=0
#endif
        }
    :: kills==MAXC -> break
    od
}
active proctype checker() { timeout -> assert(answered==M) }
