/* Modules of an engine as the host computes with them: where they are, or, of a device, copies of
 * them in the host's memory. One at a time. */
#ifndef ZDS_TRAIN_MIRROR_H
#define ZDS_TRAIN_MIRROR_H

#include "zds/engine.h"

typedef struct mirror {
    zds_view there;  /* as the engine gave it */
    zds_slot *slots; /* [slot_room]: what points to */
    size_t slot_room;
    void *memory; /* [bytes] */
    size_t bytes;
} mirror;

void mirror_destroy(mirror *m);

/* As zds_acquire and zds_grad_ready; ZDS_ERR_MEMORY, too, then zds_fail has told. */
zds_status mirror_acquire(mirror *m, zds_engine *engine, uint32_t module, int32_t pass,
                          zds_view *view);
zds_status mirror_ready(mirror *m, zds_engine *engine, uint32_t module);

#endif
