# shellcheck shell=bash
# The daemon as a service: how it is started and stopped, and what stands in its way.

service_guest() {
    needs_ours
    create "$1" pv "$(root_disk)" "$(disk xvdb "$(loop_volume "data-$1" 64M)")"
}

unit() { echo "xen-blkbackd@$(domid "$1").service"; }

main_process() { systemctl show --value --property MainPID "$(unit "$1")"; }

service-second() { # scenario: a second daemon for the same domain is refused, the first undisturbed
    local output status=0
    service_guest second
    in_guest second load xvdb
    output=$(timeout 20 xen-blkbackd --domid "$(domid second)" 2>&1) || status=$?
    [ $status = 1 ] || fail "the second daemon ended with $status"
    grep -q "process $(main_process second) serves this already" <<<"$output" || fail "it said: $output"
    in_guest second check-load
    destroy second
}

service-last-disk() { # scenario: the last disk goes and the next one comes at once, ten times
    local volume round
    needs_ours
    modprobe xen-blkfront
    volume=$(loop_volume last 64M)
    for round in $(seq 10); do
        xl block-attach 0 "$(disk xvdb "$volume")"
        until_true 30 test -b /dev/xvdb
        # Without a pause in between, so that some rounds find the daemon about to end.
        xl block-detach 0 xvdb
        echo "round $round"
    done
    until_true 30 test ! -e /dev/xvdb
}
