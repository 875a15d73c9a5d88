# shellcheck shell=bash
# What is measured: see Benchmarks/rig.

bench-profile() { # measurement: the same for longer, for whoever looks at the program counters meanwhile
    local volume backend
    guest_seconds=3000
    cat /proc/kallsyms >/rig/logs/kallsyms
    for backend in ours kernel; do
        BACKEND=$backend
        if [ $backend = kernel ]; then modprobe xen-blkback; fi
        volume=$(loop_volume "data-$backend" 256M)
        create "profile-$backend" pv "$(root_disk)" "$(disk xvdb "$volume")"
        in_guest "profile-$backend" bench xvdb 20
        tr -d '\r' <"/var/log/xen/console/guest-profile-$backend.log" | sed -n "s/^bench /$backend /p" |
            while read -r line; do note "measured $line"; done
        destroy "profile-$backend"
        losetup --detach "$volume"
        rm "$scratch/data-$backend"
    done
    modprobe --remove xen-blkback
}

bench-fio() { # measurement: fio in a PV guest on a loop device in memory, by this project, QEMU and xen-blkback
    local volume backend
    guest_seconds=3000
    for backend in ours qdisk kernel; do
        BACKEND=$backend
        # Last: once it is there it takes every disk.
        if [ $backend = kernel ]; then modprobe xen-blkback; fi
        volume=$(loop_volume "data-$backend" 256M)
        create "bench-$backend" pv "$(root_disk)" "$(disk xvdb "$volume")"
        in_guest "bench-$backend" bench xvdb
        tr -d '\r' <"/var/log/xen/console/guest-bench-$backend.log" | sed -n "s/^bench /$backend /p" |
            while read -r line; do note "measured $line"; done
        destroy "bench-$backend"
        losetup --detach "$volume"
        rm "$scratch/data-$backend"
    done
    modprobe --remove xen-blkback
}
