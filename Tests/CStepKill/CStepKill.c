#define _GNU_SOURCE
#include "CStepKill.h"
#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

void *step_map(size_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return base == MAP_FAILED ? NULL : base;
}

void step_prepare(char **arguments)
{
    if (!getenv("STEP_KILL")) {
        setenv("STEP_KILL", "1", 1);
        setenv("SWIFT_DETERMINISTIC_HASHING", "1", 1);
        setenv("GLIBC_TUNABLES",
               "glibc.cpu.x86_rep_movsb_threshold=0x10000000:glibc.cpu.x86_rep_stosb_threshold=0x10000000", 1);
        personality(ADDR_NO_RANDOMIZE);
        execv("/proc/self/exe", arguments);
    }
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    sched_setaffinity(0, sizeof set, &set);
    setvbuf(stdout, NULL, _IOLBF, 0);
}

int step_fork(void)
{
    int pid = fork();
    if (pid == 0 && ptrace(PTRACE_TRACEME, 0, 0, 0) < 0) _exit(255);
    return pid < 0 ? -errno : pid;
}

// Not raise(3): a copy's thread library does not know its new number.
void step_stop(void) { syscall(SYS_tgkill, syscall(SYS_getpid), syscall(SYS_gettid), SIGSTOP); }

void step_exit(int code) { _exit(code); }

static int outcome(int pid)
{
    int status;
    while (waitpid(pid, &status, __WALL) < 0)
        if (errno != EINTR) return -errno;
    if (WIFEXITED(status)) return WEXITSTATUS(status);
    return WIFSIGNALED(status) ? STEP_KILLED + WTERMSIG(status) : STEP_STOPPED + WSTOPSIG(status);
}

int step_wait(int pid)
{
    int result = outcome(pid);
    long options = PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK;
    if (result >= STEP_STOPPED && ptrace(PTRACE_SETOPTIONS, pid, 0, options) < 0) return -errno;
    return result;
}

int step_resume(int pid)
{
    if (ptrace(PTRACE_CONT, pid, 0, 0) < 0) return -errno;
    return outcome(pid);
}

int step_advance(int pid, long count, long *done)
{
    int result = STEP_STOPPED + SIGTRAP;
    for (*done = 0; *done < count && result == STEP_STOPPED + SIGTRAP; ++*done) {
        if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0) < 0) return -errno;
        result = outcome(pid);
    }
    return result;
}

int step_kill(int pid)
{
    if (kill(pid, SIGKILL) < 0) return -errno;
    int result;
    do result = outcome(pid);
    while (result >= STEP_STOPPED && result < STEP_KILLED);
    return result;
}

// A system call is made in the process' place: its registers are set for it, and set back.
__attribute__((visibility("hidden"))) extern const char step_call_instruction[];
#if defined(__x86_64__)
__asm__(".text\nstep_call_instruction: syscall\nud2\n");
typedef struct user_regs_struct registers;
static void set_call(registers *set, uint64_t number, uint64_t argument)
{
    set->rip = (uintptr_t)step_call_instruction;
    set->rax = number;
    set->orig_rax = -1;    // in no system call: nothing to restart
    set->rdi = argument;
    set->rsi = set->rdx = set->r10 = set->r8 = 0;
}
#elif defined(__aarch64__)
__asm__(".text\nstep_call_instruction: svc #0\nbrk #0\n");
typedef struct user_regs_struct registers;
static void set_call(registers *set, uint64_t number, uint64_t argument)
{
    set->pc = (uintptr_t)step_call_instruction;
    set->regs[8] = number;
    set->regs[0] = argument;
    set->regs[1] = set->regs[2] = set->regs[3] = set->regs[4] = 0;
}
#else
#error "step-kill does not know how this processor makes a system call"
#endif

static int access_registers(int request, int pid, registers *set)
{
    struct iovec vector = {.iov_base = set, .iov_len = sizeof *set};
    return ptrace(request, pid, (void *)NT_PRSTATUS, &vector) < 0 ? -errno : 0;
}

int step_copy(int pid)
{
    registers saved, call;
    unsigned long copy;
    int result = access_registers(PTRACE_GETREGSET, pid, &saved);
    if (result < 0) return result;
    call = saved;
    set_call(&call, SYS_clone, CLONE_PARENT | SIGCHLD);
    if ((result = access_registers(PTRACE_SETREGSET, pid, &call)) < 0) return result;
    // Stops within the call, then behind it; or before it, if a SIGSTOP of its own has not been seen yet.
    if ((result = step_resume(pid)) == STEP_STOPPED + SIGSTOP) return 0;
    if (result != STEP_STOPPED + SIGTRAP) return -ECHILD;
    if (ptrace(PTRACE_GETEVENTMSG, pid, 0, &copy) < 0) return -errno;
    if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0) < 0) return -errno;
    if (outcome(pid) != STEP_STOPPED + SIGTRAP) return -ECHILD;
    if (outcome((int)copy) != STEP_STOPPED + SIGSTOP) return -ECHILD;
    if ((result = access_registers(PTRACE_SETREGSET, pid, &saved)) < 0) return result;
    if ((result = access_registers(PTRACE_SETREGSET, (int)copy, &saved)) < 0) return result;
    return (int)copy;
}
