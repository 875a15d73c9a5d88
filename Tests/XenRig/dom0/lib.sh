# shellcheck shell=bash
# What scenarios are written with.

readonly scratch=/run/scratch

make_scratch() {
    mkdir -p $scratch
    mountpoint -q $scratch || mount -t tmpfs -o size=1200m scratch $scratch
}

# The second copy of the root file system, which is every guest's root.
readonly root_volume=/dev/vdb

# Fixed strings, one a line, that this scenario expects among the kernels' messages.
readonly allowed=/run/allowed

# fail REASON...: ends the scenario.
fail() {
    echo "$*" >/run/reason
    exit 1
}

# note TEXT...: a line in the rig's report.
note() { echo "note $*" >/dev/virtio-ports/rig.report; }

explain() {
    [ -s /run/reason ] || echo "$3: '$2' gave $1" >/run/reason
}

# xl prints `libxl: error:` and goes on where a backend does not answer in time; here that is a failure.
xl() {
    local output status=0
    output=$(command xl "$@" 2>&1) || status=$?
    echo "$output"
    if [ $status -ne 0 ]; then fail "xl $1 gave $status: $(error_line "$output")"; fi
    if grep -q 'libxl: error' <<<"$output"; then fail "xl $1 complained: $(error_line "$output")"; fi
}

error_line() { { grep -m 1 -E 'error|fail' <<<"$1" || tail -n 1 <<<"$1"; } | sed 's/^libxl: error: //' | head -c 250; }

# disk VDEV VOLUME [ACCESS [OPTION...]]: how xl is told of a disk, by who serves it.
disk() {
    local vdev=$1 volume=$2 access=${3:-rw} options
    options=$(printf '%s,' "${@:4}")
    case $BACKEND in
    qdisk) echo "format=raw,backendtype=qdisk,vdev=$vdev,access=$access,${options#,}target=$volume" ;;
    *)
        if [ -b "$volume" ]; then
            echo "format=raw,backendtype=phy,vdev=$vdev,access=$access,${options#,}target=$volume"
        else
            echo "script=block-xen-blkbackd,vdev=$vdev,access=$access,${options#,}target=$volume"
        fi
        ;;
    esac
}

# QEMU's device fails on a read-only node.
root_disk() {
    local access=ro
    [ "$BACKEND" != qdisk ] || access=rw
    disk xvda $root_volume $access
}

# What create starts; scenarios may set others.
guest_kernel=/boot/vmlinuz guest_ramdisk=/run/guest-initrd.img
guest_command_line="root=/dev/xvda ro console=hvc0 loglevel=5 net.ifnames=0 xen-rig=guest"
# Instead of systemd, for guests whose root is read-only.
guest_init="init=/run/rig/init"
# MiB.
guest_memory=256
# More lines of their configuration.
guest_options=''

# create NAME TYPE DISK...: starts a guest (pv, pvh, hvm) that runs the agent.
create() {
    configure "$@"
    xl create "/run/$1.cfg"
    echo 0 >"/run/$1.sequence"
    tail -n +1 -F "/var/log/xen/console/guest-$1.log" >/dev/hvc0 2>/dev/null &
    wait_for_agent "$1"
}

configure() {
    cat >"/run/$1.cfg" <<CONFIG
name = "$1"
type = "$2"
memory = $guest_memory
vcpus = 1
cpus = "1"
kernel = "$guest_kernel"
ramdisk = "$guest_ramdisk"
extra = "$guest_command_line $guest_init"
disk = [ $(printf "'%s'," "${@:3}") ]
# Under TCG Xen cannot intercept RDTSCP for a PVH guest.
tsc_mode = "native"
on_poweroff = "destroy"
on_reboot = "restart"
on_crash = "destroy"
vga = "none"
$guest_options
CONFIG
}

domid() { command xl domid "$1"; }

# The agent answers a command `NUMBER SCRIPT ARGUMENT...` with `NUMBER STATUS MESSAGE`; it begins with 0.
wait_for_agent() { answer "$1" 0 "${2:-300}" >/dev/null; }

# answer NAME NUMBER SECONDS: waits for an answer and prints status and message.
answer() {
    local name=$1 number=$2 end=$((SECONDS + $3)) result path
    path=/local/domain/$(domid "$name")/data/rig-result
    set +x
    while ((SECONDS < end)); do
        result=$(xenstore-read "$path" 2>/dev/null) || true
        if [ "${result%% *}" = "$number" ]; then
            set -x
            echo "${result#* }"
            return
        fi
        sleep 0.5
    done
    set -x
    if is_gone "$name"; then fail "guest $name is gone"; fi
    fail "guest $name did not answer command $number within $3 seconds"
}

# in_guest NAME SCRIPT [ARGUMENT...]: runs one of guest/ in a guest and waits for it; limit in $guest_seconds.
guest_seconds=300
in_guest() {
    local name=$1 result
    start_in_guest "$@"
    finish_in_guest "$name"
}

start_in_guest() {
    local name=$1 number
    number=$(($(cat "/run/$name.sequence") + 1))
    echo $number >"/run/$name.sequence"
    xenstore-write "/local/domain/$(domid "$name")/data/rig-command" "$number ${*:2}"
}

finish_in_guest() {
    local name=$1 result
    result=$(answer "$name" "$(cat "/run/$name.sequence")" $guest_seconds)
    if [ "${result%% *}" != 0 ]; then fail "in guest $name: ${result#* }"; fi
    echo "in guest $name: ${result#* }"
}

# until_true SECONDS COMMAND...
until_true() {
    local end=$((SECONDS + $1))
    while ((SECONDS < end)); do
        if "${@:2}"; then return; fi
        sleep 0.5
    done
    fail "not true within $1 seconds: ${*:2}"
}

# is_busy NAME: the guest has not answered the last command yet.
is_busy() {
    local result
    result=$(xenstore-read "/local/domain/$(domid "$1")/data/rig-result")
    [ "${result%% *}" != "$(cat "/run/$1.sequence")" ]
}

# The stand-ins cannot do everything.
needs_ours() { [ "$BACKEND" = ours ] || fail "not with $BACKEND"; }

is_gone() { ! command xl domid "$1" >/dev/null 2>&1; }

destroy() {
    xl destroy "$1"
    is_gone "$1" || fail "domain $1 is there after xl destroy"
}

# loop_volume NAME SIZE: a loop device on a file in memory.
loop_volume() {
    truncate --size "$2" "$scratch/$1"
    losetup --find --show "$scratch/$1"
}
