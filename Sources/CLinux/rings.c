#define _GNU_SOURCE
#include "CLinux.h"
#include <signal.h>

// liburing 2.3 declares io_uring_register_restrictions and io_uring_enable_rings but does not export them (liburing.map).
static int linux_uring_register(struct io_uring *ring, unsigned operation, void *argument, unsigned count)
{
    long result = syscall(__NR_io_uring_register, ring->ring_fd, operation, argument, count);
    return result < 0 ? -errno : (int)result;
}

int linux_uring_restrict(
    struct io_uring *ring, const uint8_t *submissions, unsigned submission_count, const uint8_t *registrations,
    unsigned registration_count, uint8_t required_flags, uint8_t allowed_flags)
{
    struct io_uring_restriction rules[IORING_RESTRICTION_LAST * 32];
    unsigned count = 0, limit = sizeof rules / sizeof *rules - 2;
    memset(rules, 0, sizeof rules);
    for (unsigned i = 0; i < submission_count && count < limit; i++)
        rules[count++] = (struct io_uring_restriction){.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = submissions[i]};
    for (unsigned i = 0; i < registration_count && count < limit; i++)
        rules[count++] = (struct io_uring_restriction){
            .opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = registrations[i]};
    rules[count++] = (struct io_uring_restriction){
        .opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = required_flags};
    rules[count++] = (struct io_uring_restriction){
        .opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = allowed_flags};
    return linux_uring_register(ring, IORING_REGISTER_RESTRICTIONS, rules, count);
}

int linux_uring_enable(struct io_uring *ring)
{
    return linux_uring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

int linux_uring_set_buffer(struct io_uring *ring, unsigned slot, void *memory, size_t length)
{
    struct iovec vector = {.iov_base = memory, .iov_len = length};
    __u64 tag = 0;
    int result = io_uring_register_buffers_update_tag(ring, slot, &vector, &tag, 1);
    return result < 0 ? result : 0;
}

int linux_aio_setup(unsigned capacity, void **context)
{
    io_context_t made = NULL;
    int result = io_setup((int)capacity, &made);
    *context = made;
    return result;
}

void linux_aio_destroy(void *context) { io_destroy((io_context_t)context); }

int linux_poll_inputs(const int *descriptors, int count, uint64_t nanoseconds)
{
    struct pollfd polled[8];
    struct timespec limit = {
        .tv_sec = (time_t)(nanoseconds / 1000000000u), .tv_nsec = (long)(nanoseconds % 1000000000u)};
    if (count < 0 || count > 8)
        return -EINVAL;
    for (int i = 0; i < count; i++)
        polled[i] = (struct pollfd){descriptors[i], POLLIN, 0};
    int result = ppoll(polled, (nfds_t)count, nanoseconds == UINT64_MAX ? NULL : &limit, NULL), ready = 0;
    if (result < 0)
        return -errno;
    for (int i = 0; i < count; i++)
        ready |= (polled[i].revents != 0) << i;
    return ready;
}

int linux_poll_input(int first, int second, int third, uint64_t nanoseconds)
{
    struct pollfd polled[3] = {{first, POLLIN, 0}, {second, POLLIN, 0}, {third, POLLIN, 0}};
    struct timespec limit = {
        .tv_sec = (time_t)(nanoseconds / 1000000000u), .tv_nsec = (long)(nanoseconds % 1000000000u)};
    int result = ppoll(polled, 3, nanoseconds == UINT64_MAX ? NULL : &limit, NULL), ready = 0;
    if (result < 0)
        return -errno;
    for (int i = 0; i < 3; i++)
        ready |= (polled[i].revents != 0) << i;
    return ready;
}

int linux_read_digit(const char *path)
{
    char digit = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t count = fd < 0 ? -1 : read(fd, &digit, 1);
    if (fd >= 0)
        close(fd);
    return count == 1 && digit >= '0' && digit <= '9' ? digit - '0' : -1;
}
