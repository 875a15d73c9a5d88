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
/// Reads a small text file, as those under /sys, and ends it with NUL; bytes read or -errno.
ssize_t linux_read_text(const char *path, char *buffer, size_t size);
/// Major and minor number of a device.
uint32_t linux_device_major(uint64_t device);
uint32_t linux_device_minor(uint64_t device);

#pragma clang assume_nonnull end
