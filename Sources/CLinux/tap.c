#define _GNU_SOURCE
#include "CLinux.h"
#include <linux/bpf.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int linux_set_name(struct ifreq *request, const char *name)
{
    memset(request, 0, sizeof *request);
    if (strlen(name) >= sizeof request->ifr_name)
        return -ENAMETOOLONG;
    strcpy(request->ifr_name, name);
    return 0;
}

// The first queue of a device makes it, or takes over one that stayed behind. A device that is there and would not stay
// lives from another process' queues: the kernel would let us join.
static int set_interface(int fd, struct ifreq *request, int first, int *existed)
{
    *existed = !first;
    const int flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    request->ifr_flags = flags | (first ? IFF_TUN_EXCL : 0);
    if (ioctl(fd, TUNSETIFF, request) == 0)
        return 0;
    if (!first || errno != EBUSY)
        return -errno;
    request->ifr_flags = flags;
    if (ioctl(fd, TUNSETIFF, request) < 0 || ioctl(fd, TUNGETIFF, request) < 0)
        return -errno;
    *existed = 1;
    return request->ifr_flags & IFF_PERSIST ? 0 : -EBUSY;
}

int linux_tap_open(const char *name, int first, int *existed)
{
    struct ifreq request;
    int fd, header = 10, code = linux_set_name(&request, name);
    if (code < 0)
        return code;
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    code = set_interface(fd, &request, first, existed);
    if (code < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0) {
        code = code < 0 ? code : -errno;
        close(fd);
        return code;
    }
    return fd;
}

int linux_tap_set_offloads(int fd, unsigned offloads) { return ioctl(fd, TUNSETOFFLOAD, offloads) < 0 ? -errno : 0; }

int linux_tap_set_carrier(int fd, int on) { return ioctl(fd, TUNSETCARRIER, &on) < 0 ? -errno : 0; }

int linux_tap_set_attached(int fd, int attached)
{
    struct ifreq request;
    memset(&request, 0, sizeof request);
    request.ifr_flags = attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
    return ioctl(fd, TUNSETQUEUE, &request) < 0 ? -errno : 0;
}

int linux_tap_set_persistent(int fd, int persistent) { return ioctl(fd, TUNSETPERSIST, persistent) < 0 ? -errno : 0; }

// Calls that go through a socket of any kind.
static int linux_interface_call(unsigned long call, struct ifreq *request)
{
    int result, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    result = ioctl(fd, call, request) < 0 ? -errno : 0;
    close(fd);
    return result;
}

static int linux_interface_name(int index, struct ifreq *request)
{
    memset(request, 0, sizeof *request);
    request->ifr_ifindex = index;
    return linux_interface_call(SIOCGIFNAME, request);
}

// Of a queue as we make them; -EBADFD if it is something else.
static int linux_tap_of(int fd, struct ifreq *request)
{
    const int flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    memset(request, 0, sizeof *request);
    if (ioctl(fd, TUNGETIFF, request) < 0)
        return -errno;
    return (request->ifr_flags & flags) == flags ? 0 : -EBADFD;
}

int linux_tap_name(int fd, uint8_t *name)
{
    struct ifreq request;
    int code = linux_tap_of(fd, &request);
    memcpy(name, request.ifr_name, sizeof request.ifr_name);
    return code;
}

// drivers/net/tun.c, tun_get_drvinfo
int linux_tap_name_of(int index, uint8_t *name)
{
    struct ifreq request;
    struct ethtool_drvinfo driver = {.cmd = ETHTOOL_GDRVINFO};
    int code = linux_interface_name(index, &request);
    if (code < 0)
        return code;
    memcpy(name, request.ifr_name, sizeof request.ifr_name);
    request.ifr_data = (void *)&driver;
    code = linux_interface_call(SIOCETHTOOL, &request);
    if (code < 0)
        return code == -EOPNOTSUPP ? -EBADFD : code;
    return strcmp(driver.driver, "tun") == 0 && strcmp(driver.bus_info, "tap") == 0 ? 0 : -EBADFD;
}

