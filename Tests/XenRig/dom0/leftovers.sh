# shellcheck shell=bash
# What must not be there after a scenario, whatever it did.

# clean_up LOGS: ends whatever the scenario left running, and keeps its guests' consoles.
clean_up() {
    local domain
    for domain in $(domains); do
        echo "leftover domain $domain"
        xl destroy "$domain"
    done
    for _ in $(seq 100); do
        [ -n "$(domains)" ] || break
        sleep 0.2
    done
    umount /run/scratch/mnt* 2>/dev/null
    vgs --noheadings -o name 2>/dev/null | xargs -r -n 1 vgremove -ff -y
    losetup --noheadings -O NAME,BACK-FILE | awk '$2 ~ /scratch/ { print $1 }' | xargs -r -n 1 losetup --detach
    umount /run/scratch
    mv /var/log/xen/console/* /var/log/xen/xl-*.log "$1/" 2>/dev/null
    dmesg >"$1/dom0-dmesg"
    xl debug-keys g
    sleep 0.5
    xl dmesg -c >"$1/xl-dmesg"
    xenstore-ls -f >"$1/xenstore"
    cp /run/state-times "$1/"
    journalctl --no-pager --output=short-monotonic -u 'xen-blkbackd@*' --since "$(stat -c %w "$1/log" | cut -d. -f1)" >"$1/daemon"
}

# Zombies too: they are listed as (null).
domains() { xl list | awk 'NR > 1 && $2 != 0 { print $2 }'; }

# leftovers LOGS: prints the first complaint, nothing if all is well.
leftovers() {
    { complaints "$1"; zombies; stale_nodes "$1/xenstore"; leaked_grants "$1/xl-dmesg"; daemons; } | head -n 1
}

# What blkfront says of a backend that does not keep to the protocol, and kernels of anything worse.
complaints() {
    grep -haE 'disabled for further use|response has wrong|still in use|I/O error|BUG:|Oops|blocked for more than' \
        "$1"/guest-*.log "$1/dom0-dmesg" 2>/dev/null | grep -vFf /run/allowed | sed 's/^/kernel: /'
}

zombies() {
    local left
    left=$(domains)
    [ -z "$left" ] || echo "domains are left: $left"
}

stale_nodes() {
    grep -E '^/local/domain/0/backend/(vbd|vbd3|qdisk)/|^/local/domain/[1-9][0-9]*/|^/libxl/[1-9][0-9]*/device/vbd' "$1" |
        sed 's/^/left in xenstore: /' | head -n 1
}

# Xen lists each grant that somebody has mapped under the domain that granted it.
leaked_grants() {
    awk '/grant-table for remote d[1-9]/ { print "left in Xen: " $0 }' "$1" | head -n 1
}

daemons() {
    local left
    for _ in $(seq 50); do
        left=$(pgrep -a -x xen-blkbackd) || return 0
        sleep 0.2
    done
    echo "a daemon is left: $left"
}
