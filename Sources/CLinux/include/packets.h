// Network namespaces, and frames as another station on an interface sees them (packet(7)). A value or -errno; no policy.
// Part of CLinux.h; not included by itself.
#pragma once
#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

/// Gives the calling thread, and what it starts from now on, a network of its own with nothing in it; 0 or -errno.
int linux_network_new(void);
/// Puts the calling thread, and what it starts from now on, into the network namespace at `path`; 0 or -errno.
int linux_network_enter(const char *path);
/// An interface's number in the caller's namespace; or -errno.
int linux_interface_index(const char *name);
/// A socket for the frames of an interface, each behind a virtio header of 10 bytes: sending passes queueing disciplines
/// by, receiving (non-blocking) yields what comes in only. The descriptor or -errno.
int linux_packet_socket(int interface, int receives);
/// Sends `count` frames of `length` bytes, header included, that lie `stride` bytes apart; how many were sent, or -errno.
long linux_packets_send(int fd, const void *frames, size_t stride, size_t length, unsigned count);
/// Writes `text` to a file that is there; 0 or -errno.
int linux_write_file(const char *path, const char *text);

#pragma clang assume_nonnull end