int linux_tap_index(int fd)
{
    struct ifreq request;
    int code = linux_tap_of(fd, &request);
    if (code < 0)
        return code;
    code = linux_interface_call(SIOCGIFINDEX, &request);
    return code < 0 ? code : request.ifr_ifindex;
}

int linux_tap_set_address(int fd, const uint8_t *address)
{
    struct ifreq request;
    memset(&request, 0, sizeof request);
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(request.ifr_hwaddr.sa_data, address, 6);
    return ioctl(fd, SIOCSIFHWADDR, &request) < 0 ? -errno : 0;
}

int linux_tap_has_carrier(const char *name)
{
    struct ifreq request;
    struct ethtool_value link = {.cmd = ETHTOOL_GLINK};
    int code = linux_set_name(&request, name);
    if (code < 0)
        return code;
    request.ifr_data = (void *)&link;
    code = linux_interface_call(SIOCETHTOOL, &request);
    return code < 0 ? code : link.data != 0;
}

int linux_interface_set_mtu(int index, int mtu)
{
    struct ifreq request;
    int code = linux_interface_name(index, &request);
    request.ifr_mtu = mtu;
    return code < 0 ? code : linux_interface_call(SIOCSIFMTU, &request);
}

int linux_interface_set_up(int index, int up)
{
    struct ifreq request;
    int code = linux_interface_name(index, &request);
    if (code < 0 || (code = linux_interface_call(SIOCGIFFLAGS, &request)) < 0)
        return code;
    request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    return linux_interface_call(SIOCSIFFLAGS, &request);
}

static int linux_bpf(int command, union bpf_attr *attributes)
{
    long result = syscall(SYS_bpf, command, attributes, sizeof *attributes);
    return result < 0 ? -errno : (int)result;
}

int linux_bpf_array(uint32_t bytes)
{
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = BPF_MAP_TYPE_ARRAY;
    attributes.key_size = 4;
    attributes.value_size = bytes;
    attributes.max_entries = 1;
    return linux_bpf(BPF_MAP_CREATE, &attributes);
}

int linux_bpf_update(int map, const void *value)
{
    uint32_t key = 0;
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_fd = (uint32_t)map;
    attributes.key = (uintptr_t)&key;
    attributes.value = (uintptr_t)value;
    return linux_bpf(BPF_MAP_UPDATE_ELEM, &attributes);
}

int linux_bpf_load(const uint64_t *instructions, uint32_t count)
{
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    attributes.insns = (uintptr_t)instructions;
    attributes.insn_cnt = count;
    attributes.license = (uintptr_t)"";
    return linux_bpf(BPF_PROG_LOAD, &attributes);
}

int linux_bpf_run(int program, const void *frame, uint32_t bytes)
{
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.test.prog_fd = (uint32_t)program;
    attributes.test.data_in = (uintptr_t)frame;
    attributes.test.data_size_in = bytes;
    attributes.test.repeat = 1;
    int code = linux_bpf(BPF_PROG_TEST_RUN, &attributes);
    return code < 0 ? code : (int)attributes.test.retval;
}

int linux_tap_set_steering(int fd, int program) { return ioctl(fd, TUNSETSTEERINGEBPF, &program) < 0 ? -errno : 0; }

// Not by read(3) and write(3): those are cancellation points, which cost two locked instructions each in a process with
// threads (pthreads(7)).
long linux_frame_read(int fd, void *bytes, size_t capacity)
{
    ssize_t result;
    do
        result = syscall(SYS_read, fd, bytes, capacity);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

long linux_frame_write(int fd, const void *bytes, size_t count)
{
    ssize_t result;
    do
        result = syscall(SYS_write, fd, bytes, count);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

long linux_frame_read_apart(int fd, void *header, size_t header_bytes, void *bytes, size_t capacity)
{
    struct iovec places[2] = {{header, header_bytes}, {bytes, capacity}};
    ssize_t result;
    do
        result = syscall(SYS_readv, fd, places, 2);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}
