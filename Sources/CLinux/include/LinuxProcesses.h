// Child processes, which Swift must not fork itself: between fork and exec only async-signal-safe calls are made.
#pragma once
#include <features.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/// Binds the calling thread, and what it starts from now on, to one processor; 0 or -errno.
static inline int linux_pin(int processor) {
    // cpu_set_t and its macros need _GNU_SOURCE; the kernel takes any length.
    unsigned long mask[16] = {0};
    if (processor < 0 || processor >= (int)(8 * sizeof mask)) return -EINVAL;
    mask[processor / (8 * sizeof *mask)] = 1ul << (processor % (8 * sizeof *mask));
    return syscall(SYS_sched_setaffinity, 0, sizeof mask, mask) < 0 ? -errno : 0;
}

/// How many processors this kernel runs on, at least 1.
static inline int linux_online_processors(void) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (int)count : 1;
}

/// The processor that the caller runs on just now, so one that it may use; -errno.
static inline int linux_current_processor(void) {
    unsigned processor = 0;
    return syscall(SYS_getcpu, &processor, NULL, NULL) < 0 ? -errno : (int)processor;
}

/// Starts a program that dies with the calling thread (PR_SET_PDEATHSIG); its process id or -errno, of exec too.
/// `processor` < 0 leaves it unbound; `output` >= 0 becomes its standard output.
static inline pid_t linux_spawn(const char *path, char *const *arguments, int processor, int output) {
    int failure[2];
    if (pipe(failure) < 0) return -errno;
    fcntl(failure[1], F_SETFD, FD_CLOEXEC);
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        // Only async-signal-safe calls from here to exec: other threads' locks may be held.
        close(failure[0]);
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        if (getppid() != parent) _exit(127);
        int error = processor < 0 ? 0 : linux_pin(processor);
        if (!error && output >= 0 && dup2(output, STDOUT_FILENO) < 0) error = -errno;
        if (!error) {
            execv(path, arguments);
            error = -errno;
        }
        while (write(failure[1], &error, sizeof error) < 0 && errno == EINTR) {}
        _exit(127);
    }
    int error = child < 0 ? -errno : 0;
    close(failure[1]);
    if (child > 0 && read(failure[0], &error, sizeof error) > 0) waitpid(child, NULL, 0);
    close(failure[0]);
    return error < 0 ? error : child;
}

/// How a child ended: 0..255 an exit status, 256 + n a signal, -EAGAIN still running.
static inline int linux_wait(pid_t child) {
    int status;
    pid_t ended;
    do ended = waitpid(child, &status, WNOHANG); while (ended < 0 && errno == EINTR);
    if (ended < 0) return -errno;
    if (ended == 0) return -EAGAIN;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/// Waits until a child has ended, without taking its status.
static inline void linux_await_end(pid_t child) {
    siginfo_t info;
    while (waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR) {}
}

/// Nanoseconds of processor time that a process has used, or -errno.
static inline long linux_process_nanoseconds(pid_t process) {
    clockid_t clock;
    struct timespec used;
    int error = clock_getcpuclockid(process, &clock);
    if (error) return -error;
    return clock_gettime(clock, &used) < 0 ? -errno : used.tv_sec * 1000000000L + used.tv_nsec;
}

/// Nanoseconds of processor time that the calling thread has used.
static inline uint64_t linux_thread_nanoseconds(void) {
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}
