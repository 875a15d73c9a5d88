// netlink(7) with the families that HostNetwork speaks. The kernel's headers are the numbers; here is what Swift does not
// see of them: enumerators that are hidden behind macros of the same name.
// Part of CLinux.h; not included by itself.
#pragma once
// Before linux/netfilter.h, whose own addresses it replaces.
#include <netinet/in.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdint.h>

static const uint16_t linux_rtm_new_link = RTM_NEWLINK, linux_rtm_delete_link = RTM_DELLINK,
                      linux_rtm_get_link = RTM_GETLINK, linux_rtm_new_address = RTM_NEWADDR,
                      linux_rtm_delete_address = RTM_DELADDR, linux_rtm_get_address = RTM_GETADDR,
                      linux_rtm_new_route = RTM_NEWROUTE, linux_rtm_delete_route = RTM_DELROUTE,
                      linux_rtm_get_route = RTM_GETROUTE, linux_rtm_new_neighbour = RTM_NEWNEIGH,
                      linux_rtm_delete_neighbour = RTM_DELNEIGH, linux_rtm_get_neighbour = RTM_GETNEIGH;
