// What a service needs of Linux: signals as a descriptor, a lock file, sd_notify's datagram, resource limits.
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/// Blocks SIGTERM, SIGINT and SIGHUP for this thread and all that it starts, ignores SIGPIPE, and returns a signalfd(2) for
/// the blocked ones, or -errno.
static inline int linux_termination_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    int code = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (code != 0) return -code;
    signal(SIGPIPE, SIG_IGN);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

/// The next pending signal's number, or 0.
static inline int linux_take_signal(int fd) {
    struct signalfd_siginfo info;
    ssize_t got;
    while ((got = read(fd, &info, sizeof info)) < 0 && errno == EINTR) {}
    return got == (ssize_t)sizeof info ? (int)info.ssi_signo : 0;
}

/// Gives back a lock of linux_lock_file's; the descriptor stays open.
static inline int linux_unlock_file(int fd) { return flock(fd, LOCK_UN) < 0 ? -errno : 0; }

/// An exclusive lock on a file that is made if need be, with our process id in it; a descriptor that holds the lock as
/// long as it is open, -EWOULDBLOCK if another process holds it (its id is then in `*holder`), or -errno.
static inline int linux_lock_file(const char *path, int *holder) {
    char text[16] = "";
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int code = errno;
        *holder = pread(fd, text, sizeof text - 1, 0) > 0 ? atoi(text) : 0;
        close(fd);
        return -code;
    }
    int length = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)length, 0) != length) {
        int code = errno;
        close(fd);
        return -code;
    }
    return fd;
}

/// Waits for an exclusive lock on a file that is made if need be; a descriptor that holds it as long as it is open, or
/// -errno.
static inline int linux_wait_for_lock(const char *path) {
    int result, fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return -errno;
    while ((result = flock(fd, LOCK_EX)) < 0 && errno == EINTR) {}
    if (result == 0) return fd;
    result = -errno;
    close(fd);
    return result;
}

/// Writes to a file that exists, as those under /proc/sys, all at once; 0 or -errno.
static inline int linux_write_setting(const char *path, const void *bytes, size_t count) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    ssize_t written = write(fd, bytes, count);
    int code = written == (ssize_t)count ? 0 : written < 0 ? -errno : -EIO;
    close(fd);
    return code;
}

/// Makes a directory and its parents, the last with mode 0700; 0 or -errno. Fails if the last is not a directory of ours
/// that nobody else may write to.
static inline int linux_make_private_directory(const char *path) {
    char part[4096];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof part) return -ENAMETOOLONG;
    memcpy(part, path, length + 1);
    for (char *slash = part + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = 0;
        if (mkdir(part, 0755) < 0 && errno != EEXIST) return -errno;
        *slash = '/';
    }
    if (mkdir(part, 0700) < 0 && errno != EEXIST) return -errno;
    struct stat status;
    if (stat(part, &status) < 0) return -errno;
    if (!S_ISDIR(status.st_mode)) return -ENOTDIR;
    return status.st_uid != geteuid() || (status.st_mode & 022) ? -EPERM : 0;
}

/// sd_notify(3): one datagram to the service manager, with a descriptor if that is not negative; `name` may be in the
/// abstract namespace (`@...`). 0 or -errno.
static inline int linux_notify(const char *name, const char *message, int attached) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    if (length == 0 || length >= sizeof address.sun_path) return -EINVAL;
    memcpy(address.sun_path, name, length);
    if (name[0] == '@') address.sun_path[0] = 0;
    struct iovec text = {(void *)message, strlen(message)};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.header), &attached, sizeof attached);
    struct msghdr datagram = {
        .msg_name = &address,
        .msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length),
        .msg_iov = &text,
        .msg_iovlen = 1,
        .msg_control = attached < 0 ? NULL : &control,
        .msg_controllen = attached < 0 ? 0 : sizeof control.bytes,
    };
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int code = sendmsg(fd, &datagram, MSG_NOSIGNAL) < 0 ? -errno : 0;
    close(fd);
    return code;
}

