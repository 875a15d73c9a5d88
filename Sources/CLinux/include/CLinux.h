// What of Linux and its libraries Swift cannot import by itself: liburing and libaio behind one module, variadic calls
// and function-like macros. A function returns a value or -errno; it holds no policy.
#pragma once
// Before liburing.h: version 2.3 defines _XOPEN_SOURCE, which would give this module another fd_set than Glibc's.
#include <features.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <libaio.h>
#include <linux/fs.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>
#include "LinuxService.h"
#include "LinuxUnixSocket.h"
#include "LinuxFiles.h"
#include "LinuxJournal.h"
#include "LinuxMessages.h"
#include "LinuxProcesses.h"

#define LINUX_NO_LOCKS __attribute__((swift_attr("@_noLocks")))
#define LINUX_INLINE static inline __attribute__((always_inline)) LINUX_NO_LOCKS

#include "netlink.h"
#include "packets.h"
#include "rings.h"
#include "storage.h"
#include "tap.h"
#include "xendevices.h"

/// Nanoseconds of CLOCK_MONOTONIC.
LINUX_INLINE uint64_t linux_monotonic_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/// O_DIRECT, which fcntl.h shows to GNU sources only.
static const int linux_o_direct = __O_DIRECT;

/// open(2) with O_CLOEXEC; a descriptor or -errno.
static inline int linux_open(const char *path, int flags, unsigned mode) {
    int fd = open(path, flags | O_CLOEXEC, mode);
    return fd < 0 ? -errno : fd;
}

/// fcntl(F_SETFL) of O_NONBLOCK; 0 or -errno.
static inline int linux_set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

/// eventfd(2) of zero; a descriptor or -errno.
static inline int linux_eventfd(unsigned flags) {
    int fd = eventfd(0, (int)flags);
    return fd < 0 ? -errno : fd;
}

/// Adds one to an eventfd; a counter that is full is signalled already.
///
/// Not by write(3): that is a cancellation point, which costs two locked instructions in a process with threads
/// (pthreads(7)), and this is called once for every batch of responses.
LINUX_INLINE void linux_eventfd_signal(int fd) {
    uint64_t one = 1;
    while (syscall(SYS_write, fd, &one, sizeof one) < 0 && errno == EINTR) {}
}

/// Takes an eventfd's count; 1 if it was not zero. The descriptor is non-blocking.
LINUX_INLINE int linux_eventfd_take(int fd) {
    uint64_t count;
    ssize_t got;
    while ((got = read(fd, &count, sizeof count)) < 0 && errno == EINTR) {}
    return got == (ssize_t)sizeof count;
}

/// Whether reads of a descriptor fail instead of waiting.
LINUX_INLINE bool linux_is_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && flags & O_NONBLOCK;
}

/// Names the calling thread; the kernel keeps 15 bytes (prctl(2), PR_SET_NAME).
static inline void linux_set_thread_name(const char *name) { prctl(PR_SET_NAME, name); }
