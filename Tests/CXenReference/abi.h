// The macros of ring.h as functions, for the ABI that the including file has set up. Every function rebuilds the
// macros' own structure from its argument, so that nothing but the macro decides.
#include "CXenReference.h"

static blkif_front_ring_t front_of(struct reference_ring r) {
    return (blkif_front_ring_t){r.produced, r.consumed, r.entries, r.shared};
}
static blkif_back_ring_t back_of(struct reference_ring r) {
    return (blkif_back_ring_t){r.produced, r.consumed, r.entries, r.shared};
}

static uint32_t ring_size(void *shared, uint32_t pages) {
    return (uint32_t)__RING_SIZE((blkif_sring_t *)shared, (unsigned long)pages * 4096);
}
static void initialise_shared(void *shared, uint32_t index) {
    blkif_sring_t *ring = shared;
    SHARED_RING_INIT(ring);
    ring->req_prod = ring->rsp_prod = index;
    ring->req_event = ring->rsp_event = index + 1;
}
static struct reference_ring attach(void *shared, uint32_t pages, uint32_t index) {
    blkif_front_ring_t front;
    FRONT_RING_ATTACH(&front, (blkif_sring_t *)shared, index, (unsigned long)pages * 4096);
    return (struct reference_ring){front.req_prod_pvt, front.rsp_cons, front.nr_ents, front.sring};
}

static uint32_t free_requests(struct reference_ring r) {
    blkif_front_ring_t front = front_of(r);
    return RING_FREE_REQUESTS(&front);
}
static uint32_t unconsumed_responses(struct reference_ring r) {
    blkif_front_ring_t front = front_of(r);
    return XEN_RING_NR_UNCONSUMED_RESPONSES(&front);
}
static uint32_t unconsumed_requests(struct reference_ring r) {
    blkif_back_ring_t back = back_of(r);
    return XEN_RING_NR_UNCONSUMED_REQUESTS(&back);
}
static int request_prod_overflow(struct reference_ring r, uint32_t claimed) {
    blkif_back_ring_t back = back_of(r);
    return RING_REQUEST_PROD_OVERFLOW(&back, claimed);
}
static int response_prod_overflow(struct reference_ring r, uint32_t claimed) {
    blkif_front_ring_t front = front_of(r);
    return RING_RESPONSE_PROD_OVERFLOW(&front, claimed);
}
static uint32_t request_offset(struct reference_ring r, uint32_t index) {
    blkif_back_ring_t back = back_of(r);
    return (uint32_t)((char *)RING_GET_REQUEST(&back, index) - (char *)r.shared);
}
static uint32_t response_offset(struct reference_ring r, uint32_t index) {
    blkif_back_ring_t back = back_of(r);
    return (uint32_t)((char *)RING_GET_RESPONSE(&back, index) - (char *)r.shared);
}

static int push_requests(struct reference_ring r) {
    blkif_front_ring_t front = front_of(r);
    int notify;
    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&front, notify);
    return notify;
}
static int push_responses(struct reference_ring r) {
    blkif_back_ring_t back = back_of(r);
    int notify;
    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&back, notify);
    return notify;
}
static int final_check_requests(struct reference_ring r) {
    blkif_back_ring_t back = back_of(r);
    int work;
    RING_FINAL_CHECK_FOR_REQUESTS(&back, work);
    return work != 0;
}
static int final_check_responses(struct reference_ring r) {
    blkif_front_ring_t front = front_of(r);
    int work;
    RING_FINAL_CHECK_FOR_RESPONSES(&front, work);
    return work != 0;
}

static void write_request(
    void *slot, uint8_t operation, uint8_t segments, uint16_t handle, uint64_t id, uint64_t sector,
    const uint64_t *raw_segments) {
    struct blkif_request *request = slot;
    request->operation = operation;
    request->nr_segments = segments;
    request->handle = handle;
    request->id = id;
    request->sector_number = sector;
    memcpy(request->seg, raw_segments, sizeof request->seg);
}
static void write_discard(
    void *slot, uint8_t operation, uint8_t flag, uint16_t handle, uint64_t id, uint64_t sector, uint64_t sectors) {
    struct blkif_request_discard *request = slot;
    request->operation = operation;
    request->flag = flag;
    request->handle = handle;
    request->id = id;
    request->sector_number = sector;
    request->nr_sectors = sectors;
}
static void write_indirect(
    void *slot, uint8_t operation, uint8_t inner, uint16_t segments, uint16_t handle, uint64_t id, uint64_t sector,
    const uint32_t *references) {
    struct blkif_request_indirect *request = slot;
    request->operation = operation;
    request->indirect_op = inner;
    request->nr_segments = segments;
    request->handle = handle;
    request->id = id;
    request->sector_number = sector;
    memcpy(request->indirect_grefs, references, sizeof request->indirect_grefs);
}
static void write_response(void *slot, uint64_t id, uint8_t operation, int16_t status) {
    struct blkif_response *response = slot;
    response->id = id;
    response->operation = operation;
    response->status = status;
}

static const struct reference_abi table = {
    ring_size, initialise_shared, attach, free_requests, unconsumed_responses, unconsumed_requests,
    request_prod_overflow, response_prod_overflow, request_offset, response_offset, push_requests, push_responses,
    final_check_requests, final_check_responses, (uint32_t)sizeof(struct blkif_request),
    (uint32_t)sizeof(struct blkif_response), write_request, write_discard, write_indirect, write_response,
};
