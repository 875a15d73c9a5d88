#define _GNU_SOURCE
#include "CLinux.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/if_ether.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>

int linux_network_new(void) { return unshare(CLONE_NEWNET) < 0 ? -errno : 0; }

int linux_network_enter(const char *path)
{
    int result, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    result = setns(fd, CLONE_NEWNET) < 0 ? -errno : 0;
    close(fd);
    return result;
}

int linux_interface_index(const char *name)
{
    unsigned index = if_nametoindex(name);
    return index ? (int)index : -errno;
}

int linux_packet_socket(int interface, int receives)
{
    struct sockaddr_ll place = {
        .sll_family = AF_PACKET, .sll_protocol = receives ? htons(ETH_P_ALL) : 0, .sll_ifindex = interface};
    // Enough for a window of the largest frames.
    int on = 1, code, bytes = 32 << 20;
    // Protocol 0: nothing is received before bind(2) says what.
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | (receives ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) < 0
        || setsockopt(fd, SOL_PACKET, receives ? PACKET_IGNORE_OUTGOING : PACKET_QDISC_BYPASS, &on, sizeof on) < 0
        || setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0
        || bind(fd, (struct sockaddr *)&place, sizeof place) < 0) {
        code = -errno;
        close(fd);
        return code;
    }
    return fd;
}

enum { MESSAGES = 64 };

long linux_packets_send(int fd, const void *frames, size_t stride, size_t length, unsigned count)
{
    struct mmsghdr messages[MESSAGES];
    struct iovec places[MESSAGES];
    unsigned number = count < MESSAGES ? count : MESSAGES;
    memset(messages, 0, number * sizeof *messages);
    for (unsigned i = 0; i < number; i++) {
        places[i] = (struct iovec){(char *)frames + i * stride, length};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &places[i], .msg_iovlen = 1};
    }
    int sent = sendmmsg(fd, messages, number, 0);
    return sent < 0 ? -errno : sent;
}

int linux_write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int result = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return result;
}
