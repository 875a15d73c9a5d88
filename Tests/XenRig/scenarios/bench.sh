# shellcheck shell=bash
# What is measured: see Benchmarks/rig.

# Or the first writes would measure how the file's memory is found.
filled_volume() {
    head -c 256M /dev/zero >"$scratch/$1"
    losetup --find --show "$scratch/$1"
}

bench-profile() { # measurement: the same without QEMU, for whoever counts instructions meanwhile
    cat /proc/kallsyms /proc/xen/xensyms >/rig/logs/symbols
    job_times=8 job_pattern='*-4k-*'
    measure_backends ours kernel
}

bench-fio() { # measurement: fio in a PV guest on a loop device in memory, by this project, QEMU and xen-blkback
    measure_backends ours device qdisk kernel
}

# Of how many requests, and which: see guest/bench.
job_times=4 job_pattern='*'

# measure_backends BACKEND...: ours, device (ours, without the short cut to the file behind the loop device), qdisk or
# kernel; one guest after another; the kernel's backend last, for once it is there it takes every disk.
measure_backends() {
    local volume backend
    guest_seconds=3000
    for backend in "$@"; do
        BACKEND=$backend
        if [ "$backend" = device ]; then
            BACKEND=ours
            echo 'XEN_BLKBACKD_OPTIONS="--no-loop-files"' >/etc/default/xen-blkbackd
        fi
        if [ "$backend" = kernel ]; then modprobe xen-blkback; fi
        volume=$(filled_volume "data-$backend")
        create "bench-$backend" pv "$(root_disk)" "$(disk xvdb "$volume")"
        in_guest "bench-$backend" bench xvdb $job_times "$job_pattern"
        measured "bench-$backend" "$backend"
        destroy "bench-$backend"
        losetup --detach "$volume"
        rm -f "$scratch/data-$backend" /etc/default/xen-blkbackd
    done
    modprobe --remove xen-blkback
}

# measured GUEST BACKEND: reports the lines `bench JOB RATE` that a guest has printed.
measured() {
    local line
    tr -d '\r' <"/var/log/xen/console/guest-$1.log" | sed -n "s/^bench /$2 /p" |
        while read -r line; do note "measured $line"; done
}

bench-iperf() { # measurement: iperf3 between dom0 and a PV guest at a bridge, by this project and xen-netback
    measure_networks ours kernel
}

bench-network-profile() { # measurement: the same, for whoever counts instructions meanwhile
    cat /proc/kallsyms /proc/xen/xensyms >/rig/logs/symbols
    measure_networks ours kernel
}

# measure_networks BACKEND...: ours or kernel; the kernel's last, as with disks. All disks are ours.
measure_networks() {
    local backend job
    guest_seconds=3000
    for backend in "$@"; do
        if [ "$backend" = kernel ]; then modprobe xen-netback; fi
        network_guest "iperf-$backend" 2
        for job in from-guest to-guest; do
            iperf3 --server --one-off --daemon --bind 10.9.0.1
            in_guest "iperf-$backend" iperf $job 10.9.0.1 1024M
        done
        measured "iperf-$backend" "$backend"
        destroy "iperf-$backend"
    done
    modprobe --remove xen-netback
}
