# shellcheck shell=bash
# The daemon as a service: how it is started and stopped, and what stands in its way.

service_guest() {
    needs_ours
    create "$1" pv "$(root_disk)" "$(disk xvdb "$(loop_volume "data-$1" 64M)")"
}

unit() { echo "xen-blkbackd@$(domid "$1").service"; }

main_process() { systemctl show --value --property MainPID "$(unit "$1")"; }

service-restart() { # scenario: the daemon is restarted three times while the guest writes
    local before
    service_guest restart
    before=$(main_process restart)
    in_guest restart load xvdb
    for _ in 1 2 3; do
        systemctl restart "$(unit restart)"
        sleep 2
    done
    [ "$(main_process restart)" != "$before" ] || fail "it is the same process"
    in_guest restart check-load
    destroy restart
}

service-rescan() { # scenario: a stopped daemon is started again by the rescan, for disks that are there already
    service_guest rescan
    systemctl stop "$(unit rescan)"
    start_in_guest rescan verify xvdb 4k
    sleep 3
    is_busy rescan || fail "the guest's I/O ended without a daemon"
    systemctl start xen-blkbackd.service
    finish_in_guest rescan
    destroy rescan
}

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

service-host-shutdown() { # scenario: guests are shut down before their daemons are stopped, and what they wrote is there
    local volume=/dev/loop40 unit order
    needs_ours
    truncate --size 64M $scratch/data-host
    losetup $volume $scratch/data-host
    echo 'XENDOMAINS_SAVE=' >>/etc/default/xendomains
    systemctl start xendomains.service
    create host pv "$(root_disk)" "$(disk xvdb $volume)"
    unit=$(unit host)
    in_guest host mount-ext4 xvdb /mnt/kept
    # Dirty pages that only the guest's own shutdown writes back.
    in_guest host shell 'head -c 8M /dev/zero | tr "\0" x >/mnt/kept/late'
    # As at the host's shutdown: both stop in one transaction, in the units' order.
    systemctl stop xendomains.service "$unit"
    is_gone host || fail "the guest is still there"
    order=$(journalctl --no-pager -o cat -u xendomains.service -u "$unit" --since -10min | grep -nE 'Stopped|Deactivated' || true)
    echo "$order"
    mkdir -p $scratch/mnt-host
    mount -o ro $volume $scratch/mnt-host
    [ "$(tr -d x <$scratch/mnt-host/late | wc -c) $(stat -c %s $scratch/mnt-host/late)" = "0 8388608" ] ||
        fail "what the guest wrote last is not on the volume"
    umount $scratch/mnt-host
}

service-xenstored-stands-still() { # scenario: xenstored stands still for a minute while the guest writes
    local store before domain
    service_guest still
    domain=$(domid still)
    in_guest still load xvdb
    store=$(pgrep -x oxenstored || pgrep -x xenstored)
    before=$(sectors_written "$domain")
    kill -STOP "$store"
    sleep 60
    kill -CONT "$store"
    sleep 3
    [ "$(sectors_written "$domain")" -gt $((before + 1000)) ] || fail "no I/O while xenstored stood still"
    in_guest still check-load
    destroy still
}

# By the guest, from the daemon's status: the volume is a file, whose loop device sees nothing of it.
sectors_written() {
    grep -oE '"write":\{"requests":[0-9]+,"sectors":[0-9]+' "/run/xen-blkbackd/vbd-$1.status" |
        awk -F: '{ sum += $NF } END { print sum + 0 }'
}

service-xenstored-updated() { # scenario: xenstored is replaced by a live update while the guest writes; then disks come and go
    local store volume
    service_guest updated
    in_guest updated load xvdb
    store=$(pgrep -x oxenstored || pgrep -x xenstored)
    /usr/lib/xen-*/bin/xenstore-control live-update -t 60 "$(readlink -f "/proc/$store/exe")"
    volume=$(loop_volume data-late 64M)
    xl block-attach updated "$(disk xvdc "$volume")"
    in_guest updated shell 'for i in $(seq 100); do [ -b /dev/xvdc ] && break; sleep 0.1; done; [ -b /dev/xvdc ]'
    xl block-detach updated xvdc
    in_guest updated check-load
    destroy updated
}

