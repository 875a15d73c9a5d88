// The prototype's frontend and load generator; see blkif_pair.h. Prints one line of JSON.
//
//   blkif_pair [volume=null|PATH] [path=copy|direct] [fixed=0|1] [rw=randread|randwrite|read|write] [bs=4096]
//              [depth=32] [ring-order=0] [chunk=0] [poll-us=0] [direct=0|1] [cpus=F,B] [seconds=1.5] [count=N]
//              [verify=0|1]
#include "blkif_pair.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define WARM_UP_SECONDS 0.2

struct frontend {
    struct world *world;
    struct blkif_front_ring ring;
    uint8_t *grants;
    uint32_t segments, grants_per_request;
    uint32_t *free_ids, free_count;
    uint64_t *expected;            // byte offset that each request reads, for verify
    uint64_t random, next_block, blocks;
    uint64_t done;
};

struct sample { double wall, frontend_cpu, backend_cpu; uint64_t done; };

void pin_to(uint32_t cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) die("no cpu %u", cpu);
}

static uint64_t next_block(struct frontend *f) {
    if (f->world->sequential) {
        uint64_t block = f->next_block++;
        if (f->next_block >= f->blocks) f->next_block = 0;
        return block;
    }
    f->random ^= f->random << 13;
    f->random ^= f->random >> 7;
    f->random ^= f->random << 17;
    return f->random % f->blocks;
}

static bool is_indirect(const struct frontend *f) { return f->segments > BLKIF_MAX_SEGMENTS_PER_REQUEST; }

static uint32_t first_data_grant(const struct frontend *f, uint32_t id) {
    return id * f->grants_per_request + (is_indirect(f) ? 1 : 0);
}

static void fill_segments(const struct frontend *f, struct blkif_request_segment *segments, uint32_t id) {
    for (uint32_t i = 0; i < f->segments; i++)
        segments[i] = (struct blkif_request_segment){.gref = first_data_grant(f, id) + i, .last_sect = 7};
    if (f->world->block_bytes < PAGE_BYTES) segments[0].last_sect = (uint8_t)(f->world->block_bytes / SECTOR_BYTES - 1);
}

static void put_request(struct frontend *f, uint32_t id) {
    uint64_t offset = next_block(f) * f->world->block_bytes;
    uint8_t operation = f->world->writes ? BLKIF_OP_WRITE : BLKIF_OP_READ;
    f->expected[id] = offset;
    struct blkif_request *request = RING_GET_REQUEST(&f->ring, f->ring.req_prod_pvt);
    if (!is_indirect(f)) {
        request->operation = operation;
        request->nr_segments = (uint8_t)f->segments;
        request->handle = 0;
        request->id = id;
        request->sector_number = offset / SECTOR_BYTES;
        fill_segments(f, request->seg, id);
    } else {
        struct blkif_request_indirect *indirect = (void *)request;
        indirect->operation = BLKIF_OP_INDIRECT;
        indirect->indirect_op = operation;
        indirect->nr_segments = (uint16_t)f->segments;
        indirect->handle = 0;
        indirect->id = id;
        indirect->sector_number = offset / SECTOR_BYTES;
        indirect->indirect_grefs[0] = id * f->grants_per_request;
        fill_segments(f, (void *)(f->grants + (size_t)id * f->grants_per_request * PAGE_BYTES), id);
    }
    f->ring.req_prod_pvt++;
}

// With verify, each 512-byte sector of the volume begins with its own byte offset.
static void check_data(const struct frontend *f, uint32_t id) {
    uint64_t found;
    memcpy(&found, f->grants + (size_t)first_data_grant(f, id) * PAGE_BYTES, sizeof found);
    if (found != f->expected[id]) die("verify: read %lu where %lu belongs", found, f->expected[id]);
}

