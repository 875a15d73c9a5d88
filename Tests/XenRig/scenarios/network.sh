# shellcheck shell=bash
# Virtual network interfaces.

# A bridge with an address, as hosts have it.
make_bridge() {
    ip link show xenbr0 >/dev/null 2>&1 && return
    ip link add xenbr0 type bridge forward_delay 0
    ip addr add 10.9.0.1/24 dev xenbr0
    ip link set xenbr0 up
}

# network_guest NAME NUMBER [OPTIONS]: a guest with an interface at the bridge, 10.9.0.NUMBER.
network_guest() {
    make_bridge
    guest_on "$1" "mac=00:16:3e:00:00:0$2,bridge=xenbr0${3:+,$3}"
    in_guest "$1" network "10.9.0.$2/24"
}

# guest_on NAME VIF: a guest with an interface.
guest_on() {
    needs_ours
    guest_options="vif = [ '$2' ]"
    create "$1" pv "$(root_disk)"
    guest_options=''
}

interface() { echo "vif$(domid "$1").0"; }

no_interface_left() { ! ip link show | grep -q 'vif[0-9]*\.' || fail "an interface is left"; }

# exchange NAME HOST GUEST [MIB]: data with checksums through TCP, both ways, between addresses as a URL has them.
exchange() {
    local data=data-${4:-16} sum
    mkdir -p $scratch/web
    [ -e $scratch/web/$data ] || head -c "${4:-16}M" /dev/urandom >$scratch/web/$data
    pgrep -f 'httpd -p 8000' >/dev/null || busybox httpd -p 8000 -h $scratch/web
    sum=$(checksum <$scratch/web/$data)
    # The agent's words have one space between them.
    in_guest "$1" shell '[ -d /dev/shm/web ] || { mkdir /dev/shm/web; busybox httpd -p 8000 -h /dev/shm/web; }'
    in_guest "$1" shell "busybox wget -q -O /dev/shm/web/$data http://$2:8000/$data && sha256sum /dev/shm/web/$data | grep -q ^$sum"
    busybox wget -q -O $scratch/received "http://$3:8000/$data"
    [ "$(checksum <$scratch/received)" = "$sum" ] || fail "other data arrived"
}

checksum() { sha256sum | cut -d ' ' -f 1; }

end_exchange() { pkill -f 'httpd -p 8000' || true; }

network-bridge() { # scenario: a guest at a bridge, attached by Xen's own script: pings, and 16 MiB each way
    network_guest bridged 2
    ip -o link show master xenbr0 | grep -q "$(interface bridged)" || fail "the interface is not at the bridge"
    in_guest bridged shell 'busybox ping -c 5 10.9.0.1 && busybox ping -c 5 -s 8000 10.9.0.1'
    exchange bridged 10.9.0.1 10.9.0.2
    end_exchange
    destroy bridged
    no_interface_left
}

network-iperf() { # scenario: iperf3 both ways, TCP and UDP
    local options
    network_guest fast 2
    for options in '' -R '-u -b 30M' '-u -b 30M -R'; do
        iperf3 --server --one-off --daemon --bind 10.9.0.1
        in_guest fast shell "iperf3 --client 10.9.0.1 --time 5 $options | grep -E 'receiver|error'"
    done
    destroy fast
}

network-offloads() { # scenario: every combination of offloads in the guest carries the same data
    local setting
    network_guest offloads 2
    for setting in {on,off}\ {on,off}\ {on,off}\ {on,off}\ {on,off}; do
        # shellcheck disable=SC2086 # words
        set -- $setting
        # The kernel refuses what needs something that is off.
        in_guest offloads shell "ethtool -K eth0 tx $1 sg $2 tso $3 gso $4 gro $5 || true"
        exchange offloads 10.9.0.1 10.9.0.2 1
    done
    end_exchange
    destroy offloads
}