service-xenbus-device() { # scenario: a daemon that sees no socket of xenstored goes through /dev/xen/xenbus, as in a driver domain
    local drop_in=/run/systemd/system/xen-blkbackd@.service.d volume
    mkdir -p $drop_in
    printf '[Service]\nTemporaryFileSystem=/run/xenstored:ro\n' >$drop_in/no-socket.conf
    systemctl daemon-reload
    service_guest device
    rm -r $drop_in
    systemctl daemon-reload
    find "/proc/$(main_process device)/fd" -lname /dev/xen/xenbus | grep -q . || fail "the daemon has not opened /dev/xen/xenbus"
    in_guest device load xvdb
    volume=$(loop_volume data-late 64M)
    for _ in 1 2 3; do
        xl block-attach device "$(disk xvdc "$volume")"
        in_guest device shell 'for i in $(seq 100); do [ -b /dev/xvdc ] && break; sleep 0.1; done; [ -b /dev/xvdc ]'
        xl block-detach device xvdc
    done
    in_guest device check-load
    destroy device
}

service-driver-domain() { # scenario: a guest's disk is served from another guest, a driver domain without systemd
    local archive volume disk
    needs_ours
    tar --create --directory /rig/install --file $scratch/install.tar usr etc
    archive=$(losetup --find --show --read-only $scratch/install.tar)
    volume=$(loop_volume data-driver 64M)
    guest_options='driver_domain = 1'
    create driver pv "$(root_disk)" "$(disk xvdb "$archive" ro)" "$(disk xvdc "$volume")"
    guest_options=''
    in_guest driver driver-domain xvdb
    disk='format=raw,backendtype=phy,backend=driver,vdev=xvdb,access=rw,target=/dev/xvdc'
    create consumer pv "$(root_disk)"
    xl block-attach consumer "$disk"
    start_in_guest consumer shell 'for i in $(seq 100); do [ -b /dev/xvdb ] && break; sleep 0.1; done; [ -b /dev/xvdb ]'
    sleep 15
    # What is to be seen if it does not work: the driver domain's logs and nodes.
    xenstore-ls "/local/domain/$(domid driver)/backend"
    in_guest driver shell 'cat /var/log/xen/*; ls /sys/bus/xen-backend/devices; pgrep -a xl'
    finish_in_guest consumer
    in_guest consumer verify xvdb 4k 128k
    in_guest driver shell 'pgrep -x xen-blkbackd'
    xl block-detach consumer xvdb
    in_guest driver shell 'for i in $(seq 100); do pgrep -x xen-blkbackd || exit 0; sleep 0.1; done; exit 1'
    xl block-attach consumer "$disk"
    in_guest consumer shell 'for i in $(seq 100); do [ -b /dev/xvdb ] && break; sleep 0.1; done; [ -b /dev/xvdb ]'
    in_guest consumer verify xvdb 4k
    destroy consumer
    destroy driver
}

service-missing-device() { # scenario: without its device nodes or modules the daemon says which one it lacks and how to get it
    local node output status
    needs_ours
    for node in gntdev evtchn; do
        mv /dev/xen/$node /dev/xen/$node.away
        status=0
        output=$(timeout 10 xen-blkbackd --domid 77 2>&1) || status=$?
        mv /dev/xen/$node.away /dev/xen/$node
        [ $status = 1 ] || fail "without $node the daemon ended with $status"
        grep -q "/dev/xen/$node is missing: load its module (modprobe xen-$node)" <<<"$output" || fail "it said: $output"
    done
    service_guest whole
    in_guest whole verify xvdb 4k
    destroy whole
}

service-liar() { # scenario: a guest that connects with nonsense gets an error node; its other disk and other guests go on
    local id frontend backend
    service_guest liar
    service_guest honest
    in_guest honest load xvdb
    id=$(domid liar)
    frontend=/local/domain/$id/device/vbd/51728 backend=/local/domain/0/backend/vbd/$id/51728
    # Its driver lets go, and the rest is ours to write, as it would be the guest's.
    in_guest liar shell 'echo vbd-51728 >/sys/bus/xen/drivers/vbd/unbind'
    lie ring-ref 4000000000
    lie ring-ref 99999999999999999999
    lie event-channel 0
    lie event-channel 123456
    lie protocol m68k-abi
    lie ring-page-order 40
    lie multi-queue-num-queues 0
    in_guest liar shell 'echo 3 >/proc/sys/vm/drop_caches; sha256sum /usr/bin/* >/dev/null'
    in_guest honest check-load
    destroy liar
    destroy honest
}

