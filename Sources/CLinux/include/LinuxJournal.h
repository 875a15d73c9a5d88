// What a process leaves for the next: files whose space exists, the lock that I/O under way holds, the record of faults.
#pragma once
#include <features.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/// A new file of zeroes whose blocks exist, in the place of whatever has the name; a descriptor or -errno.
static inline int linux_create_reserved(const char *path, uint64_t bytes) {
    if (unlink(path) < 0 && errno != ENOENT) return -errno;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return -errno;
    int result = posix_fallocate(fd, 0, (off_t)bytes);
    if (result == 0) return fd;
    close(fd);
    unlink(path);
    return -result;
}

/// MAP_POPULATE, which sys/mman.h shows to GNU sources only.
static const int linux_map_populate = 0x8000;

/// An exclusive lock on one byte of an open file, held by the open file and not by the process (fcntl(2), F_OFD_SETLK):
/// it ends when the last descriptor is closed and the last I/O on it has left the kernel. -EAGAIN if another open file
/// has it, 0, or -errno.
static inline int linux_lock_byte(int fd, uint64_t offset) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = 1};
    if (fcntl(fd, 37 /* F_OFD_SETLK */, &lock) == 0) return 0;
    return errno == EACCES ? -EAGAIN : -errno;
}

/// Has the signals by which a process ends for its own fault counted: see linux_record_faults. Once per process.
void linux_watch_faults(void);

/// From now on a fault of this thread adds one to `record[0]`, and copies `record[1]` to `record[2]` if that is not 0.
/// The record is shared memory and stays mapped for as long as the thread runs, or until NULL is set.
void linux_record_faults(uint32_t *record);
