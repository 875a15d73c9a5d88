// io_uring and libaio as the engines use them: the shared indices, one call per submission entry, and the system calls
// with -errno as their only way to fail. liburing makes and maps the ring; what runs per operation is inline here.
// Part of CLinux.h, which defines LINUX_INLINE; not included by itself.
#pragma once
#include <features.h>
#include <errno.h>
#include <libaio.h>
#include <liburing.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#pragma clang assume_nonnull begin

// ---- Indices that the kernel shares ---------------------------------------------------------------------------------
LINUX_INLINE uint32_t linux_load_acquire(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
LINUX_INLINE void linux_store_release(uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

// ---- io_uring -------------------------------------------------------------------------------------------------------
// IOSQE_FIXED_FILE is 1U << an enumerator, which Swift does not import.
static const uint8_t linux_sqe_fixed_file = 1u << IOSQE_FIXED_FILE_BIT;
static const uint8_t linux_sqe_silent = 1u << IOSQE_CQE_SKIP_SUCCESS_BIT;

/// A read or a write; `file` is a registered file's number if `flags` say so, else a descriptor. `buffer_slot` counts for the
/// *_FIXED opcodes only.
LINUX_INLINE void linux_sqe_transfer(
    struct io_uring_sqe *sqe, uint8_t opcode, uint8_t flags, int file, void *_Nullable buffer, uint32_t length,
    uint64_t offset, uint16_t buffer_slot, uint64_t user_data)
{
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = opcode;
    sqe->flags = flags;
    sqe->fd = file;
    sqe->addr = (uintptr_t)buffer;
    sqe->len = length;
    sqe->off = offset;
    sqe->buf_index = buffer_slot;
    sqe->user_data = user_data;
}

/// fdatasync of a descriptor's file.
LINUX_INLINE void linux_sqe_synchronize(struct io_uring_sqe *sqe, int descriptor, uint64_t user_data)
{
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_FSYNC;
    sqe->fd = descriptor;
    sqe->fsync_flags = IORING_FSYNC_DATASYNC;
    sqe->user_data = user_data;
}

/// One poll for input of a registered file: one completion, then it is over.
LINUX_INLINE void linux_sqe_poll(struct io_uring_sqe *sqe, int file_slot, uint64_t user_data)
{
    io_uring_prep_poll_add(sqe, file_slot, POLLIN);
    sqe->flags = linux_sqe_fixed_file;
    sqe->user_data = user_data;
}

/// Reads what a descriptor that is watched has to say, once there is something; `capacity` bytes at `bytes`.
LINUX_INLINE void linux_sqe_take_event(
    struct io_uring_sqe *sqe, int file_slot, void *bytes, uint32_t capacity, uint64_t user_data)
{
    linux_sqe_transfer(sqe, IORING_OP_READ, linux_sqe_fixed_file, file_slot, bytes, capacity, 0, 0, user_data);
}

/// Writes a word to a descriptor that is watched; a completion comes only if that fails (5.17).
LINUX_INLINE void linux_sqe_acknowledge(struct io_uring_sqe *sqe, int file_slot, uint32_t *word, uint64_t user_data)
{
    linux_sqe_transfer(sqe, IORING_OP_WRITE, linux_sqe_fixed_file, file_slot, word, sizeof *word, 0, 0, user_data);
    sqe->flags |= linux_sqe_silent;
}

/// Ends all operations on a registered file that have not ended; says how many (5.19).
LINUX_INLINE void linux_sqe_cancel_all(struct io_uring_sqe *sqe, int file_slot, uint64_t user_data)
{
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->flags = linux_sqe_fixed_file;
    sqe->fd = file_slot;
    sqe->cancel_flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_FD | 1u << 3; // IORING_ASYNC_CANCEL_FD_FIXED (6.0)
    sqe->user_data = user_data;
}

/// One completion after `limit`.
LINUX_INLINE void linux_sqe_timeout(struct io_uring_sqe *sqe, struct __kernel_timespec *limit, uint64_t user_data)
{
    io_uring_prep_timeout(sqe, limit, 0, 0);
    sqe->flags = linux_sqe_fixed_file; // demanded of every entry
    sqe->user_data = user_data;
}

/// io_uring_enter(2) without waiting: entries consumed, or -errno.
LINUX_INLINE int linux_uring_enter(int fd, uint32_t submit, uint32_t flags)
{
    long result = syscall(__NR_io_uring_enter, fd, submit, 0u, flags, NULL, (size_t)0);
    return result < 0 ? -errno : (int)result;
}

/// io_uring_enter(2) that waits for one completion; UINT64_MAX nanoseconds: as long as it takes.
LINUX_INLINE int linux_uring_wait(int fd, uint32_t submit, uint32_t flags, uint64_t nanoseconds)
{
    struct __kernel_timespec limit = {
        .tv_sec = (long long)(nanoseconds / 1000000000u), .tv_nsec = (long long)(nanoseconds % 1000000000u)};
    struct io_uring_getevents_arg argument = {
        .sigmask_sz = _NSIG / 8, .ts = nanoseconds == UINT64_MAX ? 0 : (uintptr_t)&limit};
    long result = syscall(
        __NR_io_uring_enter, fd, submit, 1u, flags | IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument,
        sizeof argument);
    return result < 0 ? -errno : (int)result;
}

/// Allows these submission and registration opcodes only, demands `required_flags` of every entry and allows it
/// `allowed_flags` besides; 0 or -errno.
int linux_uring_restrict(
    struct io_uring *ring, const uint8_t *submissions, unsigned submission_count, const uint8_t *registrations,
    unsigned registration_count, uint8_t required_flags, uint8_t allowed_flags);

/// Switches a ring on that was made with IORING_SETUP_R_DISABLED; 0 or -errno.
int linux_uring_enable(struct io_uring *ring);

/// Puts memory into a slot of the registered buffer table, or empties it (length 0); 0 or -errno.
int linux_uring_set_buffer(struct io_uring *ring, unsigned slot, void *_Nullable memory, size_t length);

// ---- libaio ---------------------------------------------------------------------------------------------------------
/// The completion ring at the address of an io_context_t (fs/aio.c); read here to spare io_getevents(2) calls.
struct linux_aio_ring {
    unsigned id, nr, head, tail, magic, compat_features, incompat_features, header_length;
    struct io_event events[];
};
#define LINUX_AIO_RING_MAGIC 0xa10a10a1u

/// A read, write or fdatasync (`IO_CMD_*`) that signals `eventfd` when it ends.
LINUX_INLINE void linux_iocb_prepare(
    struct iocb *block, short command, int fd, void *_Nullable buffer, uint32_t length, uint64_t offset, int eventfd,
    uint32_t tag)
{
    memset(block, 0, sizeof *block);
    block->data = (void *)(uintptr_t)tag;
    block->aio_lio_opcode = command;
    block->aio_fildes = fd;
    block->u.c.buf = buffer;
    block->u.c.nbytes = length;
    block->u.c.offset = (long long)offset;
    block->u.c.flags = 1; // IOCB_FLAG_RESFD (linux/aio_abi.h)
    block->u.c.resfd = (unsigned)eventfd;
}

LINUX_INLINE uint32_t linux_iocb_tag(const struct iocb *block) { return (uint32_t)(uintptr_t)block->data; }
/// io_submit(2): blocks accepted, or -errno.
LINUX_INLINE int linux_aio_submit(void *context, long count, struct iocb *_Nonnull *_Nonnull blocks)
{
    return io_submit((io_context_t)context, count, blocks);
}

/// Whether an operation has ended; true as well where the ring cannot be read from here.
LINUX_INLINE bool linux_aio_ready(void *context)
{
    struct linux_aio_ring *ring = (struct linux_aio_ring *)context;
    return ring->magic != LINUX_AIO_RING_MAGIC || ring->head != __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
}

/// Takes one ended operation, as io_getevents(2) would and without calling it; false if there is none.
LINUX_INLINE bool linux_aio_take(void *context, uint32_t *tag, int32_t *result)
{
    struct linux_aio_ring *ring = (struct linux_aio_ring *)context;
    struct io_event event;
    if (ring->magic == LINUX_AIO_RING_MAGIC) {
        unsigned head = ring->head;
        if (head == __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE))
            return false;
        event = ring->events[head];
        __atomic_store_n(&ring->head, head + 1 == ring->nr ? 0 : head + 1, __ATOMIC_RELEASE);
    } else {
        struct timespec now = {0, 0};
        if (io_getevents((io_context_t)context, 0, 1, &event, &now) != 1)
            return false;
    }
    *tag = (uint32_t)(uintptr_t)event.data;
    *result = (int32_t)(long)event.res;
    return true;
}

/// io_setup(2) and io_destroy(2).
int linux_aio_setup(unsigned capacity, void *_Nullable *_Nonnull context);
void linux_aio_destroy(void *context);

/// The one digit that a file under /proc/sys starts with, or -1.
int linux_read_digit(const char *path);

// ---- Waiting --------------------------------------------------------------------------------------------------------
/// ppoll(2) for input of up to three descriptors (negative: none); a bit per ready one, or -errno. UINT64_MAX: no limit.
int linux_poll_input(int first, int second, int third, uint64_t nanoseconds);

/// The same of up to eight descriptors.
int linux_poll_inputs(const int *descriptors, int count, uint64_t nanoseconds);

#pragma clang assume_nonnull end
