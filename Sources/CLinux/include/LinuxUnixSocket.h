// Unix stream sockets: the address structure's path is a char array, which Swift sees as a tuple of 108 numbers.
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/// Fills in the address; 0 or -ENAMETOOLONG.
static inline int linux_unix_address(struct sockaddr_un *address, const char *path) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address->sun_path) return -ENAMETOOLONG;
    strcpy(address->sun_path, path);
    return 0;
}

/// connect(2) to a stream socket, waiting at most `seconds` for room in the server's backlog; a non-blocking descriptor
/// or -errno.
static inline int linux_unix_connect(const char *path, int seconds) {
    struct sockaddr_un address;
    struct timeval patience = {.tv_sec = seconds};
    int result = linux_unix_address(&address, path);
    if (result < 0) return result;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0) result = -errno;
    // What is interrupted while it waits for room has not begun to connect.
    while (result == 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        if (errno != EINTR) result = -errno;
    if (result == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) < 0) result = -errno;
    if (result < 0) {
        close(fd);
        return result;
    }
    return fd;
}

/// A non-blocking listening stream socket at `path`, replacing what was there; a descriptor or -errno.
static inline int linux_unix_listen(const char *path, int backlog) {
    struct sockaddr_un address;
    int result = linux_unix_address(&address, path);
    if (result < 0) return result;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    unlink(path);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, backlog) < 0) {
        result = -errno;
        close(fd);
        return result;
    }
    return fd;
}

/// accept4(2), which glibc declares for _GNU_SOURCE only; a non-blocking descriptor or -errno.
static inline int linux_unix_accept(int listener) {
    int fd = (int)syscall(SYS_accept4, listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

/// send(2) without SIGPIPE; bytes taken or -errno.
static inline long linux_socket_send(int fd, const void *bytes, size_t count) {
    ssize_t sent;
    do sent = send(fd, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

/// recv(2) that does not wait; bytes received, 0 at the end of the stream, or -errno.
static inline long linux_socket_receive(int fd, void *bytes, size_t capacity) {
    ssize_t received;
    do received = recv(fd, bytes, capacity, MSG_DONTWAIT);
    while (received < 0 && errno == EINTR);
    return received < 0 ? -errno : received;
}

/// poll(2) of one descriptor; its events (POLLERR and POLLHUP among them), 0 when the time is over, or -errno.
static inline int linux_poll_one(int fd, short events, int milliseconds) {
    struct pollfd entry = {.fd = fd, .events = events};
    int count = poll(&entry, 1, milliseconds);
    return count < 0 ? -errno : count == 0 ? 0 : entry.revents;
}
