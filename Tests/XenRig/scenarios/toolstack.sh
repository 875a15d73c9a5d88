# shellcheck shell=bash
# What xl does with domains and disks.

simple_guest() {
    create "$1" "${2:-pv}" "$(root_disk)" "$(disk xvdb "$(loop_volume "data-$1" 64M)")"
}

toolstack-shutdown() { # scenario: create and shutdown
    simple_guest down
    xl shutdown down
    until_true 60 is_gone down
}

toolstack-reboot() { # scenario: a guest that reboots gets its disks again
    local before
    simple_guest again
    before=$(domid again)
    in_guest again fill xvdb 8
    start_in_guest again shell 'sync; echo b >/proc/sysrq-trigger'
    until_true 90 is_another again "$before"
    echo 0 >/run/again.sequence
    wait_for_agent again
    in_guest again check-fill xvdb 8
    destroy again
}

is_another() { local now; now=$(domid "$1" 2>/dev/null) && [ "$now" != "$2" ]; }

toolstack-destroy() { # scenario: destroyed under full load
    simple_guest load
    in_guest load load xvdb
    sleep 3
    destroy load
}

toolstack-crash() { # scenario: the guest's kernel crashes under load
    simple_guest crash
    in_guest crash load xvdb
    start_in_guest crash shell 'echo c >/proc/sysrq-trigger'
    until_true 60 is_gone crash
    echo 'sysrq' >>"$allowed"
}

toolstack-attach-detach() { # scenario: disks come and go while the guest runs, three times
    local volume round
    volume=$(loop_volume extra 64M)
    simple_guest hotplug
    for round in 1 2 3; do
        xl block-attach hotplug "$(disk xvdc "$volume")"
        in_guest hotplug shell "for i in \$(seq 100); do [ -b /dev/xvdc ] && break; sleep 0.1; done; [ -b /dev/xvdc ]"
        in_guest hotplug verify xvdc 4k 64k
        xl block-detach hotplug xvdc
        in_guest hotplug shell "[ ! -e /dev/xvdc ] # round $round"
    done
    destroy hotplug
}

toolstack-detach-refused() { # scenario: a guest that does not answer keeps its disk for now
    local status=0
    simple_guest refuses
    in_guest refuses fill xvdb 8
    xl pause refuses
    # Ten seconds: the guest has the last word.
    command xl block-detach refuses xvdb || status=$?
    [ $status -ne 0 ] || fail "xl block-detach took the disk of a paused guest away"
    xl unpause refuses
    # Its driver lets go now, but keeps /dev/xvdb until the toolstack takes the node away.
    until_true 30 is_closed refuses 51728
    xl block-detach refuses xvdb
    in_guest refuses shell 'for i in $(seq 100); do [ -e /dev/xvdb ] || break; sleep 0.1; done; [ ! -e /dev/xvdb ]'
    in_guest refuses shell 'sha256sum /usr/bin/* >/dev/null'
    destroy refuses
}

# is_closed NAME DEVICE
is_closed() { [ "$(xenstore-read "/local/domain/0/backend/vbd/$(domid "$1")/$2/state")" = 6 ]; }

toolstack-detach-force() { # scenario: a mounted disk is taken away by force; the other one goes on
    simple_guest force
    in_guest force mount-ext4 xvdb /mnt/kept
    command xl block-detach --force force xvdb
    in_guest force shell 'echo 3 >/proc/sys/vm/drop_caches; sha256sum /usr/bin/* >/dev/null'
    # The mounted file system's.
    echo xvdb >>"$allowed"
    destroy force
}

toolstack-pause() { # scenario: paused and resumed under load
    simple_guest pause
    in_guest pause load xvdb
    for _ in 1 2 3; do
        xl pause pause
        sleep 2
        xl unpause pause
        sleep 1
    done
    in_guest pause check-load
    destroy pause
}

toolstack-save-restore() { # scenario: saved and restored under load
    simple_guest saved
    in_guest saved load xvdb
    xl save saved $scratch/saved.image
    is_gone saved || fail "the saved domain is still there"
    xl restore $scratch/saved.image
    rm $scratch/saved.image
    in_guest saved check-load
    destroy saved
}

toolstack-save-continue() { # scenario: saved with a checkpoint; the same domain goes on
    simple_guest goes-on
    in_guest goes-on load xvdb
    xl save -c goes-on $scratch/saved.image
    rm $scratch/saved.image
    in_guest goes-on check-load
    destroy goes-on
}

toolstack-migrate() { # scenario: migrated to this host under load
    simple_guest moves
    in_guest moves load xvdb
    xl migrate -s '' moves 'xl migrate-receive'
    in_guest moves check-load
    destroy moves
}

toolstack-local-attach() { # scenario: dom0 is the frontend
    local volume
    volume=$(loop_volume local 64M)
    modprobe xen-blkfront
    xl block-attach 0 "$(disk xvdb "$volume")"
    until_true 30 test -b /dev/xvdb
    /rig/guest/verify xvdb 4k 64k
    xl block-detach 0 xvdb
    until_true 30 test ! -e /dev/xvdb
}

toolstack-two-domains() { # scenario: two domains at once
    simple_guest one
    simple_guest two
    start_in_guest one verify xvdb 4k 64k
    start_in_guest two verify xvdb 4k 64k
    finish_in_guest one
    destroy one
    finish_in_guest two
    in_guest two verify xvdb 16k
    destroy two
}

toolstack-forty-disks() { # scenario: forty devices on one domain, which all go at the same time
    local disks=() disk number letters=(b c d e f g h i j k l m n o p)
    # Linux's frontend keeps 4 MiB of bounce pages for each disk whose grants are persistent.
    guest_memory=768
    for number in $(seq 39); do
        truncate --size 4M "$scratch/small-$number"
        # xvdb1 and so on are devices of their own: fifteen per letter.
        disks+=("$(disk "xvd${letters[number / 15]}$((number % 15 + 1))" "$scratch/small-$number")")
    done
    # xl starts all scripts at once, which wait for one lock, and gives them forty seconds: too few for an emulated
    # processor and more than some.
    create forty pv "$(root_disk)" "${disks[@]:0:6}"
    for disk in "${disks[@]:6}"; do xl block-attach forty "$disk"; done
    in_guest forty many-disks 39
    destroy forty
}

toolstack-vbd3() { # scenario: disks of the type that backendtype=tap makes since Xen 4.19, beside one of the usual type
    needs_ours
    if [[ "$(xl info xen_version | tail -n 1)" < 4.19 ]]; then
        note "toolstack-vbd3 needs Xen 4.19 or later: run with --release trixie"
        return
    fi
    truncate --size 64M $scratch/vbd3.img
    create tap pv "$(root_disk)" "backendtype=tap,script=block-xen-blkbackd,format=raw,vdev=xvdb,access=rw,target=$scratch/vbd3.img"
    xenstore-exists "/local/domain/0/backend/vbd3/$(domid tap)/51728" || fail "it is no vbd3"
    in_guest tap verify xvdb 4k 128k
    [ "$(pgrep -c -x xen-blkbackd)" = 1 ] || fail "there is more than one daemon"
    destroy tap
}
