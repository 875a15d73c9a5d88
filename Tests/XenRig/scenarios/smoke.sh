# shellcheck shell=bash
smoke() { # scenario: a guest boots from a disk that the backend serves, another is written and verified, all is taken down
    local volume
    volume=$(loop_volume data 64M)
    create smoke pv "$(root_disk)" "$(disk xvdb "$volume")"
    in_guest smoke verify xvdb 512 4k 64k 1m
    destroy smoke
    grep -q 'persistent grants\|blkfront: xvda' /var/log/xen/console/guest-smoke.log
}
