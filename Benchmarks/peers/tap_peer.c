// What the network backend is compared with: plain system calls on TAP devices, in a network of its own.
//
//   tap_peer mode=write frame=64 [gso=1] [seconds=1.5] [cpu=0]     write() of one frame after the other
//   tap_peer mode=read frame=64 ...                                read() of bursts that a packet socket has sent; timed alone
//   tap_peer mode=relay namespaces=PATH,PATH names=a,b             every frame of one TAP device to the other, until SIGTERM
//
// Frames have a virtio header in front, as with the backend, and the devices leave out sums and segmentation.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 10, ROOM = 70000, BURST = 400, GSO_BURST = 64, MESSAGES = 64 };

static void fail(const char *what)
{
    fprintf(stderr, "tap_peer: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int checked(int result, const char *what)
{
    if (result < 0)
        fail(what);
    return result;
}

static double seconds_of(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static double now(void) { return seconds_of(CLOCK_MONOTONIC); }
static double used(void) { return seconds_of(CLOCK_THREAD_CPUTIME_ID); }

// `name=value` among the arguments.
static const char *option(char **arguments, const char *name, const char *otherwise)
{
    size_t length = strlen(name);
    for (; *arguments; arguments++)
        if (!strncmp(*arguments, name, length) && (*arguments)[length] == '=')
            return *arguments + length + 1;
    return otherwise;
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    checked(sched_setaffinity(0, sizeof set, &set), "pin");
}

static int tap(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE};
    int header = HEADER, fd = checked(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), "/dev/net/tun");
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    checked(ioctl(fd, TUNSETIFF, &request), "TUNSETIFF");
    checked(ioctl(fd, TUNSETVNETHDRSZ, &header), "TUNSETVNETHDRSZ");
    checked(ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6), "TUNSETOFFLOAD");
    int any = checked(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    checked(ioctl(any, SIOCGIFFLAGS, &request), "SIOCGIFFLAGS");
    request.ifr_flags |= IFF_UP;
    checked(ioctl(any, SIOCSIFFLAGS, &request), "SIOCSIFFLAGS");
    close(any);
    return fd;
}

static uint16_t sum(const uint8_t *bytes, int count)
{
    uint32_t sum = 0;
    for (int i = 0; i < count; i += 2)
        sum += bytes[i] << 8 | bytes[i + 1];
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return ~sum;
}

// A virtio header and a frame for a station that does not exist, as xen-loopback's: UDP, or TCP that is to be cut.
static void make_frame(uint8_t *memory, int bytes, int gso)
{
    static const uint8_t ethernet[14] = {2, 0, 0, 0, 0, 11, 0, 0x16, 0x3E, 0, 0, 1, 8, 0};
    uint8_t *frame = memory + HEADER, *ip = frame + 14, *transport = ip + 20;
    uint8_t header[20] = {0x45, 0, (bytes - 14) >> 8, bytes - 14, 0, 0, 0, 0, 64, gso ? 6 : 17, 0, 0,
                          10, 0, 0, 1, 10, 0, 0, 2};
    memset(memory, 0, HEADER + bytes);
    memcpy(frame, ethernet, sizeof ethernet);
    uint16_t ip_sum = sum(header, 20);
    header[10] = ip_sum >> 8;
    header[11] = ip_sum;
    memcpy(ip, header, sizeof header);
    transport[0] = 40000 >> 8;
    transport[1] = 40000 & 255;
    transport[2] = 5001 >> 8;
    transport[3] = 5001 & 255;
    if (gso) {
        transport[12] = 0x50;
        transport[13] = 0x10;
        memcpy(memory, (uint8_t[HEADER]){1, 1, 54, 0, 1448 & 255, 1448 >> 8, 34, 0, 16, 0}, HEADER);
    } else {
        transport[4] = (bytes - 34) >> 8;
        transport[5] = bytes - 34;
    }
}

static void report(uint64_t frames, double seconds, double cpu_seconds)
{
    printf("{\"frames\": %llu, \"seconds\": %.6f, \"frames_per_second\": %.1f, \"frames_per_cpu_second\": %.1f}\n",
           (unsigned long long)frames, seconds, frames / seconds, frames / cpu_seconds);
}

static void write_frames(int fd, const uint8_t *frame, int bytes, double seconds)
{
    uint64_t frames = 0;
    double start = now(), before = used(), end = start + seconds, time = start;
    while (time < end) {
        for (int i = 0; i < 256; i++)
            checked(write(fd, frame, HEADER + bytes) > 0 ? 0 : -1, "write");
        frames += 256;
        time = now();
    }
    report(frames, time - start, used() - before);
}

static int packet_socket(const char *name)
{
    int on = 1, fd = checked(socket(AF_PACKET, SOCK_RAW, 0), "packet socket");
    struct sockaddr_ll place = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(name)};
    checked(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on), "PACKET_VNET_HDR");
    checked(setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on), "PACKET_QDISC_BYPASS");
    checked(bind(fd, (struct sockaddr *)&place, sizeof place), "bind");
    return fd;
}

