// The prototype's backend: take -> (copy in) -> submit -> reap -> (copy out) -> publish, in chunks.
#include "blkif_pair.h"

#include <liburing.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#define WAKE_TAG (~0ull)

struct segment { uint32_t grant; uint16_t offset, length; };

struct slot {
    uint64_t id;
    uint32_t bytes, next_free;
    uint8_t operation, segment_count;
    uint8_t *bounce;
    struct segment segments[MAX_SEGMENTS];
    struct iovec vectors[MAX_SEGMENTS];
};

struct backend {
    struct world *world;
    struct blkif_back_ring ring;
    struct io_uring uring;
    struct slot *slots;
    uint32_t first_free, in_flight;
    uint8_t *grants;
    bool wake_armed;
};

static void set_up_slots(struct backend *b) {
    uint32_t count = RING_SIZE(&b->ring);
    size_t bytes = (size_t)count * b->world->block_bytes;
    uint8_t *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) die("backend: no bounce memory");
    b->slots = calloc(count, sizeof *b->slots);
    for (uint32_t i = 0; i < count; i++) {
        b->slots[i].bounce = memory + (size_t)i * b->world->block_bytes;
        b->slots[i].next_free = i + 1;
    }
    if (!b->world->registered_buffers) return;
    struct iovec bounce = {memory, bytes};
    struct iovec shared = {b->grants, (size_t)b->world->grant_count * PAGE_BYTES};
    if (io_uring_register_buffers(&b->uring, b->world->direct_to_grant ? &shared : &bounce, 1))
        die("backend: io_uring refuses the buffers");
}

static void set_up_uring(struct backend *b) {
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE, .cq_entries = 2048};
    if (io_uring_queue_init_params(512, &b->uring, &parameters)) die("backend: no io_uring");
    io_uring_register_ring_fd(&b->uring);
    if (b->world->file >= 0 && io_uring_register_files(&b->uring, &b->world->file, 1))
        die("backend: io_uring refuses the file");
}

// Fills `slot` from a private copy of the request and returns the byte offset of the I/O.
static uint64_t parse(struct backend *b, const struct blkif_request *request, struct slot *slot) {
    struct blkif_request_segment wire[MAX_SEGMENTS];
    const struct blkif_request_indirect *indirect = (const void *)request;
    uint64_t sector;
    if (__builtin_expect(request->operation != BLKIF_OP_INDIRECT, 1)) {
        slot->operation = request->operation;
        slot->id = request->id;
        slot->segment_count = request->nr_segments;
        sector = request->sector_number;
        if (slot->segment_count > BLKIF_MAX_SEGMENTS_PER_REQUEST) die("backend: too many segments");
        memcpy(wire, request->seg, slot->segment_count * sizeof wire[0]);
    } else {
        slot->operation = indirect->indirect_op;
        slot->id = indirect->id;
        if (indirect->nr_segments > MAX_SEGMENTS) die("backend: too many indirect segments");
        slot->segment_count = (uint8_t)indirect->nr_segments;
        sector = indirect->sector_number;
        if (indirect->indirect_grefs[0] >= b->world->grant_count) die("backend: wild indirect page");
        memcpy(
            wire, b->grants + (size_t)indirect->indirect_grefs[0] * PAGE_BYTES,
            slot->segment_count * sizeof wire[0]);
    }
    slot->bytes = 0;
    for (uint32_t i = 0; i < slot->segment_count; i++) {
        if (wire[i].gref >= b->world->grant_count || wire[i].last_sect > 7 || wire[i].first_sect > wire[i].last_sect)
            die("backend: wild segment");
        uint16_t length = (uint16_t)((wire[i].last_sect - wire[i].first_sect + 1) * SECTOR_BYTES);
        slot->segments[i] =
            (struct segment){wire[i].gref, (uint16_t)(wire[i].first_sect * SECTOR_BYTES), length};
        slot->bytes += length;
    }
    return sector * SECTOR_BYTES;
}

static uint8_t *granted(const struct backend *b, const struct segment *segment) {
    return b->grants + (size_t)segment->grant * PAGE_BYTES + segment->offset;
}

static void copy_from_guest(struct backend *b, struct slot *slot) {
    uint8_t *to = slot->bounce;
    for (uint32_t i = 0; i < slot->segment_count; to += slot->segments[i++].length)
        memcpy(to, granted(b, &slot->segments[i]), slot->segments[i].length);
}

static void copy_to_guest(struct backend *b, struct slot *slot) {
    const uint8_t *from = slot->bounce;
    for (uint32_t i = 0; i < slot->segment_count; from += slot->segments[i++].length)
        memcpy(granted(b, &slot->segments[i]), from, slot->segments[i].length);
}

static void respond(struct backend *b, uint32_t index) {
    struct slot *slot = &b->slots[index];
    if (!b->world->direct_to_grant && slot->operation == BLKIF_OP_READ) copy_to_guest(b, slot);
    struct blkif_response *response = RING_GET_RESPONSE(&b->ring, b->ring.rsp_prod_pvt++);
    response->id = slot->id;
    response->operation = slot->operation;
    response->status = BLKIF_RSP_OKAY;
    slot->next_free = b->first_free;
    b->first_free = index;
}