# lie KEY VALUE: connects liar's disk with keys that are good but for one.
lie() {
    xenstore-write "$frontend/state" 1
    until_true 20 has_state 2
    xenstore-write "$frontend/ring-ref" 8 "$frontend/event-channel" 3 "$frontend/protocol" x86_64-abi
    xenstore-write "$frontend/$1" "$2"
    xenstore-write "$frontend/state" 3
    until_true 20 has_state 5
    echo "$1 $2: $(xenstore-read "$backend/error")"
    xenstore-rm "$frontend/$1"
    xenstore-write "$frontend/state" 6
    until_true 20 has_state 6
}

has_state() { [ "$(xenstore-read "$backend/state")" = "$1" ]; }

service-hundred-rounds() { # scenario: a disk comes and is taken away under I/O a hundred times; the guest's other disk goes on
    local id frontend backend volume round rounds=100 resident
    service_guest rounds
    printf '%s\n' 'I/O error' 'still in use' >>"$allowed"
    in_guest rounds load xvdb
    in_guest rounds shell 'while :; do dd if=/dev/xvdc of=/dev/null bs=64k iflag=direct || sleep 0.02; done >/dev/null 2>&1 &'
    id=$(domid rounds) volume=$(loop_volume data-comes 16M)
    frontend=/local/domain/$id/device/vbd/51744 backend=/local/domain/0/backend/vbd/$id/51744
    resident=$(daemon_memory rounds)
    for round in $(seq "$rounds"); do
        bring
        until_true 30 has_state 4
        sleep "0.$((RANDOM % 5))"
        xenstore-rm "$frontend" "$backend"
        until_true 30 is_released "$volume"
        ((round % 25 > 0)) || note "$round rounds, the daemon has $(daemon_memory rounds) KiB"
    done
    [ "$(daemon_memory rounds)" -lt $((resident + 8192)) ] || fail "the daemon has grown from $resident to $(daemon_memory rounds) KiB"
    in_guest rounds check-load
    destroy rounds
}

# As libxl makes a disk, in one process instead of hundreds.
bring() {
    xenstore-write "$frontend" '' "$backend" ''
    xenstore-chmod "$frontend" "n$id" r0
    xenstore-chmod "$backend" n0 "r$id"
    xenstore-write "$backend/frontend" "$frontend" "$backend/frontend-id" "$id" "$backend/online" 1 "$backend/mode" w \
        "$backend/params" "$volume" "$backend/physical-device-path" "$volume" "$backend/dev" xvdc "$backend/state" 1 \
        "$frontend/backend" "$backend" "$frontend/backend-id" 0 "$frontend/virtual-device" 51744 \
        "$frontend/device-type" disk "$frontend/state" 1
}

daemon_memory() { awk '/^VmRSS/ { print $2 }' "/proc/$(main_process "$1")/status"; }

# No descriptor of the daemon is on the volume or the file behind it.
is_released() { ! find "/proc/$(main_process rounds)/fd" -lname "$1" -o -lname "*/data-comes" | grep -q .; }

service-kernel-driver() { # scenario: with xen-blkback loaded disks are left to it, with a word what to do
    local output status=0 id
    needs_ours
    modprobe xen-blkback
    service_kernel_driver || { status=$?; modprobe --remove xen-blkback; return $status; }
    modprobe --remove xen-blkback
}

service_kernel_driver() {
    create taken pv "$(root_disk)" "$(disk xvdb "$(loop_volume data-taken 64M)")"
    in_guest taken verify xvdb 4k
    id=$(domid taken)
    [ "$(basename "$(readlink "/sys/bus/xen-backend/devices/vbd-$id-51728/driver")")" = vbd ] || fail "blkback has not taken it"
    output=$(timeout 10 xen-blkbackd --domid "$id" 2>&1) || true
    grep -q 'modprobe -r xen-blkback' <<<"$output" || fail "no hint but: $output"
    truncate --size 1M $scratch/file
    status=0
    output=$(command xl block-attach taken "script=block-xen-blkbackd,vdev=xvdc,target=$scratch/file" 2>&1) || status=$?
    [ $status -ne 0 ] && grep -q 'blacklist xen_blkback' <<<"$output" || fail "the script said: $output"
    in_guest taken verify xvdb 4k
    destroy taken
}

