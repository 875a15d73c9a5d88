# shellcheck shell=bash
# What is measured: see Benchmarks/rig.

# Or the first writes would measure how the file's memory is found.
filled_volume() {
    head -c 256M /dev/zero >"$scratch/$1"
    losetup --find --show "$scratch/$1"
}

bench-profile() { # measurement: the same without QEMU, for whoever looks at the program counters meanwhile
    cat /proc/kallsyms >/rig/logs/kallsyms
    measure_backends ours kernel
}

bench-fio() { # measurement: fio in a PV guest on a loop device in memory, by this project, QEMU and xen-blkback
    measure_backends ours qdisk kernel
}

# measure_backends BACKEND...: one guest after another; the kernel's backend last, for once it is there it takes every disk.
measure_backends() {
    local volume backend
    guest_seconds=3000
    for backend in "$@"; do
        BACKEND=$backend
        if [ "$backend" = kernel ]; then modprobe xen-blkback; fi
        volume=$(filled_volume "data-$backend")
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
