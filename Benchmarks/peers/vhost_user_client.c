// A vhost-user-blk frontend and load generator: the same load as blkif_pair.c's frontend, for a peer such as
// qemu-storage-daemon. One virtqueue, event index, indirect descriptors. Prints one line of JSON.
//
//   vhost_user_client socket=PATH [process=PID] [rw=randread|randwrite|read|write] [bs=4096] [depth=32] [cpu=0]
//                     [seconds=1.5] [verify=0|1]
//
// Protocol: docs/interop/vhost-user.rst of QEMU and virtio 1.1, section 2.6 (split virtqueues).
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { QUEUE_SIZE = 512, HEADER_BYTES = 256, PAGE_BYTES = 4096, HUGE_BYTES = 2 << 20, SECTOR_BYTES = 512 };
#define WARM_UP_SECONDS 0.2
#define PROTOCOL_FEATURES (1ull << 30)
#define MQ_AND_CONFIG ((1ull << 0) | (1ull << 9))
#define die(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))

enum request {
    GET_FEATURES = 1, SET_FEATURES = 2, SET_OWNER = 3, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10, SET_VRING_KICK = 12, SET_VRING_CALL = 13, GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16, SET_VRING_ENABLE = 18, GET_CONFIG = 24
};

struct __attribute__((packed)) message {
    uint32_t request, flags, size;
    union {
        uint64_t number;
        struct { uint32_t index, value; } state;
        struct { uint32_t index, flags; uint64_t descriptors, used, available, log; } addresses;
        struct { uint32_t count, pad; struct { uint64_t guest, size, user, offset; } region; } memory;
        struct { uint32_t offset, size, flags; uint8_t bytes[256]; } config;
    } payload;
};

// What is shared with the backend, by offset from `base`: the queue, then a header area and a buffer for each request.
struct queue {
    uint8_t *base;
    size_t bytes, headers, buffers;
    int memory, kick, call;
    struct vring_desc *descriptors;
    uint16_t *available, *used;              // flags, index, entries...
    struct vring_used_elem *used_entries;
    uint16_t *used_event, *avail_event;
    uint16_t next_available, next_used;
    bool event_index;
};

struct load {
    struct queue queue;
    uint32_t depth, block_bytes;
    bool writes, sequential, verify;
    uint64_t blocks, random, next_block, done;
    uint32_t *free_ids, free_count;
    uint64_t *expected;
};

struct sample { double wall, frontend_cpu, backend_cpu; uint64_t done; };

static int server;

static double seconds_of(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

// ---- vhost-user messages --------------------------------------------------------------------------------------

static void send_message(enum request request, struct message *message, uint32_t size, int descriptor) {
    message->request = request;
    message->flags = 1;
    message->size = size;
    struct iovec bytes = {message, 12 + size};
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr header = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (descriptor >= 0) {
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &descriptor, sizeof descriptor);
    }
    if (sendmsg(server, &header, 0) != (ssize_t)bytes.iov_len) die("vhost-user: send: %s", strerror(errno));
}

static void receive_message(struct message *message) {
    if (recv(server, message, 12, MSG_WAITALL) != 12) die("vhost-user: no reply");
    if (message->size > sizeof message->payload) die("vhost-user: reply of %u bytes", message->size);
    if (message->size && recv(server, &message->payload, message->size, MSG_WAITALL) != (ssize_t)message->size)
        die("vhost-user: short reply");
}

static uint64_t get_number(enum request request) {
    struct message message;
    send_message(request, &message, 0, -1);
    receive_message(&message);
    return message.payload.number;
}

static void set_number(enum request request, uint64_t number, int descriptor) {
    struct message message = {.payload.number = number};
    send_message(request, &message, 8, descriptor);
}

static void set_state(enum request request, uint32_t value) {
    struct message message = {.payload.state = {0, value}};
    send_message(request, &message, 8, -1);
}

static void connect_to(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) die("socket path too long");
    strcpy(address.sun_path, path);
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    for (int i = 0; connect(server, (void *)&address, sizeof address); i++) {
        if (i > 250) die("cannot connect to %s", path);
        usleep(20000);
    }
}

static uint64_t negotiate(void) {
    uint64_t features = get_number(GET_FEATURES);
    struct message owner;
    send_message(SET_OWNER, &owner, 0, -1);
    if (!(features & PROTOCOL_FEATURES) || !(features & 1ull << VIRTIO_RING_F_INDIRECT_DESC))
        die("vhost-user: the peer has no protocol features or no indirect descriptors");
    set_number(SET_PROTOCOL_FEATURES, get_number(GET_PROTOCOL_FEATURES) & MQ_AND_CONFIG, -1);
    features &= 1ull << VIRTIO_F_VERSION_1 | PROTOCOL_FEATURES | 1ull << VIRTIO_RING_F_EVENT_IDX |
                1ull << VIRTIO_RING_F_INDIRECT_DESC;
    return features;
}

