// LD_PRELOAD library that runs Debian's two xenstoreds (C and OCaml, Xen 4.17) on a machine without Xen, for tests.
//
// Domains are files: while $XENSTORED_SHIM_DOMAINS/<domid>.gone exists, that domain does not. Every other hypercall
// succeeds without effect. The process ends when its standard input does, that is, when the test that started it is
// gone, however that happened.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

// ---- Life ---------------------------------------------------------------------------------------------------------

static void *end_with_input(void *argument) {
    int input = *(int *)argument;
    char byte;
    while (read(input, &byte, 1) > 0) {}
    _exit(0);
}

__attribute__((constructor)) static void start(void) {
    static int input;
    pthread_t thread;
    input = fcntl(0, F_DUPFD_CLOEXEC, 100);
    if (input < 0 || pthread_create(&thread, NULL, end_with_input, &input)) _exit(70);
}

// oxenstored gives up when it cannot raise its limit of open files.
int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit) { return 0; }
int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit) { return 0; }

// ---- libxenctrl ---------------------------------------------------------------------------------------------------

// The head of xc_dominfo_t (xenctrl.h, 4.17); xenstored looks no further.
struct domain_info {
    uint32_t domain, ssid;
    unsigned dying : 1, crashed : 1, shutdown : 1, paused : 1, blocked : 1, running : 1;
};

static void *const handle = (void *)1;

static int is_gone(uint32_t domain) {
    const char *directory = getenv("XENSTORED_SHIM_DOMAINS");
    char path[512];
    if (domain == 0 || !directory) return 0;
    snprintf(path, sizeof path, "%s/%u.gone", directory, domain);
    return access(path, F_OK) == 0;
}

void *xc_interface_open(void *logger, void *domain_builder_logger, unsigned flags) { return handle; }
int xc_interface_close(void *interface) { return 0; }

int xc_domain_getinfo(void *interface, uint32_t first, unsigned count, struct domain_info *info) {
    if (is_gone(first)) return 0;
    memset(info, 0, sizeof *info);
    info->domain = first;
    return 1;
}

static void *page(void) {
    return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void *xc_map_foreign_range(void *interface, uint32_t domain, int size, int protection, unsigned long frame) {
    return page();
}

// ---- libxengnttab -------------------------------------------------------------------------------------------------

void *xengnttab_open(void *logger, unsigned flags) { return handle; }
int xengnttab_close(void *table) { return 0; }
int xengnttab_set_max_grants(void *table, uint32_t count) { return 0; }
void *xengnttab_map_grant_ref(void *table, uint32_t domain, uint32_t reference, int protection) { return page(); }
int xengnttab_unmap(void *table, void *address, uint32_t count) { return munmap(address, 4096 * (size_t)count); }

// ---- libxenevtchn -------------------------------------------------------------------------------------------------

static int event_descriptor = -1;
static int last_port = 9;

void *xenevtchn_open(void *logger, unsigned flags) {
    if (event_descriptor < 0) event_descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return handle;
}
void *xenevtchn_fdopen(void *logger, int descriptor, unsigned flags) {
    event_descriptor = descriptor;
    return handle;
}
int xenevtchn_fd(void *channel) { return event_descriptor; }
int xenevtchn_close(void *channel) { return 0; }
int xenevtchn_bind_virq(void *channel, unsigned virq) { return 1; }
int xenevtchn_bind_interdomain(void *channel, uint32_t domain, uint32_t port) { return ++last_port; }
int xenevtchn_bind_unbound_port(void *channel, uint32_t domain) { return ++last_port; }
int xenevtchn_notify(void *channel, uint32_t port) { return 0; }
int xenevtchn_unmask(void *channel, uint32_t port) { return 0; }
int xenevtchn_unbind(void *channel, uint32_t port) { return 0; }
int xenevtchn_pending(void *channel) {
    uint64_t count;
    return read(event_descriptor, &count, sizeof count) == sizeof count ? 1 : -1;
}

// ---- Files that only a kernel on Xen has ----------------------------------------------------------------------------

static int ends_with(const char *text, const char *end) {
    size_t length = strlen(text), wanted = strlen(end);
    return length >= wanted && !strcmp(text + length - wanted, end);
}

// dom0's xenstore ring: its page and its port.
static int open_xen_file(const char *path) {
    if (ends_with(path, "/xen/xsd_kva")) {
        int file = memfd_create("xsd_kva", MFD_CLOEXEC);
        return file >= 0 && ftruncate(file, 4096) == 0 ? file : -1;
    }
    if (ends_with(path, "/xen/xsd_port")) {
        int file = memfd_create("xsd_port", MFD_CLOEXEC);
        dprintf(file, "1\n");
        lseek(file, 0, SEEK_SET);
        return file;
    }
    return -1;
}

typedef int open_function(const char *, int, ...);

#define INTERPOSE(name)                                                     \
    int name(const char *path, int flags, ...) {                            \
        va_list arguments;                                                  \
        va_start(arguments, flags);                                         \
        int mode = va_arg(arguments, int);                                  \
        va_end(arguments);                                                  \
        int file = open_xen_file(path);                                     \
        return file >= 0 ? file : ((open_function *)dlsym(RTLD_NEXT, #name))(path, flags, mode); \
    }
INTERPOSE(open)
INTERPOSE(open64)
