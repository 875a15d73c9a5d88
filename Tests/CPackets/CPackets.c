#define _GNU_SOURCE
#include "CPackets.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int packets_isolate(void)
{
    int network = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (network < 0 || unshare(CLONE_NEWNET) == 0)
        return network < 0 ? -errno : network;
    int code = -errno;
    close(network);
    return code;
}

int packets_return(int network)
{
    int code = setns(network, CLONE_NEWNET) < 0 ? -errno : 0;
    close(network);
    return code;
}

int packets_socket(int interface)
{
    struct sockaddr_ll address;
    memset(&address, 0, sizeof address);
    address.sll_family = AF_PACKET;
    address.sll_ifindex = interface;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd < 0 ? -errno : fd;
    int code = -errno;
    close(fd);
    return code;
}
