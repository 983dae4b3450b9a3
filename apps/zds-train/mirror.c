/* Modules of an engine as the host computes with them. */
#include "mirror.h"

#include <stdlib.h>

enum { ALIGN = 64 };

static const zds_slot *slot_of(const mirror *m, size_t i)
{
    return (const zds_slot *)(const void *)((const char *)m->there.slots + i * m->there.stride);
}

static size_t bytes_of(const zds_slot *slot, zds_dtype dtype)
{
    return (size_t)slot->count * zds_dtype_size(dtype);
}

static size_t padded(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static bool is_here(const mirror *m)
{
    return m->there.count == 0 || slot_of(m, 0)->space == ZDS_SPACE_HOST;
}

/* Room for all that the view has. */
static bool make_room(mirror *m)
{
    size_t bytes = 0;
    for (size_t i = 0; i < m->there.count; i++) {
        const zds_slot *slot = slot_of(m, i);
        bytes += padded(bytes_of(slot, slot->dtype));
        bytes += slot->grad ? padded(bytes_of(slot, slot->grad_dtype)) : 0;
    }
    if (m->there.count > m->slot_room) {
        free(m->slots);
        m->slots = calloc(m->there.count, sizeof *m->slots);
        m->slot_room = m->slots ? m->there.count : 0;
    }
    if (bytes > m->bytes) {
        free(m->memory);
        m->memory = aligned_alloc(ALIGN, bytes);
        m->bytes = m->memory ? bytes : 0;
    }
    return m->slots && m->memory;
}

static zds_status bring(mirror *m, zds_engine *engine)
{
    char *at = m->memory;
    zds_status status = ZDS_OK;
    for (size_t i = 0; !status && i < m->there.count; i++) {
        const zds_slot *slot = slot_of(m, i);
        zds_slot *here = &m->slots[i];
        *here = *slot;
        here->data = at;
        status = zds_copy_out(engine, at, slot->data, bytes_of(slot, slot->dtype));
        at += padded(bytes_of(slot, slot->dtype));
        if (status || !slot->grad)
            continue;
        here->grad = at;
        if (slot->accumulate)
            status = zds_copy_out(engine, at, slot->grad, bytes_of(slot, slot->grad_dtype));
        at += padded(bytes_of(slot, slot->grad_dtype));
    }
    return status;
}

void mirror_destroy(mirror *m)
{
    free(m->slots);
    free(m->memory);
}

zds_status mirror_acquire(mirror *m, zds_engine *engine, uint32_t module, int32_t pass,
                          zds_view *view)
{
    zds_status status = zds_acquire(engine, module, pass, NULL, &m->there);
    *view = m->there;
    if (status || is_here(m))
        return status;
    if (!make_room(m))
        return zds_fail(engine, ZDS_ERR_MEMORY, "there is no memory for a copy of module %u",
                        module);
    *view = (zds_view){m->there.count, m->slots, sizeof *m->slots};
    return bring(m, engine);
}

zds_status mirror_ready(mirror *m, zds_engine *engine, uint32_t module)
{
    zds_status status = ZDS_OK;
    for (size_t i = 0; !status && !is_here(m) && i < m->there.count; i++) {
        const zds_slot *slot = slot_of(m, i);
        if (slot->grad)
            status =
                zds_copy_in(engine, slot->grad, m->slots[i].grad, bytes_of(slot, slot->grad_dtype));
    }
    return status ? status : zds_grad_ready(engine, module, NULL);
}
