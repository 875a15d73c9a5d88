# shellcheck shell=bash
# What a guest can do with a disk.

disks-block-sizes() { # scenario: fio with verify on blocks of every size from 512 bytes to 1 MiB
    create sizes pv "$(root_disk)" "$(disk xvdb "$(loop_volume data 64M)")"
    in_guest sizes verify xvdb 512 1k 2k 4k 8k 16k 32k 64k 128k 256k 512k 1m
    destroy sizes
}

disks-ext4() { # scenario: mkfs, files, fsck, fstrim
    create ext4 pv "$(root_disk)" "$(disk xvdb "$(loop_volume data 256M)")"
    in_guest ext4 filesystem ext4 xvdb
    destroy ext4
    trimmed data 30000  # of which journal and inode tables take 24 MiB
}

disks-xfs() { # scenario: mkfs, files, xfs_repair, fstrim
    create xfs pv "$(root_disk)" "$(disk xvdb "$(loop_volume data 400M)")"
    in_guest xfs filesystem xfs xvdb
    destroy xfs
    trimmed data 75000  # of which the log takes 64 MiB
}

# trimmed NAME KIB: fstrim of the emptied file system, which held 20 MB of random data and more, must have reached the
# file under the loop device.
trimmed() {
    local kib
    kib=$(du -k "$scratch/$1" | cut -f 1)
    [ "$kib" -lt "$2" ] || fail "after fstrim the volume still takes $kib KiB"
}

disks-discard() { # scenario: blkdiscard
    local kib
    create discard pv "$(root_disk)" "$(disk xvdb "$(loop_volume data 64M)")"
    in_guest discard discard xvdb
    kib=$(du -k $scratch/data | cut -f 1)
    [ "$kib" -lt 40000 ] || fail "after blkdiscard of 32 of 64 MiB the volume takes $kib KiB"
    destroy discard
}

disks-read-only() { # scenario: a read-only disk
    local volume
    volume=$(random_volume)
    create readonly pv "$(root_disk)" "$(disk xvdb "$volume" ro)"
    in_guest readonly read-only xvdb "$(sha256sum <"$volume" | cut -d ' ' -f 1)"
    destroy readonly
}

disks-cdrom() { # scenario: a CD-ROM
    local volume
    volume=$(random_volume)
    create cdrom pv "$(root_disk)" "$(disk xvdc "$volume" ro devtype=cdrom)"
    in_guest cdrom read-only xvdc "$(sha256sum <"$volume" | cut -d ' ' -f 1)"
    in_guest cdrom shell grep -qx 1 /sys/block/xvdc/removable
    destroy cdrom
}

random_volume() {
    head -c 16M /dev/urandom >$scratch/random
    losetup --find --show $scratch/random
}

disks-file() { # scenario: a raw file without a loop device under it
    needs_ours
    truncate --size 64M /var/tmp/disk.img
    create file pv "$(root_disk)" "$(disk xvdb /var/tmp/disk.img)"
    in_guest file verify xvdb 512 4k 256k
    destroy file
    rm /var/tmp/disk.img
}

disks-root-content() { # scenario: what the guest reads of its root disk is what is on it
    local files='find /usr/bin -xdev -type f | sort | xargs cat | sha256sum' expected
    mkdir -p $scratch/mnt-root
    mount -o ro $root_volume $scratch/mnt-root
    expected=$(chroot $scratch/mnt-root sh -c "$files" | cut -d ' ' -f 1)
    umount $scratch/mnt-root
    create content pv "$(root_disk)"
    for _ in 1 2 3; do
        in_guest content shell "echo 3 >/proc/sys/vm/drop_caches; [ \$($files | cut -d ' ' -f 1) = $expected ]"
    done
    destroy content
}