static void take_responses(struct frontend *f) {
    RING_IDX producer = f->ring.sring->rsp_prod, consumer = f->ring.rsp_cons;
    xen_rmb();
    uint32_t taken = 0;
    for (; consumer != producer && (!f->world->chunk || taken < f->world->chunk); consumer++, taken++) {
        struct blkif_response response;
        RING_COPY_RESPONSE(&f->ring, consumer, &response);
        if (response.status != BLKIF_RSP_OKAY) die("request %lu failed", (unsigned long)response.id);
        if (f->world->verify) check_data(f, (uint32_t)response.id);
        f->free_ids[f->free_count++] = (uint32_t)response.id;
    }
    f->ring.rsp_cons = consumer;
    f->done += taken;
}

static void put_requests(struct frontend *f) {
    if (!f->free_count) return;
    while (f->free_count) put_request(f, f->free_ids[--f->free_count]);
    int notify;
    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&f->ring, notify);
    uint64_t one = 1;
    if (notify && write(f->world->to_backend, &one, sizeof one) < 0) die("frontend: notify");
}

static void wait_for_responses(struct frontend *f) {
    int more;
    RING_FINAL_CHECK_FOR_RESPONSES(&f->ring, more);
    uint64_t events;
    if (!more && read(f->world->to_frontend, &events, sizeof events) < 0) die("frontend: wait");
}

static struct sample take_sample(const struct frontend *f, clockid_t backend_clock) {
    return (struct sample){
        seconds_of(CLOCK_MONOTONIC), seconds_of(CLOCK_PROCESS_CPUTIME_ID), seconds_of(backend_clock), f->done};
}

static void report(const struct sample *from, const struct sample *to) {
    double requests = (double)(to->done - from->done), wall = to->wall - from->wall;
    printf(
        "{\"requests\": %.0f, \"iops\": %.0f, \"backend_cpu_ns\": %.1f, \"frontend_cpu_ns\": %.1f}\n", requests,
        requests / wall, (to->backend_cpu - from->backend_cpu) / requests * 1e9,
        (to->frontend_cpu - from->frontend_cpu) / requests * 1e9);
}

static void stop_backend(struct world *world, int process) {
    uint64_t one = 1;
    world->stop = true;
    if (write(world->to_backend, &one, sizeof one) < 0) die("frontend: notify");
    for (int i = 0; i < 100 && waitpid(process, NULL, WNOHANG) != process; i++) usleep(2000);
    kill(process, SIGKILL);
}

void run_frontend(struct world *world, int backend_process) {
    struct frontend f = {.world = world, .grants = granted_pages(world), .random = 88172645463325252ull};
    f.segments = (world->block_bytes + PAGE_BYTES - 1) / PAGE_BYTES;
    f.grants_per_request = f.segments + (is_indirect(&f) ? 1 : 0);
    f.blocks = world->volume_bytes / world->block_bytes;
    f.free_ids = calloc(world->depth, sizeof *f.free_ids);
    f.expected = calloc(world->depth, sizeof *f.expected);
    for (uint32_t id = 0; id < world->depth; id++) f.free_ids[f.free_count++] = id;
    FRONT_RING_INIT(&f.ring, shared_ring(world), ring_bytes(world));

    clockid_t backend_clock;
    clock_getcpuclockid(backend_process, &backend_clock);
    struct sample start = take_sample(&f, backend_clock), now = start;
    bool warm = world->request_limit > 0;
    for (uint32_t turn = 0;; turn++) {
        take_responses(&f);
        put_requests(&f);
        if (turn % 16 == 0 || world->depth <= 4) {
            now.wall = seconds_of(CLOCK_MONOTONIC);
            if (!warm && now.wall - start.wall > WARM_UP_SECONDS) {
                warm = true;
                start = take_sample(&f, backend_clock);
            } else if (warm && (world->request_limit ? f.done >= world->request_limit
                                                     : now.wall - start.wall > world->seconds)) {
                break;
            }
        }
        wait_for_responses(&f);
    }
    now = take_sample(&f, backend_clock);
    stop_backend(world, backend_process);
    report(&start, &now);
}

