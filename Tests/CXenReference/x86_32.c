// The headers as a 32-bit x86 frontend compiles them: 64-bit integers are aligned to four bytes, which is all that
// __i386__ means to blkif.h beside one member at the end of the indirect request.
#if __has_include(<xen/io/blkif.h>)
#include "xen.h"
#pragma pack(push, 4)
#ifndef __i386__
#define __i386__
#include <xen/io/blkif.h>
#undef __i386__
#else
#include <xen/io/blkif.h>
#endif
#pragma pack(pop)
#include "CXen.h"
#include "abi.h"
#include "fields.h"

const struct reference_abi *reference_x86_32(void) { return &table; }

static const struct reference_field fields[] = {
    REQUEST_FIELDS(32),
    FIELD(struct blkif_indirect_32, pad3, struct blkif_request_indirect, pad),
    {"ring entries, x86_32", XEN_RING_ENTRIES, 108, (uint32_t)offsetof(struct blkif_sring, ring),
     WIDTH(struct blkif_sring, ring[0])},
    LAST,
};
const struct reference_field *reference_fields_x86_32(void) { return fields; }
#endif