static void prepare(struct backend *b, uint32_t index, uint64_t offset) {
    struct slot *slot = &b->slots[index];
    bool writes = slot->operation == BLKIF_OP_WRITE, fixed = b->world->registered_buffers;
    struct io_uring_sqe *entry = io_uring_get_sqe(&b->uring);
    if (!entry) die("backend: submission queue full");
    if (b->world->direct_to_grant && slot->segment_count > 1) {
        for (uint32_t i = 0; i < slot->segment_count; i++)
            slot->vectors[i] = (struct iovec){granted(b, &slot->segments[i]), slot->segments[i].length};
        if (writes) io_uring_prep_writev(entry, 0, slot->vectors, slot->segment_count, offset);
        else io_uring_prep_readv(entry, 0, slot->vectors, slot->segment_count, offset);
    } else {
        uint8_t *memory = b->world->direct_to_grant ? granted(b, &slot->segments[0]) : slot->bounce;
        if (fixed && writes) io_uring_prep_write_fixed(entry, 0, memory, slot->bytes, offset, 0);
        else if (fixed) io_uring_prep_read_fixed(entry, 0, memory, slot->bytes, offset, 0);
        else if (writes) io_uring_prep_write(entry, 0, memory, slot->bytes, offset);
        else io_uring_prep_read(entry, 0, memory, slot->bytes, offset);
    }
    entry->flags |= IOSQE_FIXED_FILE;
    entry->user_data = index;
    b->in_flight++;
}

// Takes a chunk of requests; returns how many were submitted or, on the null volume, answered.
static uint32_t take_requests(struct backend *b) {
    RING_IDX consumer = b->ring.req_cons, producer = b->ring.sring->req_prod;
    xen_rmb();
    if (producer - b->ring.rsp_prod_pvt > RING_SIZE(&b->ring)) die("backend: wild producer index");
    uint32_t taken = 0;
    for (; consumer != producer && (!b->world->chunk || taken < b->world->chunk); consumer++, taken++) {
        struct blkif_request request;
        RING_COPY_REQUEST(&b->ring, consumer, &request);
        uint32_t index = b->first_free;
        struct slot *slot = &b->slots[index];
        b->first_free = slot->next_free;
        uint64_t offset = parse(b, &request, slot);
        if (!b->world->direct_to_grant && slot->operation == BLKIF_OP_WRITE) copy_from_guest(b, slot);
        if (b->world->file < 0) respond(b, index);
        else prepare(b, index, offset);
    }
    b->ring.req_cons = consumer;
    if (taken && b->world->file >= 0) io_uring_submit(&b->uring);
    return taken;
}

static uint32_t reap(struct backend *b) {
    struct io_uring_cqe *completion;
    unsigned head, seen = 0;
    uint32_t done = 0;
    io_uring_for_each_cqe(&b->uring, head, completion) {
        seen++;
        if (completion->user_data == WAKE_TAG) {
            if (!(completion->flags & IORING_CQE_F_MORE)) b->wake_armed = false;
            continue;
        }
        uint32_t index = (uint32_t)completion->user_data;
        if (completion->res != (int)b->slots[index].bytes) die("backend: I/O ended with %d", completion->res);
        respond(b, index);
        b->in_flight--;
        done++;
    }
    io_uring_cq_advance(&b->uring, seen);
    return done;
}

static void publish(struct backend *b) {
    if (b->ring.rsp_prod_pvt == b->ring.sring->rsp_prod) return;
    int notify;
    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&b->ring, notify);
    uint64_t one = 1;
    if (notify && write(b->world->to_frontend, &one, sizeof one) < 0) die("backend: notify");
}

static void sleep_until_something(struct backend *b) {
    if (!b->wake_armed) {
        struct io_uring_sqe *entry = io_uring_get_sqe(&b->uring);
        io_uring_prep_poll_multishot(entry, b->world->to_backend, POLLIN);
        entry->poll32_events |= 1u << 31;  // EPOLLET: the eventfd is never read
        entry->user_data = WAKE_TAG;
        b->wake_armed = true;
    }
    io_uring_submit_and_wait(&b->uring, 1);
}

void run_backend(struct world *world) {
    struct backend b = {.world = world, .grants = granted_pages(world)};
    pin_to(world->backend_cpu);
    BACK_RING_INIT(&b.ring, shared_ring(world), ring_bytes(world));
    set_up_uring(&b);
    set_up_slots(&b);
    world->ready = true;
    double last_progress = 0;
    while (!world->stop) {
        uint32_t progress = take_requests(&b);
        progress += reap(&b);
        publish(&b);
        if (progress) {
            if (world->poll_seconds > 0) last_progress = seconds_of(CLOCK_MONOTONIC);
            continue;
        }
        if (world->poll_seconds > 0 && seconds_of(CLOCK_MONOTONIC) - last_progress < world->poll_seconds) {
            __builtin_ia32_pause();
            continue;
        }
        int more;
        RING_FINAL_CHECK_FOR_REQUESTS(&b.ring, more);
        if (!more) sleep_until_something(&b);
    }
    _exit(0);
}
