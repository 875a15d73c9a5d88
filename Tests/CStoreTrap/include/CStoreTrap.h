#pragma once
#include <stddef.h>

/// Lets code run up to its n-th store into memory that outlives the process, and no further: what a SIGKILL leaves behind.
///
/// The code itself runs on; but what the memory held before that store lies in the shadows by then, and whoever puts it
/// back has made the kill. Stores are found by taking the right to write away, and single steps (x86-64). One trap belongs
/// to one thread at a time.

enum { STORE_TRAP_REGIONS = 2, STORE_TRAP_LEVELS = 4 };

struct store_trap_region {
    unsigned char *base;
    size_t length;
    unsigned char *shadow;
};

struct store_trap {
    /// Of each piece of code that is under way: the last is running, and the others wait within a call for it.
    struct store_trap_region regions[STORE_TRAP_LEVELS][STORE_TRAP_REGIONS];
    int levels;
    /// What is written to at this moment.
    struct store_trap_region *open;
    /// Events until the kill, this one included; 0: none is planned.
    long left;
    /// The kill has happened: the shadows hold what was there.
    int is_hit;
    /// Single stores are events, too.
    int watches_stores;
};

/// Whether single stores can be watched on this machine.
int store_trap_can_watch(void);

/// From here on this thread's stores into the regions of this level are events; 0 if there are too many levels.
int store_trap_enter(struct store_trap *trap, const struct store_trap_region regions[STORE_TRAP_REGIONS]);
void store_trap_leave(struct store_trap *trap);

/// Memory that appears while the code runs.
void store_trap_add(struct store_trap *trap, int region, void *base, size_t length, void *shadow);

/// So many further events happen now, one after the other: how many of them before the kill.
long store_trap_pass(struct store_trap *trap, long events);
