#define _GNU_SOURCE
#include "CLinux.h"
#include <linux/loop.h>
#include <linux/magic.h>
#include <sys/statfs.h>

int linux_block_capacity(int fd, uint64_t *bytes) { return ioctl(fd, BLKGETSIZE64, bytes) < 0 ? -errno : 0; }

int linux_block_sizes(int fd, uint32_t *logical, uint32_t *physical)
{
    int sector = 0;
    unsigned block = 0;
    if (ioctl(fd, BLKSSZGET, &sector) < 0 || ioctl(fd, BLKPBSZGET, &block) < 0)
        return -errno;
    *logical = (uint32_t)sector;
    *physical = block;
    return 0;
}

int linux_block_is_read_only(int fd)
{
    int flag = 0;
    return ioctl(fd, BLKROGET, &flag) < 0 ? -errno : flag != 0;
}

int linux_block_discard(int fd, uint64_t offset, uint64_t length)
{
    uint64_t range[2] = {offset, length};
    return ioctl(fd, BLKDISCARD, range) < 0 ? -errno : 0;
}

int linux_punch_hole(int fd, uint64_t offset, uint64_t length)
{
    int result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    return result < 0 ? -errno : 0;
}

int linux_direct_alignment(int fd)
{
    struct statx status;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0)
        return -errno;
    return status.stx_mask & STATX_DIOALIGN ? (int)status.stx_dio_offset_align : -EOPNOTSUPP;
}

int linux_set_blocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ? -errno : 0;
}

int linux_loop_status(int fd, struct linux_loop *status)
{
    struct loop_info64 info;
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0)
        return -errno;
    *status = (struct linux_loop){
        .device = info.lo_device, .inode = info.lo_inode, .offset = info.lo_offset, .limit = info.lo_sizelimit,
        .read_only = (info.lo_flags & LO_FLAGS_READ_ONLY) != 0, .direct = (info.lo_flags & LO_FLAGS_DIRECT_IO) != 0};
    return 0;
}

int linux_synchronize(int fd) { return fdatasync(fd) < 0 ? -errno : 0; }

int linux_is_in_memory(int fd)
{
    struct stat file;
    struct statfs status;
    // Device nodes lie in devtmpfs, which calls itself tmpfs.
    return fstat(fd, &file) == 0 && S_ISREG(file.st_mode) && fstatfs(fd, &status) == 0 && (status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC);
}

ssize_t linux_read_at(int fd, void *bytes, size_t count, uint64_t offset)
{
    ssize_t result;
    do
        result = pread(fd, bytes, count, (off_t)offset);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

ssize_t linux_write_at(int fd, const void *bytes, size_t count, uint64_t offset)
{
    ssize_t result;
    do
        result = pwrite(fd, bytes, count, (off_t)offset);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

ssize_t linux_read_text(const char *path, char *buffer, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t count = read(fd, buffer, size - 1);
    int failure = errno;
    close(fd);
    if (count < 0)
        return -failure;
    buffer[count] = 0;
    return count;
}

uint32_t linux_device_major(uint64_t device) { return major(device); }
uint32_t linux_device_minor(uint64_t device) { return minor(device); }
