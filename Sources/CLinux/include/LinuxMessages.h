// Message sockets that pass descriptors, memory, child processes: the calls that need macros (CMSG_*), sockaddr_un,
// variadic arguments or a fork. A function returns a value or -errno.
#pragma once
#include <features.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <linux/memfd.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include "LinuxUnixSocket.h"

#define LINUX_MESSAGE_DESCRIPTORS 4

/// A connected SOCK_SEQPACKET socket, or -errno.
static inline int linux_connect_seqpacket(const char *path) {
    struct sockaddr_un address;
    int error = linux_unix_address(&address, path);
    if (error) return error;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    error = -errno;
    close(fd);
    return error;
}

/// A listening SOCK_SEQPACKET socket at a path that does not exist yet, or -errno.
static inline int linux_listen_seqpacket(const char *path) {
    struct sockaddr_un address;
    int error = linux_unix_address(&address, path);
    if (error) return error;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 64) == 0) return fd;
    error = -errno;
    close(fd);
    return error;
}

/// Sends one message with up to LINUX_MESSAGE_DESCRIPTORS descriptors; its length or -errno. Never raises SIGPIPE.
static inline long linux_send_message(int fd, const void *bytes, size_t length, const int *descriptors, int count) {
    if (count < 0 || count > LINUX_MESSAGE_DESCRIPTORS) return -EINVAL;
    union { char bytes[CMSG_SPACE(sizeof(int) * LINUX_MESSAGE_DESCRIPTORS)]; struct cmsghdr aligned; } control;
    struct iovec part = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
        memcpy(CMSG_DATA(header), descriptors, sizeof(int) * (size_t)count);
    }
    ssize_t sent;
    do sent = sendmsg(fd, &message, MSG_NOSIGNAL); while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

/// Receives one message; its length (0 at the end) or -errno. `descriptors` has room for LINUX_MESSAGE_DESCRIPTORS;
/// `*count` tells how many came.
static inline long linux_receive_message(int fd, void *bytes, size_t capacity, int *descriptors, int *count) {
    union { char bytes[CMSG_SPACE(sizeof(int) * LINUX_MESSAGE_DESCRIPTORS)]; struct cmsghdr aligned; } control;
    struct iovec part = {bytes, capacity};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    *count = 0;
    ssize_t received;
    do received = recvmsg(fd, &message, MSG_CMSG_CLOEXEC); while (received < 0 && errno == EINTR);
    if (received < 0) return -errno;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        *count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(descriptors, CMSG_DATA(header), sizeof(int) * (size_t)*count);
    }
    return received;
}

/// A memfd of `bytes` zero bytes, or -errno.
static inline int linux_memory(const char *name, size_t bytes) {
    int fd = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC);
    if (fd < 0) return -errno;
    if (ftruncate(fd, (off_t)bytes) == 0) return fd;
    int error = -errno;
    close(fd);
    return error;
}

/// dup(2) with FD_CLOEXEC; a descriptor or -errno.
static inline int linux_duplicate(int fd) {
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