static uint64_t capacity_sectors(void) {
    struct message message = {.payload.config.size = 60};
    send_message(GET_CONFIG, &message, 12 + 60, -1);
    receive_message(&message);
    uint64_t sectors;
    if (message.size < 12 + sizeof sectors) die("vhost-user: no configuration space");
    memcpy(&sectors, message.payload.config.bytes, sizeof sectors);
    return sectors;
}

// ---- The queue --------------------------------------------------------------------------------------------------

static size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

static struct queue make_queue(uint32_t depth, uint32_t block_bytes) {
    struct queue q = {0};
    size_t available = sizeof(struct vring_desc) * QUEUE_SIZE;
    size_t used = round_up(available + 6 + 2 * QUEUE_SIZE, PAGE_BYTES);
    q.headers = round_up(used + 6 + sizeof(struct vring_used_elem) * QUEUE_SIZE, PAGE_BYTES);
    q.buffers = round_up(q.headers + (size_t)HEADER_BYTES * depth, PAGE_BYTES);
    q.bytes = round_up(q.buffers + (size_t)depth * block_bytes, HUGE_BYTES);
    q.memory = memfd_create("vhost_user_client", 0);
    if (q.memory < 0 || ftruncate(q.memory, (off_t)q.bytes)) die("no memfd");
    q.base = mmap(NULL, q.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, q.memory, 0);
    if (q.base == MAP_FAILED) die("cannot map the queue");
    memset(q.base + q.buffers, 1, (size_t)depth * block_bytes);
    q.descriptors = (void *)q.base;
    q.available = (void *)(q.base + available);
    q.used = (void *)(q.base + used);
    q.used_entries = (void *)(q.base + used + 4);
    q.used_event = q.available + 2 + QUEUE_SIZE;
    q.avail_event = (void *)(q.used_entries + QUEUE_SIZE);
    q.kick = eventfd(0, 0);
    q.call = eventfd(0, 0);
    return q;
}

static void hand_over(struct queue *q, uint64_t features) {
    q->event_index = features & 1ull << VIRTIO_RING_F_EVENT_IDX;
    set_number(SET_FEATURES, features, -1);
    struct message memory = {.payload.memory = {1, 0, {0, q->bytes, (uint64_t)q->base, 0}}};
    send_message(SET_MEM_TABLE, &memory, 8 + 32, q->memory);
    set_state(SET_VRING_NUM, QUEUE_SIZE);
    set_state(SET_VRING_BASE, 0);
    struct message addresses = {
        .payload.addresses = {0, 0, (uint64_t)q->descriptors, (uint64_t)q->used, (uint64_t)q->available, 0}};
    send_message(SET_VRING_ADDR, &addresses, 40, -1);
    set_number(SET_VRING_CALL, 0, q->call);
    set_number(SET_VRING_KICK, 0, q->kick);
    set_state(SET_VRING_ENABLE, 1);
    get_number(GET_FEATURES);  // a round trip: everything above has been done
    // QEMU makes the shared open file description of the call eventfd non-blocking; this side sleeps in read(2).
    fcntl(q->call, F_SETFL, fcntl(q->call, F_GETFL) & ~O_NONBLOCK);
}

// ---- The load ---------------------------------------------------------------------------------------------------

static uint64_t next_block(struct load *l) {
    if (l->sequential) {
        uint64_t block = l->next_block++;
        if (l->next_block >= l->blocks) l->next_block = 0;
        return block;
    }
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return l->random % l->blocks;
}

static void put_request(struct load *l, uint32_t id) {
    struct queue *q = &l->queue;
    uint64_t offset = next_block(l) * l->block_bytes;
    l->expected[id] = offset;
    size_t header = q->headers + (size_t)HEADER_BYTES * id, status = header + 16, table = header + 32;
    *(struct virtio_blk_outhdr *)(q->base + header) = (struct virtio_blk_outhdr){
        .type = l->writes ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, .sector = offset / SECTOR_BYTES};
    q->base[status] = 0xff;
    struct vring_desc *chain = (void *)(q->base + table);
    uint16_t device_writes = l->writes ? 0 : VRING_DESC_F_WRITE;
    chain[0] = (struct vring_desc){header, 16, VRING_DESC_F_NEXT, 1};
    chain[1] = (struct vring_desc){
        q->buffers + (size_t)id * l->block_bytes, l->block_bytes, (uint16_t)(VRING_DESC_F_NEXT | device_writes), 2};
    chain[2] = (struct vring_desc){status, 1, VRING_DESC_F_WRITE, 0};
    q->descriptors[id] = (struct vring_desc){table, 3 * sizeof *chain, VRING_DESC_F_INDIRECT, 0};
    q->available[2 + q->next_available++ % QUEUE_SIZE] = (uint16_t)id;
}

