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

/// What a program is started with beside its arguments.
struct linux_spawn_options {
    /// Negative: not bound to one.
    int processor;
    /// Becomes its standard output, unless negative.
    int output;
    /// It dies with the calling thread (PR_SET_PDEATHSIG).
    int dies;
    /// Null: the caller's.
    char *const *environment;
    /// Ten characters in the environment that become its process id, as sd_listen_fds(3) wants it; or null.
    char *process;
    /// Become its descriptors 3 and so on; they themselves are higher.
    const int *passed;
    size_t passed_count;
};

// In the child only async-signal-safe calls are made, from fork to exec: other threads' locks may be held.
static inline int linux_prepare_child(const struct linux_spawn_options *options, pid_t parent) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (options->dies) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        if (getppid() != parent) _exit(127);
    }
    // First: its number may be one of those that are passed on.
    if (options->output >= 0 && dup2(options->output, STDOUT_FILENO) < 0) return -errno;
    for (size_t index = 0; index < options->passed_count; index++)
        if (dup2(options->passed[index], 3 + (int)index) < 0) return -errno;
    for (pid_t rest = getpid(), digit = 9; options->process && digit >= 0; digit--, rest /= 10)
        options->process[digit] = (char)('0' + rest % 10);
    return options->processor < 0 ? 0 : linux_pin(options->processor);
}

/// Starts a program; its process id or -errno, of exec too.
static inline pid_t linux_spawn(
    const char *path, char *const *arguments, const struct linux_spawn_options *options) {
    int failure[2];
    // Closed by exec from its birth: a child that another thread starts just now would keep it open, and the read below would
    // wait for that one's end. pipe2(2) needs _GNU_SOURCE.
    if (syscall(SYS_pipe2, failure, O_CLOEXEC) < 0) return -errno;
    // Out of the way of what is passed on.
    int report = fcntl(failure[1], F_DUPFD_CLOEXEC, 3 + (int)options->passed_count);
    close(failure[1]);
    pid_t parent = getpid(), child = report < 0 ? -1 : fork();
    if (child == 0) {
        close(failure[0]);
        int error = linux_prepare_child(options, parent);
        if (!error) {
            if (options->environment) execve(path, arguments, options->environment);
            else execv(path, arguments);
            error = -errno;
        }
        while (write(report, &error, sizeof error) < 0 && errno == EINTR) {}
        _exit(127);
    }
    int error = child < 0 ? -errno : 0;
    if (report >= 0) close(report);
    if (child > 0 && read(failure[0], &error, sizeof error) > 0) waitpid(child, NULL, 0);
    close(failure[0]);
    return error < 0 ? error : child;
}

/// Readable once a process has ended (pidfd_open(2)); -errno.
static inline int linux_process_descriptor(pid_t process) {
    long result = syscall(SYS_pidfd_open, process, 0);
    return result < 0 ? -errno : (int)result;
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