static void send_burst(int fd, uint8_t *frame, int bytes, int count)
{
    struct iovec place = {frame, HEADER + bytes};
    struct mmsghdr messages[MESSAGES];
    for (int i = 0; i < MESSAGES; i++)
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &place, .msg_iovlen = 1}};
    while (count > 0)
        count -= checked(sendmmsg(fd, messages, count < MESSAGES ? count : MESSAGES, 0), "sendmmsg");
}

static void read_frames(int fd, int sender, uint8_t *frame, int bytes, int burst, double seconds)
{
    static uint8_t room[ROOM];
    uint64_t frames = 0;
    double spent = 0, cpu = 0, end = now() + seconds;
    while (now() < end) {
        send_burst(sender, frame, bytes, burst);
        double start = now(), before = used();
        for (int i = 0; i < burst; i++)
            checked(read(fd, room, sizeof room) > 0 ? 0 : -1, "read");
        spent += now() - start;
        cpu += used() - before;
        frames += burst;
    }
    report(frames, spent, cpu);
}

static int enter(const char *path)
{
    int fd = checked(open(path, O_RDONLY | O_CLOEXEC), path);
    return checked(setns(fd, CLONE_NEWNET), "setns");
}

static int move_frames(int from, int to)
{
    static uint8_t room[ROOM];
    int moved = 0;
    for (; moved < 64; moved++) {
        ssize_t bytes = read(from, room, sizeof room);
        if (bytes <= 0)
            break;
        if (write(to, room, bytes) < 0 && errno != EIO && errno != EAGAIN)
            fail("relay");
    }
    return moved;
}

static void relay(char **arguments)
{
    char paths[2][256], names[2][16];
    int fds[2];
    if (sscanf(option(arguments, "namespaces", ""), "%255[^,],%255s", paths[0], paths[1]) != 2
        || sscanf(option(arguments, "names", ""), "%15[^,],%15s", names[0], names[1]) != 2)
        fail("mode=relay needs namespaces= and names=");
    for (int i = 0; i < 2; i++) {
        enter(paths[i]);
        fds[i] = tap(names[i]);
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        struct pollfd polled[2] = {{fds[0], POLLIN, 0}, {fds[1], POLLIN, 0}};
        if (move_frames(fds[0], fds[1]) + move_frames(fds[1], fds[0]) == 0)
            poll(polled, 2, -1);
    }
}

int main(int count, char **arguments)
{
    (void)count;
    const char *mode = option(arguments, "mode", "write");
    int bytes = atoi(option(arguments, "frame", "64")), gso = atoi(option(arguments, "gso", "0"));
    double seconds = atof(option(arguments, "seconds", "1.5"));
    static uint8_t frame[ROOM];
    pin(atoi(option(arguments, "cpu", "0")));
    if (!strcmp(mode, "relay"))
        relay(arguments);
    checked(unshare(CLONE_NEWNET), "unshare");
    int disable = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY);
    if (disable >= 0 && write(disable, "1", 1) == 1)
        close(disable);
    make_frame(frame, bytes, gso);
    int fd = tap("tap0");
    if (!strcmp(mode, "write"))
        write_frames(fd, frame, bytes, seconds);
    else
        read_frames(fd, packet_socket("tap0"), frame, bytes, gso ? GSO_BURST : BURST, seconds);
    return 0;
}