static void put_requests(struct load *l) {
    struct queue *q = &l->queue;
    uint16_t before = q->next_available;
    while (l->free_count) put_request(l, l->free_ids[--l->free_count]);
    if (q->next_available == before) return;
    __atomic_store_n(&q->available[1], q->next_available, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    bool notify = q->event_index
                      ? vring_need_event(__atomic_load_n(q->avail_event, __ATOMIC_RELAXED), q->next_available, before)
                      : !(__atomic_load_n(&q->used[0], __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY);
    uint64_t one = 1;
    if (notify && write(q->kick, &one, sizeof one) < 0) die("kick");
}

// With verify, each 512-byte sector of the volume begins with its own byte offset.
static void check_request(const struct load *l, uint32_t id) {
    const struct queue *q = &l->queue;
    if (q->base[q->headers + (size_t)HEADER_BYTES * id + 16] != VIRTIO_BLK_S_OK) die("request %u failed", id);
    if (!l->verify) return;
    uint64_t found;
    memcpy(&found, q->base + q->buffers + (size_t)id * l->block_bytes, sizeof found);
    if (found != l->expected[id]) die("verify: read %lu where %lu belongs", found, l->expected[id]);
}

static void take_responses(struct load *l) {
    struct queue *q = &l->queue;
    uint16_t produced = __atomic_load_n(&q->used[1], __ATOMIC_ACQUIRE);
    for (; q->next_used != produced; q->next_used++, l->done++) {
        uint32_t id = q->used_entries[q->next_used % QUEUE_SIZE].id;
        check_request(l, id);
        l->free_ids[l->free_count++] = id;
    }
}

static void wait_for_responses(struct queue *q) {
    if (q->event_index) __atomic_store_n(q->used_event, q->next_used, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint64_t events;
    if (__atomic_load_n(&q->used[1], __ATOMIC_ACQUIRE) == q->next_used && read(q->call, &events, sizeof events) < 0)
        die("wait");
}

static struct sample take_sample(const struct load *l, clockid_t backend_clock) {
    return (struct sample){
        seconds_of(CLOCK_MONOTONIC), seconds_of(CLOCK_PROCESS_CPUTIME_ID), seconds_of(backend_clock), l->done};
}

static void run(struct load *l, double seconds, clockid_t backend_clock) {
    struct sample start = take_sample(l, backend_clock), now = start;
    bool warm = false;
    for (uint32_t turn = 0;; turn++) {
        take_responses(l);
        put_requests(l);
        if (turn % 16 == 0 || l->depth <= 4) {
            now.wall = seconds_of(CLOCK_MONOTONIC);
            if (!warm && now.wall - start.wall > WARM_UP_SECONDS) {
                warm = true;
                start = take_sample(l, backend_clock);
            } else if (warm && now.wall - start.wall > seconds) {
                break;
            }
        }
        wait_for_responses(&l->queue);
    }
    now = take_sample(l, backend_clock);
    double requests = (double)(now.done - start.done);
    printf(
        "{\"requests\": %.0f, \"iops\": %.0f, \"backend_cpu_ns\": %.1f, \"frontend_cpu_ns\": %.1f}\n", requests,
        requests / (now.wall - start.wall), (now.backend_cpu - start.backend_cpu) / requests * 1e9,
        (now.frontend_cpu - start.frontend_cpu) / requests * 1e9);
}

static void pin_to(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) die("no cpu %d", cpu);
}

static bool is(const char *option, const char *name) { return strcmp(option, name) == 0; }

int main(int count, char **arguments) {
    struct load l = {.depth = 32, .block_bytes = 4096, .random = 88172645463325252ull};
    const char *path = NULL;
    double seconds = 1.5;
    int process = getpid(), cpu = 0;
    for (int i = 1; i < count; i++) {
        char *option = arguments[i], *value = strchr(option, '=');
        if (!value) die("option without '=': %s", option);
        *value++ = 0;
        if (is(option, "socket")) path = value;
        else if (is(option, "process")) process = atoi(value);
        else if (is(option, "rw")) l.writes = strstr(value, "write"), l.sequential = !strstr(value, "rand");
        else if (is(option, "bs")) l.block_bytes = (uint32_t)atoi(value);
        else if (is(option, "depth")) l.depth = (uint32_t)atoi(value);
        else if (is(option, "cpu")) cpu = atoi(value);
        else if (is(option, "seconds")) seconds = atof(value);
        else if (is(option, "verify")) l.verify = atoi(value);
        else die("unknown option %s", option);
    }
    if (!path) die("socket=PATH is needed");
    if (l.depth > QUEUE_SIZE) die("depth is at most %d", QUEUE_SIZE);
    pin_to(cpu);
    connect_to(path);
    uint64_t features = negotiate();
    l.blocks = capacity_sectors() * SECTOR_BYTES / l.block_bytes;
    if (!l.blocks) die("the volume is smaller than one block");
    l.queue = make_queue(l.depth, l.block_bytes);
    hand_over(&l.queue, features);
    l.free_ids = calloc(l.depth, sizeof *l.free_ids);
    l.expected = calloc(l.depth, sizeof *l.expected);
    for (uint32_t id = 0; id < l.depth; id++) l.free_ids[l.free_count++] = id;
    clockid_t backend_clock;
    clock_getcpuclockid(process, &backend_clock);
    run(&l, seconds, backend_clock);
}
