/* The version of the library. */
#include "zds/zds.h"

const char *zds_version(void)
{
    return ZDS_VERSION;
}