network-vlan() { # scenario: a VLAN on the guest's interface
    network_guest tagged 2
    ip link add link xenbr0 name xenbr0.5 type vlan id 5
    ip addr add 10.9.5.1/24 dev xenbr0.5
    ip link set xenbr0.5 up
    in_guest tagged shell 'modprobe 8021q; ip link add link eth0 name eth0.5 type vlan id 5; ip addr add 10.9.5.2/24 dev eth0.5; ip link set eth0.5 up'
    in_guest tagged shell 'busybox ping -c 3 10.9.5.1'
    exchange tagged 10.9.5.1 10.9.5.2 4
    end_exchange
    ip link del xenbr0.5
    destroy tagged
}

network-jumbo() { # scenario: packets of 9,000 bytes
    make_bridge
    ip link set xenbr0 mtu 9000
    network_guest jumbo 2 mtu=9000
    [ "$(cat "/sys/class/net/$(interface jumbo)/mtu")" = 9000 ] || fail "the interface takes packets of $(cat "/sys/class/net/$(interface jumbo)/mtu")"
    in_guest jumbo shell 'ip link set eth0 mtu 9000; busybox ping -c 5 -s 8900 10.9.0.1'
    exchange jumbo 10.9.0.1 10.9.0.2 4
    # Without offloads the long packets come from the guest's own stack.
    in_guest jumbo shell 'ethtool -K eth0 tso off gso off gro off tx off'
    exchange jumbo 10.9.0.1 10.9.0.2 4
    end_exchange
    destroy jumbo
    ip link set xenbr0 mtu 1500
}

network-ipv6() { # scenario: IPv6
    network_guest six 2
    ip addr add fd00:9::1/64 dev xenbr0 nodad
    in_guest six shell 'ip addr add fd00:9::2/64 dev eth0 nodad; busybox ping6 -c 3 fd00:9::1'
    exchange six '[fd00:9::1]' '[fd00:9::2]' 4
    end_exchange
    ip addr del fd00:9::1/64 dev xenbr0
    destroy six
}

network-multicast() { # scenario: a guest joins a multicast group and is reached, leaves it and is not
    network_guest groups 2
    in_guest groups shell 'echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts; ip addr add 239.9.0.9/32 dev eth0 autojoin'
    ip route add 239.9.0.0/16 dev xenbr0
    busybox ping -c 3 239.9.0.9 || fail "the group does not answer"
    in_guest groups shell 'ip addr del 239.9.0.9/32 dev eth0'
    ! busybox ping -c 2 -W 1 239.9.0.9 || fail "the group answers still"
    ip route del 239.9.0.0/16
    destroy groups
}

network-flood() { # scenario: two guests, of which one floods; the other is answered
    network_guest floods 2
    network_guest calm 3
    iperf3 --server --one-off --daemon --bind 10.9.0.1
    start_in_guest floods shell 'iperf3 --client 10.9.0.1 --udp --bandwidth 0 --length 64 --time 20 >/dev/null'
    sleep 3
    in_guest calm shell 'busybox ping -c 10 10.9.0.1'
    finish_in_guest floods
    destroy floods
    destroy calm
}

network-reboot() { # scenario: a guest reboots, and its interface works again
    local before
    network_guest reboots 2
    before=$(domid reboots)
    start_in_guest reboots shell 'sync; echo b >/proc/sysrq-trigger'
    until_true 90 is_another reboots "$before"
    echo 0 >/run/reboots.sequence
    wait_for_agent reboots
    in_guest reboots network 10.9.0.2/24
    in_guest reboots shell 'busybox ping -c 5 10.9.0.1'
    destroy reboots
}

network-routed() { # scenario: a guest that is routed to, by Xen's own script
    needs_ours
    make_uplink
    guest_on routed 'mac=00:16:3e:00:00:02,ip=10.7.0.2,script=vif-route,gatewaydev=uplink'
    ip route get 10.7.0.2 | grep -q "$(interface routed)" || fail "there is no route to it"
    in_guest routed network 10.7.0.2/32
    in_guest routed shell 'ip route add 10.8.0.1 dev eth0; ip route add default via 10.8.0.1; busybox ping -c 5 10.8.0.1'
    exchange routed 10.8.0.1 10.7.0.2 4
    end_exchange
    destroy routed
    no_interface_left
    remove_uplink
}

