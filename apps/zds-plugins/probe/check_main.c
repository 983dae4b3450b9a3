/* zds-plugin-check FILE: checks a plugin's file on behalf of zds-plugins --check, which must not be
 * harmed by it. Not for people: zds-plugins is. */
#include <stdio.h>

#include "check.h"
#include "plugin/child.h"

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s FILE\n", argv[0]);
        return 2;
    }
    FILE *out = child_begin();
    if (!out)
        return 1;
    check_file(argv[1], out);
    child_done(out);
}
