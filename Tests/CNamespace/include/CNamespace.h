// Network namespaces for tests: a thread goes into one and comes back (setns(2)). A value or -errno.
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#pragma clang assume_nonnull begin

/// Where this thread is now; a descriptor.
static inline int namespace_here(void)
{
    int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}
/// Takes this thread into a new one (CLONE_NEWNET).
static inline int namespace_new(void) { return syscall(SYS_unshare, 0x40000000) < 0 ? -errno : 0; }
/// Takes this thread into the one behind a descriptor.
static inline int namespace_enter(int fd) { return syscall(SYS_setns, fd, 0x40000000) < 0 ? -errno : 0; }

#pragma clang assume_nonnull end
