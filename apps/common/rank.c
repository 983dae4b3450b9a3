/* Which rank this process is, and errors of a program that runs as several. */
#include "common/rank.h"

#include <string.h>
#include <unistd.h>

#include "common/output.h"
#include "zds/zds.h"

int32_t rank_here(void)
{
    zds_comm_env here = {.struct_size = sizeof here};
    zds_launched_as(&here, NULL); /* what makes no sense, the engine reports */
    return here.rank;
}

int rank_failed(zds_error *error)
{
    zds_status status = error->status;
    if (rank_here() != 0)
        usleep(700000);
    if (status == ZDS_ERR_PEER)
        usleep(900000);
    const char *text = error->text ? error->text : zds_status_name(status);
    size_t length = strlen(text);
    while (length && text[length - 1] == '\n')
        length--;
    if (rank_here() == 0)
        output_error("%.*s", (int)length, text);
    else
        output_error("rank %d: %.*s", (int)rank_here(), (int)length, text);
    zds_error_clear(error);
    return status == ZDS_ERR_MISMATCH ? EXIT_MISMATCH : EXIT_FAILED;
}