network-nat() { # scenario: a guest behind an address of its own, by Xen's own script
    local gateway address
    guest_on hidden 'mac=00:16:3e:00:00:02,script=vif-nat'
    address="10.$(($(domid hidden) / 256)).$(($(domid hidden) % 256)).1"
    gateway=$(ip -4 -o addr show "$(interface hidden)" | grep -oE '10\.[0-9.]+' | head -n 1)
    in_guest hidden network "$address/16"
    in_guest hidden shell "busybox ping -c 5 $gateway"
    exchange hidden "$gateway" "$address" 4
    end_exchange
    destroy hidden
    no_interface_left
}

# attaching MODE COMMAND...: daemons that start meanwhile attach interfaces by themselves.
attaching() {
    echo "XEN_NETBACKD_OPTIONS=\"--attach $1\"" >/etc/default/xen-netbackd
    "${@:2}"
    rm /etc/default/xen-netbackd
}

# What the daemon has changed at the host is changed back.
nothing_left() {
    no_interface_left
    [ ! -s /run/xen-netbackd/attachments ] || fail "left: $(cat /run/xen-netbackd/attachments)"
    ! ip route show | grep 'vif' || fail "a route is left"
}

make_uplink() {
    ip link show uplink >/dev/null 2>&1 && return
    ip netns add outside
    ip link add uplink type veth peer name inside netns outside
    ip addr add 10.8.0.1/24 dev uplink
    ip link set uplink up
    ip -n outside addr add 10.8.0.2/24 dev inside
    ip -n outside link set inside up
}

remove_uplink() {
    ip link del uplink
    ip netns del outside
}

built_in_bridge() { attaching bridge=xenbr0 network_guest ported 2 script=vif-xen-netbackd; }
built_in_route() { attaching routed guest_on guided 'mac=00:16:3e:00:00:03,ip=10.7.0.2,gatewaydev=uplink,script=vif-xen-netbackd'; }
built_in_nat() { attaching nat=10.88.0.0/24 guest_on masked 'mac=00:16:3e:00:00:04,ip=10.88.0.5,gatewaydev=uplink,script=vif-xen-netbackd'; }

use_bridge() {
    ip -o link show master xenbr0 | grep -q "$(interface ported)" || fail "the interface is not at the bridge"
    in_guest ported shell 'busybox ping -c 5 10.9.0.1'
    exchange ported 10.9.0.1 10.9.0.2 4
}

use_route() {
    in_guest guided shell 'ip route replace 10.8.0.1 dev eth0; ip route replace default via 10.8.0.1; busybox ping -c 5 10.8.0.1'
    ip -n outside route replace 10.7.0.2 via 10.8.0.1
    in_guest guided shell 'busybox ping -c 5 10.8.0.2'
    exchange guided 10.8.0.1 10.7.0.2 4
}

# The outside knows no way to the guest: it answers the host.
use_nat() {
    in_guest masked shell 'ip route replace default via 10.88.0.1; busybox ping -c 5 10.88.0.1 && busybox ping -c 5 10.8.0.2'
    exchange masked 10.88.0.1 10.88.0.5 4
}

network-built-in-bridge() { # scenario: a guest at a bridge, attached by the daemon
    built_in_bridge
    use_bridge
    end_exchange
    destroy ported
    nothing_left
}

network-built-in-route() { # scenario: a guest that the daemon routes to
    make_uplink
    built_in_route
    in_guest guided network 10.7.0.2/32
    use_route
    end_exchange
    destroy guided
    nothing_left
    remove_uplink
}

network-built-in-nat() { # scenario: a guest behind the host's address, by the daemon
    make_uplink
    built_in_nat
    in_guest masked network 10.88.0.5/24
    use_nat
    end_exchange
    destroy masked
    nothing_left
    remove_uplink
}

