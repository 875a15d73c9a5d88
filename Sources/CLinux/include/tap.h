// TAP devices (linux/if_tun.h) and the little that is said to their network interface. A value or -errno; no policy.
// Part of CLinux.h; not included by itself.
#pragma once
#include <stdint.h>
#include <stddef.h>

#pragma clang assume_nonnull begin

/// Opens /dev/net/tun and attaches to the TAP device `name` as one of its queues; frames have a header of 10 bytes in front
/// (struct virtio_net_hdr). The first makes the device, or takes over one that stayed behind without queues; -EBUSY if it
/// is served by a process. `existed`: the device was there. The descriptor, non-blocking, or -errno.
int linux_tap_open(const char *name, int first, int *existed);
/// Whether the device is up and has a carrier, as its driver says now and not as Linux has noticed; a flag or -errno.
int linux_tap_has_carrier(const char *name);
/// Which work the device may leave undone in frames that it hands out (TUN_F_*); 0 or -errno.
int linux_tap_set_offloads(int fd, unsigned offloads);
/// Whether a cable is in; 0 or -errno.
int linux_tap_set_carrier(int fd, int on);
/// Switches this queue of the device on or off; 0 or -errno.
int linux_tap_set_attached(int fd, int attached);
/// The device lives on without a descriptor, or not; 0 or -errno.
int linux_tap_set_persistent(int fd, int persistent);
/// The interface's name as it is now, 16 bytes; 0 or -errno.
int linux_tap_name(int fd, uint8_t *name);
/// What the TAP device of this number is called now, 16 bytes; 0 or -errno, -EBADFD of an interface of another kind.
int linux_tap_name_of(int index, uint8_t *name);
/// The interface's number, also after it was renamed; or -errno, -EBADFD of what is no queue like ours.
int linux_tap_index(int fd);
/// Sets a hardware address, six bytes; 0 or -errno.
int linux_tap_set_address(int fd, const uint8_t *address);
/// Sets an interface's MTU; 0 or -errno.
int linux_interface_set_mtu(int index, int mtu);
/// Sets an interface up or down; 0 or -errno.
int linux_interface_set_up(int index, int up);
/// A BPF array map of one entry of `bytes`, all zeros; its descriptor or -errno.
int linux_bpf_array(uint32_t bytes);
/// Sets the entry, as many bytes as it has; 0 or -errno.
int linux_bpf_update(int map, const void *value);
/// Loads a socket filter (linux/bpf.h, struct bpf_insn); its descriptor or -errno: EPERM without CAP_BPF, EINVAL or EACCES if
/// the kernel does not accept it.
int linux_bpf_load(const uint64_t *instructions, uint32_t count);
/// Runs a program once for a frame, as the kernel would; what it returns, which is not negative, or -errno.
int linux_bpf_run(int program, const void *frame, uint32_t bytes);
/// Has a program choose the queue of each frame from the host (TUNSETSTEERINGEBPF), -1: none; 0 or -errno.
int linux_tap_set_steering(int fd, int program);
/// read(2) and write(2) of a frame with its header, repeated after a signal; bytes or -errno.
LINUX_NO_LOCKS long linux_frame_read(int fd, void *bytes, size_t capacity);
LINUX_NO_LOCKS long linux_frame_write(int fd, const void *bytes, size_t count);
/// readv(2) of a frame whose header goes elsewhere; bytes in all or -errno.
long linux_frame_read_apart(int fd, void *header, size_t header_bytes, void *bytes, size_t capacity);

/// TUN_F_CSUM, TUN_F_TSO4 and TUN_F_TSO6.
static const unsigned linux_tap_checksum = 1, linux_tap_tso4 = 2, linux_tap_tso6 = 4;

#pragma clang assume_nonnull end
