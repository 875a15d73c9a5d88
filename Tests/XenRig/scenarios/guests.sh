# shellcheck shell=bash
# Guests of every type, and whole ones.

verified_guest() {
    create "$1" "$1" "$(root_disk)" "$(disk xvdb "$(loop_volume data 64M)")"
    in_guest "$1" verify xvdb 4k 128k
    destroy "$1"
}

guests-pv() { # scenario: a PV guest
    verified_guest pv
}

guests-pvh() { # scenario: a PVH guest
    verified_guest pvh
}

guests-hvm() { # scenario: an HVM guest with PV drivers
    local volume
    volume=$(loop_volume data 64M)
    # From xvde on: the first four are IDE disks too, and libxl has no read-only ones.
    guest_command_line=${guest_command_line/xvda/xvde}
    create hvm hvm "$(disk xvde $root_volume ro)" "$(disk xvdf "$volume")"
    in_guest hvm verify xvdf 4k 128k
    destroy hvm
}

guests-root() { # scenario: a whole Debian on our disk: fsck, systemd, package work, clean shutdown
    guest_init=''
    create root pv "$(disk xvda $root_volume rw)"
    in_guest root install-package
    xl shutdown root
    until_true 120 is_gone root
    fsck.ext4 -fn $root_volume
    dumpe2fs -h $root_volume 2>/dev/null | grep -E '^Filesystem state: +clean$' || fail "the root file system is not clean"
}

guests-grub() { # scenario: GRUB's own PV driver loads the kernel and the initrd from our disk
    local volume
    volume=$(loop_volume boot 128M)
    mkfs.ext4 -q "$volume"
    mkdir -p $scratch/mnt-boot
    mount "$volume" $scratch/mnt-boot
    mkdir -p $scratch/mnt-boot/boot/grub
    cp /boot/vmlinuz /run/guest-initrd.img $scratch/mnt-boot/boot/
    cat >$scratch/mnt-boot/boot/grub/grub.cfg <<GRUB
linux /boot/vmlinuz ${guest_command_line/xvda/xvdb} $guest_init
initrd /boot/guest-initrd.img
boot
GRUB
    umount $scratch/mnt-boot
    guest_kernel=/usr/lib/grub-xen/grub-x86_64-xen.bin guest_ramdisk='' guest_command_line='' guest_init=''
    create grub pv "$(disk xvda "$volume")" "$(disk xvdb $root_volume ro)"
    in_guest grub shell grep -c xvda /proc/partitions
    destroy grub
}
