// Xen's own headers (Debian's libxen-dev), as data and functions that Swift can call: the reference that the tests
// compare this project with. No Xen header is included here, because their names are also ours.
#pragma once
#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

/// A field (or, with offset 0, a whole structure) as this project declares it and as Xen's header does.
struct reference_field {
    const char *name;
    uint32_t offset, size;
    uint32_t reference_offset, reference_size;
};
/// All fields of all structures of CXen.h; ends with an entry whose name is empty.
const struct reference_field *reference_fields(void);
const struct reference_field *reference_fields_x86_32(void);

/// A constant of Xen's headers by its name there; ends with an entry whose name is empty.
struct reference_constant {
    const char *name;
    int64_t value;
};
const struct reference_constant *reference_constants(void);

/// The kernel's structure of a grant copy.
const struct reference_field *reference_fields_linux(void);
/// The numbers of the calls of gntdev and evtchn, from the kernel's headers and from Xen's.
const struct reference_constant *reference_device_calls_linux(void);
const struct reference_constant *reference_device_calls_xen(void);

/// One end of a ring, between two calls of the macros.
struct reference_ring {
    /// req_prod_pvt of a front, rsp_prod_pvt of a back.
    uint32_t produced;
    /// rsp_cons of a front, req_cons of a back.
    uint32_t consumed;
    uint32_t entries;
    void *shared;
};

/// ring.h's macros and blkif.h's structures for one ABI.
struct reference_abi {
    uint32_t (*ring_size)(void *shared, uint32_t pages);
    void (*initialise_shared)(void *shared, uint32_t index);
    struct reference_ring (*attach)(void *shared, uint32_t pages, uint32_t index);

    uint32_t (*free_requests)(struct reference_ring front);
    uint32_t (*unconsumed_responses)(struct reference_ring front);
    uint32_t (*unconsumed_requests)(struct reference_ring back);
    int (*request_prod_overflow)(struct reference_ring back, uint32_t claimed);
    int (*response_prod_overflow)(struct reference_ring front, uint32_t claimed);
    uint32_t (*request_offset)(struct reference_ring ring, uint32_t index);
    uint32_t (*response_offset)(struct reference_ring ring, uint32_t index);

    /// RING_PUSH_..._AND_CHECK_NOTIFY: whether to notify.
    int (*push_requests)(struct reference_ring front);
    int (*push_responses)(struct reference_ring back);
    /// RING_FINAL_CHECK_FOR_...: whether there is work to do.
    int (*final_check_requests)(struct reference_ring back);
    int (*final_check_responses)(struct reference_ring front);

    uint32_t request_bytes, response_bytes;
    void (*write_request)(
        void *slot, uint8_t operation, uint8_t segments, uint16_t handle, uint64_t id, uint64_t sector,
        const uint64_t *raw_segments);
    void (*write_discard)(
        void *slot, uint8_t operation, uint8_t flag, uint16_t handle, uint64_t id, uint64_t sector, uint64_t sectors);
    void (*write_indirect)(
        void *slot, uint8_t operation, uint8_t inner, uint16_t segments, uint16_t handle, uint64_t id,
        uint64_t sector, const uint32_t *references);
    void (*write_response)(void *slot, uint64_t id, uint8_t operation, int16_t status);
};
const struct reference_abi *reference_native(void);
const struct reference_abi *reference_x86_32(void);

#pragma clang assume_nonnull end
