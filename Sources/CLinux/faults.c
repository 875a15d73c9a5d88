#include "CLinux.h"
#include <signal.h>
#include <stdlib.h>

static __thread uint32_t *volatile thread_record;
// For a thread whose own stack has overflowed.
static __thread void *thread_stack;

static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP};

// Only stores to memory that is mapped: nothing else is safe here. The disposition is the default again (SA_RESETHAND), so
// that the fault, which happens again on return, ends the process as it would have; an abort has to be raised anew. What
// was sent by somebody else (si_code <= 0) is no fault of the request's.
static void on_fault(int number, siginfo_t *info, void *context) {
    (void)context;
    uint32_t *record = thread_record;
    if (record && (info->si_code > 0 || number == SIGABRT)) {
        __atomic_fetch_add(&record[0], 1, __ATOMIC_SEQ_CST);
        uint32_t alone = __atomic_load_n(&record[1], __ATOMIC_SEQ_CST);
        if (alone) __atomic_store_n(&record[2], alone, __ATOMIC_SEQ_CST);
    }
    if (info->si_code <= 0) raise(number);
}

void linux_watch_faults(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_RESETHAND | SA_ONSTACK | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    for (unsigned i = 0; i < sizeof faults / sizeof *faults; i++) sigaction(faults[i], &action, NULL);
}

void linux_record_faults(uint32_t *record) {
    thread_record = record;
    if (record && !thread_stack) {
        thread_stack = malloc(16384);
        stack_t stack = {.ss_sp = thread_stack, .ss_size = 16384};
        if (thread_stack) sigaltstack(&stack, NULL);
    } else if (!record && thread_stack) {
        stack_t none = {.ss_flags = SS_DISABLE};
        sigaltstack(&none, NULL);
        free(thread_stack);
        thread_stack = NULL;
    }
}