static bool is(const char *option, const char *name) { return strcmp(option, name) == 0; }

static void parse_option(struct world *w, char *option, const char **volume, bool *o_direct) {
    char *value = strchr(option, '=');
    if (!value) die("option without '=': %s", option);
    *value++ = 0;
    if (is(option, "volume")) *volume = value;
    else if (is(option, "path")) w->direct_to_grant = is(value, "direct");
    else if (is(option, "fixed")) w->registered_buffers = atoi(value);
    else if (is(option, "rw")) w->writes = strstr(value, "write"), w->sequential = !strstr(value, "rand");
    else if (is(option, "bs")) w->block_bytes = (uint32_t)atoi(value);
    else if (is(option, "depth")) w->depth = (uint32_t)atoi(value);
    else if (is(option, "ring-order")) w->ring_order = (uint32_t)atoi(value);
    else if (is(option, "chunk")) w->chunk = (uint32_t)atoi(value);
    else if (is(option, "poll-us")) w->poll_seconds = atof(value) * 1e-6;
    else if (is(option, "direct")) *o_direct = atoi(value);
    else if (is(option, "seconds")) w->seconds = atof(value);
    else if (is(option, "count")) w->request_limit = strtoull(value, NULL, 10);
    else if (is(option, "verify")) w->verify = atoi(value);
    else if (is(option, "cpus") && sscanf(value, "%u,%u", &w->frontend_cpu, &w->backend_cpu) == 2) return;
    else if (is(option, "cpus")) die("cpus=F,B");
    else die("unknown option %s", option);
}

static void open_volume(struct world *w, const char *volume, bool o_direct) {
    w->file = -1;
    w->volume_bytes = 1ull << 30;
    if (is(volume, "null")) return;
    w->file = open(volume, O_RDWR | (o_direct ? O_DIRECT : 0));
    if (w->file < 0) die("cannot open %s", volume);
    w->volume_bytes = (uint64_t)lseek(w->file, 0, SEEK_END);
}

// One memfd-backed region with the world, the ring and the granted pages; both processes map it.
static struct world *make_region(const struct world *options) {
    size_t bytes = PAGE_BYTES + ring_bytes(options) + (size_t)options->grant_count * PAGE_BYTES;
    int memory = memfd_create("blkif_pair", 0);
    if (memory < 0 || ftruncate(memory, (off_t)bytes)) die("no memfd");
    struct world *world = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory, 0);
    if (world == MAP_FAILED) die("cannot map the region");
    *world = *options;
    SHARED_RING_INIT(shared_ring(world));
    memset(granted_pages(world), 1, (size_t)world->grant_count * PAGE_BYTES);
    return world;
}

int main(int count, char **arguments) {
    struct world options = {.depth = 32, .block_bytes = 4096, .seconds = 1.5, .backend_cpu = 1};
    const char *volume = "null";
    bool o_direct = false;
    for (int i = 1; i < count; i++) parse_option(&options, arguments[i], &volume, &o_direct);
    open_volume(&options, volume, o_direct);
    uint32_t segments = (options.block_bytes + PAGE_BYTES - 1) / PAGE_BYTES;
    if (segments > MAX_SEGMENTS) die("bs is at most %d", MAX_SEGMENTS * PAGE_BYTES);
    options.grant_count = options.depth * (segments + 1);
    options.to_backend = eventfd(0, 0);
    options.to_frontend = eventfd(0, 0);
    struct world *world = make_region(&options);
    struct blkif_back_ring probe;
    BACK_RING_INIT(&probe, shared_ring(world), ring_bytes(world));
    if (world->depth > RING_SIZE(&probe)) die("depth is at most the ring's %u entries", RING_SIZE(&probe));

    pid_t backend = fork();
    if (backend == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_backend(world);
    }
    pin_to(world->frontend_cpu);
    while (!world->ready) {
        usleep(1000);
        if (waitpid(backend, NULL, WNOHANG) == backend) die("the backend died");
    }
    run_frontend(world, backend);
}
