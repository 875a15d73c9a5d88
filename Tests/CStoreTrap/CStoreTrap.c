#define _GNU_SOURCE
#include "CStoreTrap.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

// The handlers touch nothing but the trap of their thread.
static __thread struct store_trap *current;

// Calls for each region of each level.
#define EACH_REGION(trap, region)                                     \
    for (struct store_trap_region *region = (trap)->regions[0];       \
         region < (trap)->regions[(trap)->levels]; region++)          \
        if (region->base)

static void protect(struct store_trap *trap, int protection) {
    EACH_REGION(trap, region) mprotect(region->base, region->length, protection);
}

static int watches(const struct store_trap *trap) {
    return trap->levels > 0 && trap->watches_stores && trap->left > 0 && !trap->is_hit;
}

static void hit(struct store_trap *trap) {
    EACH_REGION(trap, region) memcpy(region->shadow, region->base, region->length);
    trap->left = 0;
    trap->is_hit = 1;
}

#if defined(__x86_64__)

static struct sigaction old_fault, old_step;
static const greg_t single_step = 0x100;

static struct store_trap_region *region_of(struct store_trap *trap, const unsigned char *address) {
    EACH_REGION(trap, region) {
        if (address >= region->base && address < region->base + region->length) return region;
    }
    return NULL;
}

// A store is about to happen. It does, with nothing in its way, and then one step later the memory is watched again.
static void faulted(int signal, siginfo_t *information, void *context) {
    struct store_trap *trap = current;
    struct store_trap_region *region = trap && watches(trap) ? region_of(trap, information->si_addr) : NULL;
    if (!region) {
        sigaction(signal, &old_fault, NULL);  // somebody's error: it happens again, and ends as it would have
        return;
    }
    if (--trap->left == 0) {
        protect(trap, PROT_READ | PROT_WRITE);
        hit(trap);
    } else {
        mprotect(region->base, region->length, PROT_READ | PROT_WRITE);
        trap->open = region;
        ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= single_step;
    }
}

static void stepped(int signal, siginfo_t *information, void *context) {
    (void)information;
    greg_t *flags = &((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
    if (!current || !(*flags & single_step)) {
        sigaction(signal, &old_step, NULL);
        return;
    }
    *flags &= ~single_step;
    mprotect(current->open->base, current->open->length, PROT_READ);
}

static void install(void) {
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = faulted;
    sigaction(SIGSEGV, &action, &old_fault);
    action.sa_sigaction = stepped;
    sigaction(SIGTRAP, &action, &old_step);
}

int store_trap_can_watch(void) { return 1; }

#else

static void install(void) {}
int store_trap_can_watch(void) { return 0; }

#endif

int store_trap_enter(struct store_trap *trap, const struct store_trap_region regions[STORE_TRAP_REGIONS]) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (trap->levels == STORE_TRAP_LEVELS) return 0;
    if (!store_trap_can_watch()) trap->watches_stores = 0;
    if (trap->watches_stores) pthread_once(&once, install);
    memcpy(trap->regions[trap->levels++], regions, sizeof trap->regions[0]);
    current = trap;
    if (watches(trap)) protect(trap, PROT_READ);
    return 1;
}

void store_trap_leave(struct store_trap *trap) {
    if (watches(trap)) protect(trap, PROT_READ | PROT_WRITE);
    trap->levels--;
    if (watches(trap)) protect(trap, PROT_READ);
    if (trap->levels == 0) current = NULL;
}

void store_trap_add(struct store_trap *trap, int region, void *base, size_t length, void *shadow) {
    if (trap->levels == 0) return;
    trap->regions[trap->levels - 1][region] = (struct store_trap_region){.base = base, .length = length, .shadow = shadow};
    if (watches(trap)) protect(trap, PROT_READ);
}

long store_trap_pass(struct store_trap *trap, long events) {
    if (trap->is_hit) return 0;
    if (trap->left == 0) return events;
    if (trap->left > events) {
        trap->left -= events;
        return events;
    }
    long passed = trap->left - 1;
    if (watches(trap)) protect(trap, PROT_READ | PROT_WRITE);
    hit(trap);
    return passed;
}
