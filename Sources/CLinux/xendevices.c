#define _GNU_SOURCE
#include "CLinux.h"

// What the kernel's headers leave to their reader: xen/grant_table.h and xen/xen.h.
typedef uint32_t grant_ref_t;
typedef uint16_t domid_t;
#include <xen/evtchn.h>
#include <xen/gntalloc.h>
#include <xen/gntdev.h>

// ---- Grants -----------------------------------------------------------------------------------------------------------

int linux_grants_record(int fd, uint32_t domain, const uint32_t *references, uint32_t count, uint64_t *index)
{
    // The request ends with an array, of which the structure declares the first element.
    struct {
        struct ioctl_gntdev_map_grant_ref head;
        struct ioctl_gntdev_grant_ref more[LINUX_GRANTS_AT_ONCE - 1];
    } request;
    if (count == 0 || count > LINUX_GRANTS_AT_ONCE)
        return -EINVAL;
    memset(&request, 0, sizeof request);
    request.head.count = count;
    struct ioctl_gntdev_grant_ref *entries = request.head.refs;
    for (uint32_t i = 0; i < count; i++)
        entries[i] = (struct ioctl_gntdev_grant_ref){.domid = domain, .ref = references[i]};
    if (ioctl(fd, IOCTL_GNTDEV_MAP_GRANT_REF, &request) < 0)
        return -errno;
    *index = request.head.index;
    return 0;
}

int linux_grants_map(int fd, uint64_t index, uint32_t count, int writable, void **memory)
{
    // The module demands MAP_SHARED for writable pages.
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *base = mmap(NULL, (size_t)count * 4096, protection, MAP_SHARED, fd, (off_t)index);
    if (base == MAP_FAILED)
        return -errno;
    *memory = base;
    return 0;
}

void linux_grants_unmap(void *memory, uint32_t count) { munmap(memory, (size_t)count * 4096); }

int linux_grants_forget(int fd, uint64_t index, uint32_t count)
{
    struct ioctl_gntdev_unmap_grant_ref request = {.index = index, .count = count};
    return ioctl(fd, IOCTL_GNTDEV_UNMAP_GRANT_REF, &request) < 0 ? -errno : 0;
}

int linux_grants_copy(int fd, void *segments, uint32_t count)
{
    struct ioctl_gntdev_grant_copy request = {.count = count, .segments = segments};
    return ioctl(fd, IOCTL_GNTDEV_GRANT_COPY, &request) < 0 ? -errno : 0;
}

int linux_grants_offer(int fd, uint16_t domain, void *memory, uint32_t *references, uint32_t count)
{
    // The request ends with an array, of which the structure declares the first element.
    struct {
        struct ioctl_gntalloc_alloc_gref head;
        uint32_t more[LINUX_GRANTS_AT_ONCE - 1];
    } request;
    if (count == 0 || count > LINUX_GRANTS_AT_ONCE)
        return -EINVAL;
    memset(&request, 0, sizeof request);
    request.head.domid = domain;
    request.head.flags = GNTALLOC_FLAG_WRITABLE;
    request.head.count = count;
    if (ioctl(fd, IOCTL_GNTALLOC_ALLOC_GREF, &request) < 0)
        return -errno;
    size_t bytes = (size_t)count * 4096;
    // The pages belong to the descriptor until they are mapped, and go with it.
    if (mmap(memory, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)request.head.index) == MAP_FAILED) {
        int code = errno;
        // What was there may be gone already.
        mmap(memory, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        return -code;
    }
    memcpy(references, request.head.gref_ids, count * sizeof *references);
    return 0;
}

// ---- Event channels ---------------------------------------------------------------------------------------------------

int linux_events_restrict(int fd, uint16_t domain)
{
    struct ioctl_evtchn_restrict_domid request = {.domid = domain};
    return ioctl(fd, IOCTL_EVTCHN_RESTRICT_DOMID, &request) < 0 ? -errno : 0;
}

int linux_events_bind(int fd, uint32_t domain, uint32_t port)
{
    struct ioctl_evtchn_bind_interdomain request = {.remote_domain = domain, .remote_port = port};
    int local = ioctl(fd, IOCTL_EVTCHN_BIND_INTERDOMAIN, &request);
    return local < 0 ? -errno : local;
}

int linux_events_notify(int fd, uint32_t port)
{
    struct ioctl_evtchn_notify request = {.port = port};
    return ioctl(fd, IOCTL_EVTCHN_NOTIFY, &request) < 0 ? -errno : 0;
}

int linux_events_reset(int fd) { return ioctl(fd, IOCTL_EVTCHN_RESET) < 0 ? -errno : 0; }

long linux_events_read(int fd, uint32_t *ports, size_t capacity)
{
    long bytes = linux_device_read(fd, ports, capacity * sizeof *ports);
    return bytes < 0 ? bytes : bytes / (long)sizeof *ports;
}

int linux_events_unmask(int fd, uint32_t port)
{
    long bytes = linux_device_write(fd, &port, sizeof port);
    return bytes < 0 ? (int)bytes : 0;
}

// ---- Devices ----------------------------------------------------------------------------------------------------------

long linux_device_read(int fd, void *bytes, size_t capacity)
{
    ssize_t count;
    do
        count = read(fd, bytes, capacity);
    while (count < 0 && errno == EINTR);
    return count < 0 ? -errno : count;
}

long linux_device_write(int fd, const void *bytes, size_t count)
{
    ssize_t written;
    do
        written = write(fd, bytes, count);
    while (written < 0 && errno == EINTR);
    return written < 0 ? -errno : written;
}

int linux_is_socket(const char *path)
{
    struct stat status;
    return stat(path, &status) < 0 ? -errno : S_ISSOCK(status.st_mode);
}
