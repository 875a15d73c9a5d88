// Rows of a layout table: our structure and field, their structure and field.
#pragma once
#define WIDTH(type, field) (uint32_t)sizeof(((type *)0)->field)
#define FIELD(ours, field, theirs, their_field)                                                                      \
    {#ours "." #field, (uint32_t)offsetof(ours, field), WIDTH(ours, field), (uint32_t)offsetof(theirs, their_field), \
     WIDTH(theirs, their_field)}
#define SAME(ours, theirs, field) FIELD(ours, field, theirs, field)
#define WHOLE(ours, theirs) {#ours, 0, (uint32_t)sizeof(ours), 0, (uint32_t)sizeof(theirs)}
#define LAST {"", 0, 0, 0, 0}

#define REQUEST_FIELDS(width)                                                           \
    WHOLE(struct blkif_request_##width, struct blkif_request),                          \
    SAME(struct blkif_request_##width, struct blkif_request, operation),                \
    SAME(struct blkif_request_##width, struct blkif_request, nr_segments),              \
    SAME(struct blkif_request_##width, struct blkif_request, handle),                   \
    SAME(struct blkif_request_##width, struct blkif_request, id),                       \
    SAME(struct blkif_request_##width, struct blkif_request, sector_number),            \
    SAME(struct blkif_request_##width, struct blkif_request, seg),                      \
    SAME(struct blkif_request_##width, struct blkif_request, seg[1]),                   \
    SAME(struct blkif_request_##width, struct blkif_request, seg[10].last_sect),        \
    WHOLE(struct blkif_discard_##width, struct blkif_request_discard),                  \
    SAME(struct blkif_discard_##width, struct blkif_request_discard, operation),        \
    SAME(struct blkif_discard_##width, struct blkif_request_discard, flag),             \
    SAME(struct blkif_discard_##width, struct blkif_request_discard, handle),           \
    SAME(struct blkif_discard_##width, struct blkif_request_discard, id),               \
    SAME(struct blkif_discard_##width, struct blkif_request_discard, sector_number),    \
    SAME(struct blkif_discard_##width, struct blkif_request_discard, nr_sectors),       \
    WHOLE(struct blkif_indirect_##width, struct blkif_request_indirect),                \
    SAME(struct blkif_indirect_##width, struct blkif_request_indirect, operation),      \
    SAME(struct blkif_indirect_##width, struct blkif_request_indirect, indirect_op),    \
    SAME(struct blkif_indirect_##width, struct blkif_request_indirect, nr_segments),    \
    SAME(struct blkif_indirect_##width, struct blkif_request_indirect, id),             \
    SAME(struct blkif_indirect_##width, struct blkif_request_indirect, sector_number),  \
    SAME(struct blkif_indirect_##width, struct blkif_request_indirect, handle),         \
    SAME(struct blkif_indirect_##width, struct blkif_request_indirect, indirect_grefs), \
    SAME(struct blkif_indirect_##width, struct blkif_request_indirect, indirect_grefs[7]), \
    WHOLE(struct blkif_response_##width, struct blkif_response),                        \
    SAME(struct blkif_response_##width, struct blkif_response, id),                     \
    SAME(struct blkif_response_##width, struct blkif_response, operation),              \
    SAME(struct blkif_response_##width, struct blkif_response, status)
