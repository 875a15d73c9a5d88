// The wire formats of Xen's split drivers and the few memory operations that Swift cannot express.
//
// Layouts are this project's own declarations of the public ABI; ConformanceTests compare every offset with Debian's
// libxen-dev (xen/io/blkif.h, xen/io/ring.h, xen/grant_table.h, xen/io/xs_wire.h), and the assertions below fail the
// build before that.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#pragma clang assume_nonnull begin

#define XEN_NO_LOCKS __attribute__((swift_attr("@_noLocks")))
#define XEN_INLINE static inline __attribute__((always_inline)) XEN_NO_LOCKS

#define XEN_PAGE_SIZE_BYTES 4096
#define XEN_PAGE_SHIFT_BITS 12

// ---- Memory shared with a guest -------------------------------------------------------------------------------
// ring.h: an index is read once, with acquire semantics, before the slots that it publishes; it is stored with
// release semantics after them. Event indices additionally need a full barrier between store and re-check.

XEN_INLINE uint32_t xen_load_acquire(const void *cell) { return __atomic_load_n((const uint32_t *)cell, __ATOMIC_ACQUIRE); }
XEN_INLINE uint32_t xen_load_relaxed(const void *cell) { return __atomic_load_n((const uint32_t *)cell, __ATOMIC_RELAXED); }
XEN_INLINE void xen_store_release(void *cell, uint32_t value) { __atomic_store_n((uint32_t *)cell, value, __ATOMIC_RELEASE); }
XEN_INLINE void xen_store_relaxed(void *cell, uint32_t value) { __atomic_store_n((uint32_t *)cell, value, __ATOMIC_RELAXED); }
XEN_INLINE uint64_t xen_load_relaxed64(const void *cell) { return __atomic_load_n((const uint64_t *)cell, __ATOMIC_RELAXED); }
XEN_INLINE uint64_t xen_load_acquire64(const void *cell) { return __atomic_load_n((const uint64_t *)cell, __ATOMIC_ACQUIRE); }
XEN_INLINE void xen_store_release64(void *cell, uint64_t value) { __atomic_store_n((uint64_t *)cell, value, __ATOMIC_RELEASE); }
XEN_INLINE void xen_store_relaxed64(void *cell, uint64_t value) { __atomic_store_n((uint64_t *)cell, value, __ATOMIC_RELAXED); }
XEN_INLINE void xen_store_relaxed8(void *cell, uint8_t value) { __atomic_store_n((uint8_t *)cell, value, __ATOMIC_RELAXED); }
XEN_INLINE int xen_compare_exchange64(void *cell, uint64_t expected, uint64_t desired) {
    return __atomic_compare_exchange_n((uint64_t *)cell, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}
/// Sets bits of a word if none of them is set; 0 if one is. `shared`: other threads do so, too.
XEN_INLINE int xen_claim_bits(uint64_t *word, uint64_t bits, int shared) {
    uint64_t old = __atomic_load_n(word, __ATOMIC_RELAXED);
    do {
        if (old & bits) return 0;
        if (!shared) {
            *word = old | bits;
            return 1;
        }
    } while (!__atomic_compare_exchange_n(word, &old, old | bits, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    return 1;
}
/// Clears bits that xen_claim_bits has set.
XEN_INLINE void xen_unclaim_bits(uint64_t *word, uint64_t bits, int shared) {
    if (shared) __atomic_fetch_and(word, ~bits, __ATOMIC_SEQ_CST);
    else *word &= ~bits;
}
XEN_INLINE uint32_t xen_fetch_add32(void *cell, uint32_t value) { return __atomic_fetch_add((uint32_t *)cell, value, __ATOMIC_SEQ_CST); }
XEN_INLINE uint32_t xen_fetch_sub32(void *cell, uint32_t value) { return __atomic_fetch_sub((uint32_t *)cell, value, __ATOMIC_SEQ_CST); }
XEN_INLINE uint16_t xen_fetch_or16(void *cell, uint16_t bits) { return __atomic_fetch_or((uint16_t *)cell, bits, __ATOMIC_SEQ_CST); }
XEN_INLINE uint16_t xen_fetch_and16(void *cell, uint16_t bits) { return __atomic_fetch_and((uint16_t *)cell, bits, __ATOMIC_SEQ_CST); }
XEN_INLINE void xen_full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
/// Stores before it come before those after it, as whoever follows this thread when it is killed sees them: no instruction.
XEN_INLINE void xen_store_order(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
/// pause(2)-free spin hint.
XEN_INLINE void xen_spin_hint(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield" ::: "memory");
#endif
}

/// Copies guest-shared memory to private memory exactly once. The compiler barrier keeps later reads of the copy from
/// being turned back into reads of the shared original (XSA-155).
XEN_INLINE void xen_copy_out(void *to, const void *shared, size_t bytes) {
    __builtin_memcpy(to, shared, bytes);
    __asm__ volatile("" ::: "memory");
}
/// The two slot sizes of blkif. Written as 16-byte moves, because for baseline x86-64 clang calls memcpy beyond 64 bytes.
typedef uint32_t xen_vector __attribute__((vector_size(16), aligned(4), may_alias));
XEN_INLINE void xen_copy_out_112(void *to, const void *shared) {
    for (int index = 0; index < 7; index++) ((xen_vector *)to)[index] = ((const xen_vector *)shared)[index];
    __asm__ volatile("" ::: "memory");
}
XEN_INLINE void xen_copy_out_32(void *to, const void *shared) {
    for (int index = 0; index < 2; index++) ((xen_vector *)to)[index] = ((const xen_vector *)shared)[index];
    __asm__ volatile("" ::: "memory");
}
XEN_INLINE void xen_copy_out_80(void *to, const void *shared) {
    for (int index = 0; index < 5; index++) ((xen_vector *)to)[index] = ((const xen_vector *)shared)[index];
    __asm__ volatile("" ::: "memory");
}
XEN_INLINE void xen_copy_out_108(void *to, const void *shared) {
    for (int index = 0; index < 6; index++) ((xen_vector *)to)[index] = ((const xen_vector *)shared)[index];
    __builtin_memcpy((char *)to + 96, (const char *)shared + 96, 12);
    __asm__ volatile("" ::: "memory");
}
/// Bulk payload copy.
XEN_INLINE void xen_copy_bytes(void *to, const void *from, size_t bytes) { __builtin_memcpy(to, from, bytes); }

// ---- Shared ring header (xen/io/ring.h, struct __name##_sring) ----------------------------------------------------
#define XEN_RING_REQ_PROD 0
#define XEN_RING_REQ_EVENT 4
#define XEN_RING_RSP_PROD 8
#define XEN_RING_RSP_EVENT 12
#define XEN_RING_ENTRIES 64

// ---- blkif (xen/io/blkif.h) ---------------------------------------------------------------------------------------
struct blkif_segment_wire { uint32_t gref; uint8_t first_sect, last_sect; uint16_t pad; };

// native, x86_64-abi and arm-abi: 64-bit alignment.
struct blkif_request_64 {
    uint8_t operation, nr_segments; uint16_t handle; uint32_t pad;
    uint64_t id, sector_number;
    struct blkif_segment_wire seg[11];
};
struct blkif_discard_64 {
    uint8_t operation, flag; uint16_t handle; uint32_t pad;
    uint64_t id, sector_number, nr_sectors;
};
struct blkif_indirect_64 {
    uint8_t operation, indirect_op; uint16_t nr_segments; uint32_t pad;
    uint64_t id, sector_number; uint16_t handle, pad2; uint32_t indirect_grefs[8];
};
struct blkif_response_64 { uint64_t id; uint8_t operation, pad; int16_t status; uint32_t pad2; };

// x86_32-abi: 64-bit integers are aligned to four bytes.
#pragma pack(push, 4)
struct blkif_request_32 {
    uint8_t operation, nr_segments; uint16_t handle;
    uint64_t id, sector_number;
    struct blkif_segment_wire seg[11];
};
struct blkif_discard_32 {
    uint8_t operation, flag; uint16_t handle;
    uint64_t id, sector_number, nr_sectors;
};
struct blkif_indirect_32 {
    uint8_t operation, indirect_op; uint16_t nr_segments;
    uint64_t id, sector_number; uint16_t handle, pad2; uint32_t indirect_grefs[8]; uint64_t pad3;
};
struct blkif_response_32 { uint64_t id; uint8_t operation, pad; int16_t status; };
#pragma pack(pop)

_Static_assert(sizeof(struct blkif_segment_wire) == 8, "segment");
_Static_assert(sizeof(struct blkif_request_64) == 112 && offsetof(struct blkif_request_64, seg) == 24, "request 64");
_Static_assert(sizeof(struct blkif_request_32) == 108 && offsetof(struct blkif_request_32, seg) == 20, "request 32");
_Static_assert(sizeof(struct blkif_discard_64) == 32 && offsetof(struct blkif_discard_64, nr_sectors) == 24, "discard 64");
_Static_assert(sizeof(struct blkif_discard_32) == 28 && offsetof(struct blkif_discard_32, nr_sectors) == 20, "discard 32");
_Static_assert(sizeof(struct blkif_indirect_64) == 64 && offsetof(struct blkif_indirect_64, indirect_grefs) == 28, "indirect 64");
_Static_assert(sizeof(struct blkif_indirect_32) == 64 && offsetof(struct blkif_indirect_32, indirect_grefs) == 24, "indirect 32");
_Static_assert(sizeof(struct blkif_response_64) == 16 && offsetof(struct blkif_response_64, status) == 10, "response 64");
_Static_assert(sizeof(struct blkif_response_32) == 12 && offsetof(struct blkif_response_32, status) == 10, "response 32");

// ---- netif (xen/io/netif.h) ------------------------------------------------------------------------------------------
struct netif_tx_request_wire { uint32_t gref; uint16_t offset, flags, id, size; };
struct netif_tx_response_wire { uint16_t id; int16_t status; };
struct netif_rx_request_wire { uint16_t id, pad; uint32_t gref; };
struct netif_rx_response_wire { uint16_t id, offset, flags; int16_t status; };
// Takes a slot of either ring; the body's meaning follows from the type.
struct netif_extra_wire { uint8_t type, flags; uint8_t body[6]; };
struct netif_ctrl_request_wire { uint16_t id, type; uint32_t data[3]; };
struct netif_ctrl_response_wire { uint16_t id, type; uint32_t status, data; };
_Static_assert(sizeof(struct netif_tx_request_wire) == 12 && offsetof(struct netif_tx_request_wire, id) == 8, "tx request");
_Static_assert(sizeof(struct netif_tx_response_wire) == 4, "tx response");
_Static_assert(sizeof(struct netif_rx_request_wire) == 8 && offsetof(struct netif_rx_request_wire, gref) == 4, "rx request");
_Static_assert(sizeof(struct netif_rx_response_wire) == 8 && offsetof(struct netif_rx_response_wire, status) == 6, "rx response");
_Static_assert(sizeof(struct netif_extra_wire) == 8, "extra info");
_Static_assert(sizeof(struct netif_ctrl_request_wire) == 16 && offsetof(struct netif_ctrl_request_wire, data) == 4, "control request");
_Static_assert(sizeof(struct netif_ctrl_response_wire) == 12 && offsetof(struct netif_ctrl_response_wire, status) == 4, "control response");

// ---- Grants ---------------------------------------------------------------------------------------------------------
// xen/grant_table.h, struct grant_entry_v1: eight bytes, so a whole entry can be read in one load.
struct xen_grant_entry { uint16_t flags; uint16_t domid; uint32_t frame; };
#define XEN_GTF_permit_access 1u
#define XEN_GTF_type_mask 3u
#define XEN_GTF_readonly 4u
#define XEN_GTF_reading 8u
#define XEN_GTF_writing 16u

// One segment of a grant copy, with the layout of Linux' struct gntdev_grant_copy_segment (xen/gntdev.h): a side is
// either a local address or {ref, offset << 32, domid << 48}, told apart by flags. The live platform hands the array
// to the kernel as it is.
struct xen_grant_copy_segment {
    uint64_t source, dest;
    uint16_t length, flags;
    int16_t status; uint16_t pad;
};
#define XEN_GNTCOPY_source_gref 1
#define XEN_GNTCOPY_dest_gref 2
_Static_assert(sizeof(struct xen_grant_entry) == 8, "grant entry");
_Static_assert(sizeof(struct xen_grant_copy_segment) == 24 && offsetof(struct xen_grant_copy_segment, status) == 20, "copy segment");

// Grant status codes (xen/grant_table.h, GNTST_*).
#define XEN_GNTST_okay 0
#define XEN_GNTST_general_error (-1)
#define XEN_GNTST_bad_domain (-2)
#define XEN_GNTST_bad_gntref (-3)
#define XEN_GNTST_permission_denied (-8)
#define XEN_GNTST_bad_page (-9)
#define XEN_GNTST_bad_copy_arg (-10)

// ---- xenstore frame (xen/io/xs_wire.h, struct xsd_sockmsg) ----------------------------------------------------------
struct xenstore_header { uint32_t type, request, transaction, length; };
_Static_assert(sizeof(struct xenstore_header) == 16, "xenstore header");

#pragma clang assume_nonnull end
