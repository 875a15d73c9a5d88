# shellcheck shell=bash
# Logical volumes in dom0, as administrators have them.

# volume_group SIZE: the group `rig` on a loop device.
volume_group() {
    vgcreate --quiet rig "$(loop_volume pv "$1")"
}

# lvm_is EXPECTED FIELD VOLUME
field() { lvs --noheadings --nosuffix --units b -o "$1" "$2" | tr -d ' '; }

lvm-linear() { # scenario: a linear volume that grows under the guest's mounted file system
    volume_group 400M
    lvcreate --quiet -y -L 128M -n data rig
    create linear pv "$(root_disk)" "$(disk xvdb /dev/rig/data)"
    in_guest linear verify xvdb 4k 1m
    in_guest linear mount-ext4 xvdb /mnt/grown
    lvextend --quiet -L 256M rig/data
    in_guest linear grown xvdb $((256 << 20))
    destroy linear
}

lvm-thin() { # scenario: discards return space to a thin pool
    local full
    volume_group 400M
    lvcreate --quiet -y -L 200M --thinpool pool --zero n rig
    lvcreate --quiet -y -V 300M --thinpool pool -n data rig
    create thin pv "$(root_disk)" "$(disk xvdb /dev/rig/data)"
    in_guest thin fill xvdb 128
    full=$(field data_percent rig/pool)
    in_guest thin check-fill xvdb 128
    in_guest thin shell blkdiscard /dev/xvdb
    destroy thin
    [ "${full%.*}" -ge 60 ] || fail "the pool was $full % full after 128 of 200 MiB"
    [ "$(field data_percent rig/pool | cut -d . -f 1)" = 0 ] || fail "the pool is $(field data_percent rig/pool) % full after blkdiscard"
}

lvm-snapshot() { # scenario: a snapshot while the guest writes
    volume_group 600M
    lvcreate --quiet -y -L 128M -n data rig
    create snapshot pv "$(root_disk)" "$(disk xvdb /dev/rig/data)"
    in_guest snapshot fill xvdb 32
    in_guest snapshot load xvdb 64
    lvcreate --quiet -y -s -L 128M -n kept rig/data
    sleep 5
    in_guest snapshot check-load
    in_guest snapshot check-fill xvdb 32
    cmp --bytes $((32 << 20)) /dev/rig/data /dev/rig/kept || fail "the snapshot lost what was there before it"
    destroy snapshot
}

lvm-full-pool() { # scenario: a full pool pauses the guest's disk, lvextend resumes it
    needs_ours
    volume_group 700M
    lvcreate --quiet -y -L 64M --thinpool pool --zero n --errorwhenfull y rig
    lvcreate --quiet -y -V 256M --thinpool pool -n data rig
    create full pv "$(root_disk)" "$(disk xvdb /dev/rig/data)"
    start_in_guest full fill xvdb 128
    until_true 120 pool_is_full
    sleep 10
    is_busy full || fail "the guest's writes ended on a full pool"
    lvextend --quiet -L 256M rig/pool
    finish_in_guest full
    in_guest full check-fill xvdb 128
    destroy full
}

pool_is_full() { [ "$(field data_percent rig/pool | cut -d . -f 1)" -ge 99 ]; }