network-modes() { # scenario: guests at a bridge by Xen's script and by the daemon, routed and behind the host's address, at once
    make_uplink
    network_guest scripted 5
    built_in_bridge
    built_in_route
    built_in_nat
    in_guest guided network 10.7.0.2/32
    in_guest masked network 10.88.0.5/24
    use_bridge
    use_route
    use_nat
    exchange scripted 10.9.0.1 10.9.0.5 4
    in_guest scripted shell 'busybox ping -c 5 10.9.0.2'
    end_exchange
    # One that goes takes nothing with it that others need.
    destroy masked
    use_route
    destroy guided
    use_bridge
    destroy ported
    destroy scripted
    nothing_left
    remove_uplink
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
    before=$(ip -o link show "$(interface again)" | cut -d: -f1)
    systemctl restart "xen-netbackd@$(domid again).service"
    in_guest again shell 'busybox ping -c 5 10.9.0.1'
    [ "$(ip -o link show master xenbr0 | grep "$(interface again)" | cut -d: -f1)" = "$before" ] || fail "it is another interface"
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

network_process() { systemctl show --value --property MainPID "xen-netbackd@$(domid "$1").service"; }

# network_serves_again GUEST OLD_PROCESS: waits until another process has the interface connected.
network_serves_again() {
    local process status
    process=$(network_process "$1")
    status=/run/xen-netbackd/vif-$(domid "$1").status
    [ "$process" != 0 ] && [ "$process" != "$2" ] && grep -q "^{\"process\":$process,.*\"Connected\"" "$status"
}

# One TCP stream each way, of 10 Mbit/s, which leaves some of the emulated processor to others, until it is stopped; fails if
# one has ended by itself or does not move any more. (The agent takes one line.)
start_streams() {
    local port options
    for port in 5201 5202; do
        iperf3 --server --one-off --daemon --bind 10.9.0.1 --port $port
        options=$([ $port = 5201 ] || echo --reverse)
        in_guest "$1" shell "iperf3 --client 10.9.0.1 --port $port --time 80000 --bitrate 10M --forceflush $options >/tmp/iperf-$port 2>&1 & echo \$! >/tmp/iperf-$port.pid"
    done
}

stop_streams() {
    local port
    sleep 15 # TCP waits longer and longer before it tries again
    for port in 5201 5202; do
        in_guest "$1" shell "kill -0 \$(cat /tmp/iperf-$port.pid) || { tail -n 3 /tmp/iperf-$port; exit 1; }"
        in_guest "$1" shell "tail -n 3 /tmp/iperf-$port | grep -qv ' 0.00 bits/sec' || { echo stream $port has stopped; exit 1; }"
        in_guest "$1" shell "kill \$(cat /tmp/iperf-$port.pid)"
    done
}

network-kill-rounds() { # scenario: the daemon is killed a hundred times under two TCP streams
    local before process round
    network_guest killed 2
    before=$(ip -o link show "$(interface killed)" | cut -d: -f1)
    start_streams killed
    for round in $(seq 100); do
        process=$(network_process killed)
        kill -KILL "$process"
        until_true 60 network_serves_again killed "$process"
        # At another moment of the load each time.
        sleep "0.$((round * 37 % 100))"
    done
    stop_streams killed
    exchange killed 10.9.0.1 10.9.0.2 4
    [ "$(ip -o link show master xenbr0 | grep "$(interface killed)" | cut -d: -f1)" = "$before" ] || fail "it is another interface"
    destroy killed
}

network-upgrade() { # scenario: the program is replaced ten times under two TCP streams, by xen-backctl upgrade
    local process
    network_guest upgraded 2
    start_streams upgraded
    for _ in $(seq 10); do
        process=$(network_process upgraded)
        cp /usr/sbin/xen-netbackd /usr/sbin/xen-netbackd.new
        mv /usr/sbin/xen-netbackd.new /usr/sbin/xen-netbackd
        xen-backctl upgrade --domid "$(domid upgraded)" --daemon xen-netbackd || fail "xen-backctl upgrade gave $?"
        network_serves_again upgraded "$process" || fail "the same process serves, or the interface is not connected"
    done
    stop_streams upgraded
    destroy upgraded
}
