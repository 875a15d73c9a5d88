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