/// Waits until the service manager has acted on everything that it was told before (sd_notify(3), BARRIER=1: it closes
/// the descriptor that comes with the message). 0, -ETIME or -errno.
static inline int linux_notify_barrier(const char *name, int milliseconds) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) return -errno;
    int code = linux_notify(name, "BARRIER=1", ends[1]);
    close(ends[1]);
    struct pollfd closed = {.fd = ends[0], .events = 0};
    if (code == 0) {
        int ready = poll(&closed, 1, milliseconds);
        code = ready > 0 ? 0 : ready == 0 ? -ETIME : -errno;
    }
    close(ends[0]);
    return code;
}

/// A socket of sd_notify(3)'s, as a service manager has it; -errno.
static inline int linux_notice_socket(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof address.sun_path) return -ENAMETOOLONG;
    memcpy(address.sun_path, path, length);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    int code = -errno;
    close(fd);
    return code;
}

/// The next message on such a socket and the descriptor that came with it, or -1 if none did: it gets a number of at least
/// `lowest`. Of several, which nobody sends us, the kernel drops all but the first. Bytes, or -errno.
static inline ssize_t linux_take_notice(int socket, void *text, size_t capacity, int lowest, int *attached) {
    struct iovec place = {text, capacity};
    union {
        struct cmsghdr header;
        char bytes[CMSG_LEN(sizeof(int))];
    } control;
    struct msghdr datagram = {
        .msg_iov = &place, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.bytes};
    *attached = -1;
    ssize_t got;
    while ((got = recvmsg(socket, &datagram, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {}
    if (got < 0) return -errno;
    struct cmsghdr *first = CMSG_FIRSTHDR(&datagram);
    if (!first || first->cmsg_type != SCM_RIGHTS || first->cmsg_len < CMSG_LEN(sizeof(int))) return got;
    int passed;
    memcpy(&passed, CMSG_DATA(first), sizeof passed);
    *attached = fcntl(passed, F_DUPFD_CLOEXEC, lowest);
    close(passed);
    return got;
}

/// Resources by names that Swift sees: glibc's are enumerators behind macros.
static const int linux_limit_open_files = RLIMIT_NOFILE, linux_limit_locked_memory = RLIMIT_MEMLOCK,
                 linux_limit_core = RLIMIT_CORE;

/// Raises the soft limit of a resource (getrlimit(2)), and the hard one if that is lower and we may; else the soft one as far
/// as it goes. Neither gets lower than it is: what the administrator has allowed is for the host's size.
static inline int linux_raise_limit(int resource, uint64_t wanted) {
    struct rlimit limit;
    if (getrlimit(resource, &limit) < 0) return -errno;
    if (limit.rlim_cur >= wanted) return 0;
    struct rlimit raised = {wanted, limit.rlim_max > wanted ? limit.rlim_max : wanted};
    if (setrlimit(resource, &raised) == 0) return 0;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    return setrlimit(resource, &limit) < 0 ? -errno : 0;
}

/// Takes a resource away, for good; 0 or -errno.
static inline int linux_deny_resource(int resource) {
    struct rlimit none = {0, 0};
    return setrlimit(resource, &none) < 0 ? -errno : 0;
}

/// For processes that the machine's own I/O may depend on: memory for their I/O may be taken without waiting for I/O that
/// they themselves have to do (prctl(2), PR_SET_IO_FLUSHER; needs CAP_SYS_RESOURCE). 0 or -errno.
static inline int linux_set_io_flusher(void) { return prctl(57, 1, 0, 0, 0) < 0 ? -errno : 0; }

/// Writes a whole file and renames it over `path`; the file is never seen half written. 0 or -errno.
static inline int linux_replace_file(const char *path, const char *temporary, const void *bytes, size_t count) {
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) return -errno;
    const char *next = bytes;
    while (count > 0) {
        ssize_t written = write(fd, next, count);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) {
            int code = errno;
            close(fd);
            return -code;
        }
        next += written;
        count -= (size_t)written;
    }
    close(fd);
    return rename(temporary, path) < 0 ? -errno : 0;
}

/// The first bytes of a file; how many, or -errno.
static inline ssize_t linux_read_file(const char *path, void *buffer, size_t capacity) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return -errno;
    ssize_t got = read(fd, buffer, capacity);
    int code = errno;
    close(fd);
    return got < 0 ? -code : got;
}
