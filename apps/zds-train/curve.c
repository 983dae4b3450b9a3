/* The loss over steps, drawn with braille dots (two by four in a character), or with stars where
 * the terminal's text is not UTF-8. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "report.h"

enum { COLUMNS = 72, LINES = 12 };

static bool utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value && *value)
            return strcasestr(value, "utf-8") || strcasestr(value, "utf8");
    }
    return false;
}

/* Mean of the finite losses of column `x` of `width`; NaN if there are none. */
static double column_mean(const report *r, int64_t x, int64_t width)
{
    int64_t from = x * r->steps / width, to = (x + 1) * r->steps / width, n = 0;
    double sum = 0;
    for (int64_t i = from; i < (to > from ? to : from + 1); i++)
        if (isfinite(r->losses[i])) {
            sum += r->losses[i];
            n++;
        }
    return n ? sum / (double)n : NAN;
}

static void put_cell(FILE *out, unsigned dots, bool braille)
{
    if (!braille)
        fputc(dots ? '*' : ' ', out);
    else if (dots)
        fprintf(out, "\xe2%c%c", (int)(0xa0 | dots >> 6), (int)(0x80 | (dots & 0x3f)));
    else
        fputc(' ', out);
}

void report_curve(const report *r, FILE *out)
{
    static const unsigned char dot[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    unsigned char cells[LINES][COLUMNS] = {{0}};
    double values[2 * COLUMNS], low = INFINITY, high = -INFINITY;
    int64_t width = 2 * COLUMNS;
    for (int64_t x = 0; x < width; x++) {
        values[x] = column_mean(r, x, width);
        low = fmin(low, values[x]);
        high = fmax(high, values[x]);
    }
    if (r->steps < 2 || !(low <= high))
        return;
    double range = high > low ? high - low : 1;
    int before = -1;
    for (int x = 0; x < width; x++) {
        if (isnan(values[x])) {
            before = -1;
            continue;
        }
        int y = (int)lround((high - values[x]) / range * (4 * LINES - 1));
        int from = before < 0 ? y : before < y ? before + 1 : y, to = before > y ? before - 1 : y;
        for (int k = from; k <= to; k++) /* a steep curve stays connected */
            cells[k / 4][x / 2] |= dot[k % 4][x % 2];
        before = y;
    }
    bool braille = utf8();
    for (int line = 0; line < LINES; line++) {
        if (line == 0 || line == LINES - 1)
            fprintf(out, "%8.4f |", line ? low : high);
        else
            fprintf(out, "%8s |", line == LINES / 2 ? "loss" : "");
        int end = COLUMNS;
        while (end > 0 && !cells[line][end - 1])
            end--;
        for (int x = 0; x < end; x++)
            put_cell(out, cells[line][x], braille);
        fputc('\n', out);
    }
    fprintf(out, "%8s +", "");
    for (int x = 0; x < COLUMNS; x++)
        fputc('-', out);
    fprintf(out, "\n%10s%-*d%lld\n", "step ", COLUMNS - 6, 1, (long long)r->steps);
}
