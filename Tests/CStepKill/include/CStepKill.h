// Processes that are run instruction by instruction, copied where they stand, and killed (ptrace(2)); for step-kill.
#pragma once
#include <stddef.h>

#pragma clang assume_nonnull begin

/// What became of a traced process: its exit code below STEP_STOPPED, or one of these plus a signal's number.
#define STEP_STOPPED 256
#define STEP_KILLED 512

/// Memory that forked processes share; NULL if there is none.
void *_Nullable step_map(size_t bytes);
/// Confines this process, and those that it forks, to one processor: stepping is a dialogue of two. Lines are written at
/// once. Starts the program anew, so that all runs of it do the same instructions (places and hashes are not random), and
/// none that are repeated: a processor stops at each repetition.
void step_prepare(char *_Nullable *_Nonnull arguments);
/// fork(2), the child being traced: 0 there, else its pid or -errno.
int step_fork(void);
/// Stops the process that calls until its tracer goes on with it: a SIGSTOP.
void step_stop(void);
/// _exit(2)
_Noreturn void step_exit(int code);

// The tracer's side: a pid of a process that is stopped, except for step_wait. What became of it, or -errno.

/// Waits for the process that step_fork has made to stop, and takes all its descendants.
int step_wait(int pid);
/// Lets the process run until it stops by itself, or ends.
int step_resume(int pid);
/// Lets it do `count` instructions, or fewer if it stops or ends; how many it did is in `done`.
int step_advance(int pid, long count, long *done);
/// Another process that stands where this one does: same memory, same registers. Its pid, or -errno; 0 if this one has
/// just stopped by itself, which it is good for nothing but killing then.
int step_copy(int pid);
/// SIGKILL; returns when it is dead.
int step_kill(int pid);

#pragma clang assume_nonnull end
