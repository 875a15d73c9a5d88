// C prototype of the same shape: a blkfront and a blkback in two processes over one memfd, with Xen's own ring macros.
// It shows what the ring, a bounce copy and io_uring cost without a grant table, a life cycle or a control plane, and
// is what this project's backend is compared with. It serves one fixed frontend and is no backend for a guest.
#pragma once
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define __XEN_INTERFACE_VERSION__ 0x00040d00
#define xen_mb() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define xen_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define xen_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)
#include <xen/xen.h>
#include <xen/io/ring.h>
#include <xen/io/blkif.h>

enum { PAGE_BYTES = 4096, SECTOR_BYTES = 512, MAX_SEGMENTS = 32 };

// What both sides know, in the first page of the shared region: [this][ring pages][granted pages]. A grant reference
// is the index of a granted page.
struct world {
    // The run.
    uint32_t depth, block_bytes, ring_order, grant_count;
    uint32_t frontend_cpu, backend_cpu;
    bool writes, sequential, verify;
    uint64_t volume_bytes;
    double seconds;
    uint64_t request_limit;        // 0: stop after `seconds`

    // The backend's path.
    int32_t file;                  // -1: complete at once, touching no file
    bool direct_to_grant;          // I/O straight into the granted page instead of a bounce buffer
    bool registered_buffers;
    uint32_t chunk;                // requests taken before responses are published; 0: all there are
    double poll_seconds;           // how long to spin before sleeping

    // Descriptors that both inherit.
    int32_t to_backend, to_frontend;

    volatile bool ready, stop;
};

static inline struct blkif_sring *shared_ring(struct world *world) {
    return (struct blkif_sring *)((uint8_t *)world + PAGE_BYTES);
}
static inline size_t ring_bytes(const struct world *world) { return (size_t)PAGE_BYTES << world->ring_order; }
static inline uint8_t *granted_pages(struct world *world) {
    return (uint8_t *)world + PAGE_BYTES + ring_bytes(world);
}

static inline double seconds_of(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

#define die(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), _exit(1))

void pin_to(uint32_t cpu);
void run_backend(struct world *world);
void run_frontend(struct world *world, int backend_process);
