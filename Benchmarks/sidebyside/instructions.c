// A QEMU plugin that counts executed instructions by translated block and processor. Whoever connects to the socket gets
// the counts so far, a line each: address of the block, its instructions, executions on processor 0 and on processor 1.
// The declarations are those of QEMU's plugin interface, version 1 (include/qemu/qemu-plugin.h), which Debian does not ship.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct qemu_plugin_tb;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*callback)(uint64_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(
    struct qemu_plugin_tb *tb, void (*callback)(unsigned cpu, void *data), int flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

struct block {
    uint64_t address, instructions, executions[2];
    struct block *next;
};

static struct block *blocks;
static int server;

static void executed(unsigned cpu, void *data) { ((struct block *)data)->executions[cpu & 1]++; }

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
    struct block *block = calloc(1, sizeof *block);
    if (!block)
        return;
    block->address = qemu_plugin_tb_vaddr(tb);
    block->instructions = qemu_plugin_tb_n_insns(tb);
    block->next = __atomic_load_n(&blocks, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&blocks, &block->next, block, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, block);
}

static void *serve(void *unused)
{
    for (;;) {
        FILE *stream = fdopen(accept(server, NULL, NULL), "w");
        if (!stream)
            continue;
        for (struct block *block = __atomic_load_n(&blocks, __ATOMIC_ACQUIRE); block; block = block->next)
            if (block->executions[0] | block->executions[1])
                fprintf(stream, "%lx %lu %lu %lu\n", block->address, block->instructions, block->executions[0], block->executions[1]);
        fclose(stream);
    }
    return unused;
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int count, char **arguments)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    pthread_t thread;
    if (count != 1 || strncmp(arguments[0], "socket=", 7))
        return -1;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", arguments[0] + 7);
    unlink(address.sun_path);
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    if (server < 0 || bind(server, (struct sockaddr *)&address, sizeof address) || listen(server, 4))
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return pthread_create(&thread, NULL, serve, NULL);
}
