/* What both sides of every interface share: element types, memory spaces, streams and events. */
#ifndef ZDS_TYPES_H
#define ZDS_TYPES_H

#include <stddef.h>
#include <stdint.h>

#include "zds/status.h"

ZDS_BEGIN_DECLS

/* True if the struct at `p`, filled by the other side, is long enough to hold `field`. */
#define ZDS_HAS(p, field)                                                                          \
    ((p)->struct_size >= (size_t)((const char *)(&(p)->field + 1) - (const char *)(p)))

/* Bytes of a struct up to the end of `field`. ZDS_..._1_0 are the sizes in ABI 1.0, by which a
 * struct is refused that is too short for this major, 0 among them; sizeof grows with the header.
 * What has neither a size nor a stride never grows. */
#define ZDS_SIZE_THROUGH(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

/* Element types. Values are stored in the machine's (little) endianness. */
typedef int32_t zds_dtype;
enum {
    ZDS_F32 = 0,  /* IEEE binary32 */
    ZDS_F16 = 1,  /* IEEE binary16 */
    ZDS_BF16 = 2, /* bfloat16: the upper half of a binary32, rounded to nearest even */
    ZDS_F64 = 3,
    ZDS_I8 = 4,
    ZDS_U8 = 5,
    ZDS_I32 = 6,
    ZDS_I64 = 7,
    ZDS_DTYPE_COUNT = 8
};
#define ZDS_DTYPE_BIT(dtype) (1u << (dtype)) /* in masks of dtypes */

/* Bytes of one element; 0 for an unknown dtype. */
static inline size_t zds_dtype_size(zds_dtype dtype)
{
    static const unsigned char size[ZDS_DTYPE_COUNT] = {4, 2, 2, 8, 1, 1, 4, 8};
    return dtype >= 0 && dtype < ZDS_DTYPE_COUNT ? size[dtype] : 0;
}

/* Where bytes are. */
typedef int32_t zds_space;
enum {
    ZDS_SPACE_HOST = 0,
    ZDS_SPACE_HOST_PINNED = 1, /* host memory that a device reads and writes by itself */
    ZDS_SPACE_CUDA = 2,
    ZDS_SPACE_FILE = 3, /* no pointer: only copies of its tier reach it */
    ZDS_SPACE_HIP = 4,
    ZDS_SPACE_SYCL = 5,
    ZDS_SPACE_TEST = 6, /* a device without hardware, on which zds tests itself */
    ZDS_SPACE_COUNT = 7
};
#define ZDS_SPACE_BIT(space) (1u << (space)) /* in masks of spaces */

/* One memory of a space: what every buffer carries. */
typedef struct zds_device {
    zds_space space;
    int32_t ordinal; /* of several devices of the space; 0 for HOST, HOST_PINNED and FILE */
} zds_device;

/* A queue of a device. Whoever made it destroys it; plugins may share it. NULL stands for the
 * host's program order. */
typedef struct zds_stream {
    size_t struct_size;
    zds_device device;
    void *native; /* cudaStream_t for ZDS_SPACE_CUDA */
} zds_stream;
#define ZDS_STREAM_1_0 ZDS_SIZE_THROUGH(zds_stream, native)

/* The completion of one asynchronous call. The maker embeds this struct as the first member of its
 * own. The receiver owns it and releases it once; release of an event that is not done waits for it
 * first. A NULL event means: done already.
 *
 * Passing an event to another call (its `waits`) does not transfer it: the owner releases it after
 * the operation that waits for it has completed. A waited-for event that failed makes the waiting
 * operation fail with its status. Only events with ZDS_EVENT_ANY_THREAD are passed to another
 * plugin; for others the host waits before it makes the call. */
typedef struct zds_event zds_event;
enum {
    /* `test` may be called from any thread at any time; without it, `test`, `wait` and `release`
     * come between the maker's other calls, one at a time, and not always from the same thread. */
    ZDS_EVENT_ANY_THREAD = 1u << 0
};
typedef struct zds_event_ops {
    size_t struct_size;
    uint64_t flags; /* ZDS_EVENT_... */
    /* Never blocks; may move the work forward. The call's own error once it is done. */
    zds_status (*test)(zds_event *event, int32_t *done);
    /* Sleeps until done; the call's own error is returned here. */
    zds_status (*wait)(zds_event *event);
    /* Makes what is put on `stream` from now on start after the event. NULL if `wait` is the only
     * way. */
    zds_status (*stream_wait)(zds_event *event, const zds_stream *stream);
    void (*release)(zds_event *event);
} zds_event_ops;
#define ZDS_EVENT_OPS_1_0 ZDS_SIZE_THROUGH(zds_event_ops, release)
struct zds_event {
    const zds_event_ops *ops;
};

ZDS_END_DECLS
#endif
