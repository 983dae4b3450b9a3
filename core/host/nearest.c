/* Optimal string alignment distance (Damerau 1964, restricted to one edit a letter) of two names.
 */
#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "host/nearest.h"

enum { LONGEST = 63 };

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t name_distance(const char *a, const char *b)
{
    size_t rows = strlen(a), columns = strlen(b);
    if (rows > LONGEST || columns > LONGEST)
        return SIZE_MAX;
    size_t cost[3][LONGEST + 1]; /* of the last two rows and this one, by row number modulo 3 */
    for (size_t j = 0; j <= columns; j++)
        cost[0][j] = j;
    for (size_t i = 1; i <= rows; i++) {
        size_t *now = cost[i % 3], *last = cost[(i - 1) % 3], *before = cost[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= columns; j++) {
            int ai = tolower((unsigned char)a[i - 1]), bj = tolower((unsigned char)b[j - 1]);
            now[j] = smaller(last[j - 1] + (ai != bj), smaller(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && ai == tolower((unsigned char)b[j - 2]) &&
                bj == tolower((unsigned char)a[i - 2]))
                now[j] = smaller(now[j], before[j - 2] + 1);
        }
    }
    return cost[rows % 3][columns];
}

bool name_is_near(const char *wanted, const char *candidate)
{
    return name_distance(wanted, candidate) <= (strlen(wanted) < 4 ? 1 : strlen(wanted) / 4 + 1);
}
