// The headers as a 64-bit frontend compiles them, and everything that is the same for all frontends.
//
// Where libxen-dev is missing this file is empty, so that the products build without it; the tests then fail to link.
#if __has_include(<xen/io/blkif.h>)
#include "xen.h"
#include <xen/io/blkif.h>
#include <xen/io/xenbus.h>
#include <xen/io/xs_wire.h>
#include <xen/sys/gntdev.h>
#include "CXen.h"
#include "abi.h"
#include "fields.h"

const struct reference_abi *reference_native(void) { return &table; }

// CXen.h names the ring header's fields by offset only.
struct ring_header { char bytes[XEN_RING_ENTRIES]; };
#define INDEX(ours, theirs) {#ours, ours, 4, (uint32_t)offsetof(struct blkif_sring, theirs), WIDTH(struct blkif_sring, theirs)}

typedef struct ioctl_gntdev_grant_copy_segment gntdev_segment;

static const struct reference_field fields[] = {
    REQUEST_FIELDS(64),
    WHOLE(struct blkif_segment_wire, struct blkif_request_segment),
    SAME(struct blkif_segment_wire, struct blkif_request_segment, gref),
    SAME(struct blkif_segment_wire, struct blkif_request_segment, first_sect),
    SAME(struct blkif_segment_wire, struct blkif_request_segment, last_sect),
    INDEX(XEN_RING_REQ_PROD, req_prod),
    INDEX(XEN_RING_REQ_EVENT, req_event),
    INDEX(XEN_RING_RSP_PROD, rsp_prod),
    INDEX(XEN_RING_RSP_EVENT, rsp_event),
    {"ring entries", (uint32_t)sizeof(struct ring_header), 112, (uint32_t)offsetof(struct blkif_sring, ring),
     WIDTH(struct blkif_sring, ring[0])},
    WHOLE(struct xen_grant_entry, struct grant_entry_v1),
    SAME(struct xen_grant_entry, struct grant_entry_v1, flags),
    SAME(struct xen_grant_entry, struct grant_entry_v1, domid),
    SAME(struct xen_grant_entry, struct grant_entry_v1, frame),
    WHOLE(struct xen_grant_copy_segment, gntdev_segment),
    SAME(struct xen_grant_copy_segment, gntdev_segment, source),
    SAME(struct xen_grant_copy_segment, gntdev_segment, dest),
    FIELD(struct xen_grant_copy_segment, length, gntdev_segment, len),
    SAME(struct xen_grant_copy_segment, gntdev_segment, flags),
    SAME(struct xen_grant_copy_segment, gntdev_segment, status),
    WHOLE(struct xenstore_header, struct xsd_sockmsg),
    SAME(struct xenstore_header, struct xsd_sockmsg, type),
    FIELD(struct xenstore_header, request, struct xsd_sockmsg, req_id),
    FIELD(struct xenstore_header, transaction, struct xsd_sockmsg, tx_id),
    FIELD(struct xenstore_header, length, struct xsd_sockmsg, len),
    LAST,
};
const struct reference_field *reference_fields(void) { return fields; }

// Shifts of the halves of a grant copy's foreign side, which CXen.h packs into one integer.
#define FOREIGN_SHIFT(field) (8 * (int64_t)offsetof(gntdev_segment, source.foreign.field))

#define CONSTANT(name) {#name, (int64_t)(name)}
static const struct reference_constant constants[] = {
    CONSTANT(BLKIF_OP_READ), CONSTANT(BLKIF_OP_WRITE), CONSTANT(BLKIF_OP_WRITE_BARRIER),
    CONSTANT(BLKIF_OP_FLUSH_DISKCACHE), CONSTANT(BLKIF_OP_DISCARD), CONSTANT(BLKIF_OP_INDIRECT),
    CONSTANT(BLKIF_MAX_SEGMENTS_PER_REQUEST), CONSTANT(BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST),
    {"segments per indirect page", 4096 / (int64_t)sizeof(struct blkif_request_segment)},
    CONSTANT(BLKIF_DISCARD_SECURE),
    CONSTANT(BLKIF_RSP_OKAY), CONSTANT(BLKIF_RSP_ERROR), CONSTANT(BLKIF_RSP_EOPNOTSUPP),
    CONSTANT(VDISK_CDROM), CONSTANT(VDISK_REMOVABLE), CONSTANT(VDISK_READONLY),
    CONSTANT(GTF_permit_access), CONSTANT(GTF_type_mask), CONSTANT(GTF_readonly), CONSTANT(GTF_reading),
    CONSTANT(GTF_writing), CONSTANT(GNTCOPY_source_gref), CONSTANT(GNTCOPY_dest_gref),
    CONSTANT(GNTST_okay), CONSTANT(GNTST_general_error), CONSTANT(GNTST_bad_domain), CONSTANT(GNTST_bad_gntref),
    CONSTANT(GNTST_permission_denied), CONSTANT(GNTST_bad_page), CONSTANT(GNTST_bad_copy_arg),
    {"foreign.ref shift", FOREIGN_SHIFT(ref)}, {"foreign.offset shift", FOREIGN_SHIFT(offset)},
    {"foreign.domid shift", FOREIGN_SHIFT(domid)},
    CONSTANT(XS_CONTROL), CONSTANT(XS_DIRECTORY), CONSTANT(XS_READ), CONSTANT(XS_GET_PERMS), CONSTANT(XS_WATCH),
    CONSTANT(XS_UNWATCH), CONSTANT(XS_TRANSACTION_START), CONSTANT(XS_TRANSACTION_END), CONSTANT(XS_INTRODUCE),
    CONSTANT(XS_RELEASE), CONSTANT(XS_GET_DOMAIN_PATH), CONSTANT(XS_WRITE), CONSTANT(XS_MKDIR), CONSTANT(XS_RM),
    CONSTANT(XS_SET_PERMS), CONSTANT(XS_WATCH_EVENT), CONSTANT(XS_ERROR), CONSTANT(XS_IS_DOMAIN_INTRODUCED),
    CONSTANT(XS_RESUME), CONSTANT(XS_SET_TARGET), CONSTANT(XS_RESET_WATCHES), CONSTANT(XS_DIRECTORY_PART),
    CONSTANT(XENSTORE_PAYLOAD_MAX), CONSTANT(XENSTORE_ABS_PATH_MAX), CONSTANT(XENSTORE_REL_PATH_MAX),
    CONSTANT(XenbusStateUnknown), CONSTANT(XenbusStateInitialising), CONSTANT(XenbusStateInitWait),
    CONSTANT(XenbusStateInitialised), CONSTANT(XenbusStateConnected), CONSTANT(XenbusStateClosing),
    CONSTANT(XenbusStateClosed), CONSTANT(XenbusStateReconfiguring), CONSTANT(XenbusStateReconfigured),
    {"", 0},
};
const struct reference_constant *reference_constants(void) { return constants; }
#endif