service-sharing() { # scenario: a volume in use is refused to another guest, by Xen's script and by ours
    local volume output
    needs_ours
    volume=$(loop_volume data-shared 64M)
    truncate --size 64M $scratch/shared.img
    create shares pv "$(root_disk)" "$(disk xvdb "$volume")" "$(disk xvdc $scratch/shared.img)"
    create wants pv "$(root_disk)"
    for target in "$volume" $scratch/shared.img; do
        if output=$(command xl block-attach wants "$(disk xvdb "$target")" 2>&1); then fail "$target was shared"; fi
        grep -qE 'in a guest|in use by' <<<"$output" || fail "attaching $target said: $output"
        # libxl leaves what it could not attach to whoever asked for it.
        xl block-detach wants xvdb
    done
    in_guest shares verify xvdc 4k
    destroy shares
    xl block-attach wants "$(disk xvdb $scratch/shared.img)"
    in_guest wants shell 'for i in $(seq 100); do [ -b /dev/xvdb ] && break; sleep 0.1; done; [ -b /dev/xvdb ]'
    destroy wants
}

service-volume-gone() { # scenario: a volume is taken away under a guest; its other disks go on
    needs_ours
    local sectors
    sectors=$(blockdev --getsz "$(loop_volume data-gone 64M)")
    dmsetup create gone --table "0 $sectors linear $(losetup --noheadings -O NAME -j $scratch/data-gone) 0"
    create loses pv "$(root_disk)" "$(disk xvdb /dev/mapper/gone)"
    in_guest loses verify xvdb 4k
    dmsetup wipe_table gone
    printf 'I/O error\n' >>"$allowed"
    in_guest loses shell '! dd if=/dev/xvdb of=/dev/null bs=4k count=1 iflag=direct'
    in_guest loses shell 'echo 3 >/proc/sys/vm/drop_caches; sha256sum /usr/bin/* >/dev/null'
    destroy loses
    dmsetup remove gone
}

# What the guest's driver would change if it connected anew.
ring_of() { xenstore-ls "/local/domain/$(domid "$1")/device/vbd" | grep -E 'ring-ref|event-channel|state'; }

# serves_again GUEST OLD_PROCESS: waits until another process has everything connected.
serves_again() {
    local process status
    process=$(main_process "$1")
    status=/run/xen-blkbackd/vbd-$(domid "$1").status
    [ "$process" != 0 ] && [ "$process" != "$2" ] && grep -q "^{\"process\":$process," "$status" &&
        [ "$(grep -o '"Connected"' "$status" | wc -l)" = 2 ]
}

service-kill-rounds() { # scenario: the daemon is killed a hundred times while the guest writes and reads back with checksums
    local before process round
    service_guest killed
    before=$(ring_of killed)
    in_guest killed load xvdb
    for round in $(seq 100); do
        process=$(main_process killed)
        kill -KILL "$process"
        until_true 60 serves_again killed "$process"
        # At another moment of the load each time.
        sleep "0.$((round * 37 % 100))"
    done
    in_guest killed check-load
    [ "$(ring_of killed)" = "$before" ] || fail "the guest has connected anew"
    destroy killed
}

service-upgrade() { # scenario: the program is replaced ten times while the guest writes, by xen-backctl upgrade
    local before process
    service_guest upgraded
    before=$(ring_of upgraded)
    in_guest upgraded load xvdb
    for _ in $(seq 10); do
        process=$(main_process upgraded)
        cp /usr/sbin/xen-blkbackd /usr/sbin/xen-blkbackd.new
        mv /usr/sbin/xen-blkbackd.new /usr/sbin/xen-blkbackd
        xen-backctl upgrade --domid "$(domid upgraded)" --daemon xen-blkbackd || fail "xen-backctl upgrade gave $?"
        serves_again upgraded "$process" || fail "the same process serves, or not all disks"
    done
    in_guest upgraded check-load
    [ "$(ring_of upgraded)" = "$before" ] || fail "the guest has connected anew"
    destroy upgraded
}
