# shellcheck shell=bash
# The daemon as a service: how it is started and stopped, and what stands in its way.

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
