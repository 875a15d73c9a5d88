// Preloaded into the daemon by the allocations gate: counts heap allocations per thread, in a file that both the
// daemon and the gate see, so that nothing depends on how the daemon ends.
//
//   ALLOCATION_COUNTS=PATH   the file: `struct counts`
//
// Built with -DCONTROL, every payload copy of 4 KiB allocates: the gate must fail then.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { THREADS = 128 };

struct counts {
    uint64_t threads;
    struct thread { uint64_t allocations; char name[16]; } thread[THREADS];
};

static struct counts *counts;
static __thread struct thread *mine;

__attribute__((constructor)) static void open_counts(void) {
    const char *path = getenv("ALLOCATION_COUNTS");
    int file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (file < 0 || ftruncate(file, sizeof *counts)) return;
    void *mapping = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapping != MAP_FAILED) counts = mapping;
    close(file);
}

// The name is read every time because a thread is named after its first allocations.
static void count(void) {
    if (!counts) return;
    if (!mine) {
        uint64_t index = __atomic_fetch_add(&counts->threads, 1, __ATOMIC_RELAXED);
        mine = &counts->thread[index < THREADS ? index : THREADS - 1];
    }
    __atomic_fetch_add(&mine->allocations, 1, __ATOMIC_RELAXED);
    prctl(PR_GET_NAME, mine->name);
}

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

void *malloc(size_t bytes) { return count(), __libc_malloc(bytes); }
void *calloc(size_t items, size_t bytes) { return count(), __libc_calloc(items, bytes); }
void *realloc(void *old, size_t bytes) { return count(), __libc_realloc(old, bytes); }
void *memalign(size_t alignment, size_t bytes) { return count(), __libc_memalign(alignment, bytes); }
void *aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }
int posix_memalign(void **result, size_t alignment, size_t bytes) {
    *result = memalign(alignment, bytes);
    return *result ? 0 : ENOMEM;
}

#ifdef CONTROL
void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
    if (bytes == 4096) free(malloc(1));
    return memmove(to, from, bytes);
}
#endif
