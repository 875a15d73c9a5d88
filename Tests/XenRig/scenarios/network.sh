# shellcheck shell=bash
# Virtual network interfaces.

# A bridge with an address, as hosts have it.
make_bridge() {
    ip link show xenbr0 >/dev/null 2>&1 && return
    ip link add xenbr0 type bridge forward_delay 0
    ip addr add 10.9.0.1/24 dev xenbr0
    ip link set xenbr0 up
}

# network_guest NAME NUMBER: a guest with an interface at the bridge, 10.9.0.NUMBER.
network_guest() {
    needs_ours
    make_bridge
    guest_options="vif = [ 'mac=00:16:3e:00:00:0$2,bridge=xenbr0' ]"
    create "$1" pv "$(root_disk)"
    guest_options=''
    in_guest "$1" network "10.9.0.$2/24"
}

network-bridge() { # scenario: a guest at a bridge, attached by Xen's own script: pings, and 16 MiB each way
    network_guest bridged 2
    ip -o link show master xenbr0 | grep -q "vif$(domid bridged).0" || fail "the interface is not at the bridge"
    in_guest bridged shell 'busybox ping -c 5 10.9.0.1 && busybox ping -c 5 -s 8000 10.9.0.1'
    mkdir -p $scratch/web
    head -c 16M /dev/urandom >$scratch/web/data
    busybox httpd -p 10.9.0.1:8000 -h $scratch/web
    in_guest bridged shell "[ \"\$(busybox wget -q -O - http://10.9.0.1:8000/data | sha256sum | cut -c 1-64)\" = $(sha256sum <$scratch/web/data | cut -c 1-64) ]"
    in_guest bridged shell 'head -c 16M /dev/zero | tr "\0" x >/dev/shm/data; busybox httpd -p 8000 -h /dev/shm'
    busybox wget -q -O $scratch/received http://10.9.0.2:8000/data
    pkill -f 'httpd -p 10.9.0.1'
    [ "$(tr -d x <$scratch/received | wc -c) $(stat -c %s $scratch/received)" = "0 16777216" ] || fail "other data arrived"
    destroy bridged
    ! ip link show | grep -q 'vif[0-9]*\.' || fail "an interface is left"
}

network-neighbours() { # scenario: two guests at one bridge talk with each other
    network_guest one 2
    network_guest two 3
    in_guest one shell 'busybox ping -c 5 10.9.0.3'
    in_guest two shell 'busybox ping -c 5 -s 4000 10.9.0.2'
    destroy one
    in_guest two shell 'busybox ping -c 3 10.9.0.1'
    destroy two
}

network-attach-detach() { # scenario: an interface comes and goes while the guest runs, three times
    local round
    needs_ours
    make_bridge
    create plugged pv "$(root_disk)"
    for round in 1 2 3; do
        xl network-attach plugged mac=00:16:3e:00:00:02 bridge=xenbr0
        in_guest plugged network 10.9.0.2/24
        in_guest plugged shell 'busybox ping -c 3 10.9.0.1'
        xl network-detach plugged 0
        in_guest plugged shell 'for i in $(seq 100); do [ -e /sys/class/net/eth0 ] || break; sleep 0.1; done; [ ! -e /sys/class/net/eth0 ]'
        ! ip link show | grep -q 'vif[0-9]*\.' || fail "round $round: an interface is left"
    done
    destroy plugged
}

network-restart() { # scenario: the daemon is restarted while the guest pings: the interface stays at the bridge
    local before
    network_guest again 2
    before=$(ip -o link show "vif$(domid again).0" | cut -d: -f1)
    systemctl restart "xen-netbackd@$(domid again).service"
    in_guest again shell 'busybox ping -c 5 10.9.0.1'
    [ "$(ip -o link show master xenbr0 | grep "vif$(domid again).0" | cut -d: -f1)" = "$before" ] || fail "it is another interface"
    destroy again
}

network-save-restore() { # scenario: a guest is saved and restored, and its interface works again
    network_guest saved 2
    xl save saved $scratch/saved.state
    until_true 30 is_gone saved
    xl restore $scratch/saved.state
    rm $scratch/saved.state
    in_guest saved shell 'busybox ping -c 5 10.9.0.1'
    destroy saved
}
