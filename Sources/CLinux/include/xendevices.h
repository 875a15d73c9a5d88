// The calls of Linux' Xen devices: /dev/xen/gntdev (xen/gntdev.h) and /dev/xen/evtchn (xen/evtchn.h). A value or -errno;
// no policy. Part of CLinux.h; not included by itself.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#pragma clang assume_nonnull begin

/// References that one call records at most.
#define LINUX_GRANTS_AT_ONCE 256

/// IOCTL_GNTDEV_MAP_GRANT_REF: notes references of a domain for linux_grants_map, which takes `*index`; 0 or -errno.
int linux_grants_record(int fd, uint32_t domain, const uint32_t *references, uint32_t count, uint64_t *index);
/// mmap(2) of everything that one call has recorded, which is when Xen is asked; 0 or -errno.
int linux_grants_map(int fd, uint64_t index, uint32_t count, int writable, void *_Nullable *_Nonnull memory);
/// munmap(2).
void linux_grants_unmap(void *memory, uint32_t count);
/// IOCTL_GNTDEV_UNMAP_GRANT_REF: forgets what was recorded, after it was unmapped; 0 or -errno.
int linux_grants_forget(int fd, uint64_t index, uint32_t count);
/// IOCTL_GNTDEV_GRANT_COPY of segments with the layout of struct gntdev_grant_copy_segment; 0 or -errno.
__attribute__((swift_attr("@_noLocks"))) int linux_grants_copy(int fd, void *segments, uint32_t count);

/// Puts so many new pages at `memory`, in place of what is mapped there, and grants them to a domain for writing:
/// IOCTL_GNTALLOC_ALLOC_GREF and mmap(2) of /dev/xen/gntalloc. Their references; 0 or -errno. The grants end with the descriptor.
int linux_grants_offer(int fd, uint16_t domain, void *memory, uint32_t *references, uint32_t count);

/// IOCTL_EVTCHN_RESTRICT_DOMID: the descriptor may bind to this domain's ports only, for good; 0 or -errno.
int linux_events_restrict(int fd, uint16_t domain);
/// IOCTL_EVTCHN_BIND_INTERDOMAIN; the local port or -errno.
int linux_events_bind(int fd, uint32_t domain, uint32_t port);
/// IOCTL_EVTCHN_NOTIFY; 0 or -errno.
int linux_events_notify(int fd, uint32_t port);
/// IOCTL_EVTCHN_RESET: empties the buffer and ends its overflow; 0 or -errno.
int linux_events_reset(int fd);
/// read(2) of ports with events, which stay masked; how many, or -errno.
long linux_events_read(int fd, uint32_t *ports, size_t capacity);
/// write(2) of a port: unmasks it; 0 or -errno.
int linux_events_unmask(int fd, uint32_t port);

/// read(2) and write(2) of a character device; bytes or -errno.
long linux_device_read(int fd, void *_Nullable bytes, size_t capacity);
long linux_device_write(int fd, const void *_Nullable bytes, size_t count);
/// Whether a path names a socket: 1, 0, or -errno.
int linux_is_socket(const char *path);

#pragma clang assume_nonnull end
