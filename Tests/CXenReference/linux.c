// The kernel's own headers (linux-libc-dev) for the devices that LiveXen talks to, and Xen's older copy of their numbers
// (libxen-dev, xen/sys): two references that must agree, in one file each because their names are the same.
#if __has_include(<xen/gntdev.h>)
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <linux/types.h>
#include "CXen.h"
#include "CXenReference.h"
#include "fields.h"

typedef uint32_t grant_ref_t;
typedef uint16_t domid_t;
#include <xen/evtchn.h>
#include <xen/gntdev.h>

typedef struct gntdev_grant_copy_segment kernel_segment;

static const struct reference_field fields[] = {
    WHOLE(struct xen_grant_copy_segment, kernel_segment),
    SAME(struct xen_grant_copy_segment, kernel_segment, source),
    SAME(struct xen_grant_copy_segment, kernel_segment, dest),
    FIELD(struct xen_grant_copy_segment, length, kernel_segment, len),
    SAME(struct xen_grant_copy_segment, kernel_segment, flags),
    SAME(struct xen_grant_copy_segment, kernel_segment, status),
    LAST,
};
const struct reference_field *reference_fields_linux(void) { return fields; }

#define REFERENCE_DEVICE_CALLS reference_device_calls_linux
#include "calls.h"
#endif
