// Block devices and files as volumes: ioctls and calls that Swift cannot import. A value or -errno; no policy.
// Part of CLinux.h; not included by itself.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#pragma clang assume_nonnull begin

/// BLKGETSIZE64; 0 or -errno.
int linux_block_capacity(int fd, uint64_t *bytes);
/// BLKSSZGET and BLKPBSZGET; 0 or -errno.
int linux_block_sizes(int fd, uint32_t *logical, uint32_t *physical);
/// BLKROGET: 1 read-only, 0 writable, or -errno.
int linux_block_is_read_only(int fd);
/// BLKDISCARD; 0 or -errno.
int linux_block_discard(int fd, uint64_t offset, uint64_t length);
/// fallocate(2) with FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE; 0 or -errno.
int linux_punch_hole(int fd, uint64_t offset, uint64_t length);
/// Bytes that offset and length of direct I/O must be multiples of (statx(2), STATX_DIOALIGN, Linux 6.1); 0: the file
/// has no direct I/O; -errno: the kernel or the file system does not say.
int linux_direct_alignment(int fd);
/// Clears O_NONBLOCK; 0 or -errno.
int linux_set_blocking(int fd);
/// What a loop device shows, and how (LOOP_GET_STATUS64).
struct linux_loop {
    /// The file behind it, as stat(2) names it.
    uint64_t device, inode;
    /// Bytes of the file that are left out before, and shown at most; 0: all that follow.
    uint64_t offset, limit;
    int read_only, direct;
};
/// 0 or -errno; ENXIO or ENOTTY where a device is no loop device.
int linux_loop_status(int fd, struct linux_loop *status);
/// fdatasync(2); 0 or -errno.
int linux_synchronize(int fd);
/// Whether this is a regular file in a file system that consists of memory (tmpfs, ramfs).
int linux_is_in_memory(int fd);
/// One pread(2) or pwrite(2), repeated when a signal interrupts it; bytes or -errno.
ssize_t linux_read_at(int fd, void *_Nullable bytes, size_t count, uint64_t offset);
ssize_t linux_write_at(int fd, const void *_Nullable bytes, size_t count, uint64_t offset);
/// Reads a small text file, as those under /sys, and ends it with NUL; bytes read or -errno.
ssize_t linux_read_text(const char *path, char *buffer, size_t size);
/// Major and minor number of a device.
uint32_t linux_device_major(uint64_t device);
uint32_t linux_device_minor(uint64_t device);

#pragma clang assume_nonnull end
