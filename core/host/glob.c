/* Names chosen by patterns, as shells choose files. */
#include "host/glob.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Behind a set, which begins with '['; NULL if it does not end. */
static const char *set_end(const char *set)
{
    const char *p = set + 1 + (set[1] == '!');
    p = *p ? strchr(p + 1, ']') : NULL; /* a ']' in front is one of the set */
    return p ? p + 1 : NULL;
}

static bool in_set(const char *set, const char *end, char c)
{
    bool inverted = set[1] == '!', found = false;
    const char *p = set + 1 + inverted;
    while (p < end - 1) {
        bool range = p[1] == '-' && p + 2 < end - 1;
        unsigned char low = (unsigned char)p[0], high = (unsigned char)(range ? p[2] : p[0]);
        found |= (unsigned char)c >= low && (unsigned char)c <= high;
        p += range ? 3 : 1;
    }
    return found != inverted;
}

/* Behind the pattern's next piece, which is no '*'; *fits: whether it stands for c. */
static const char *piece(const char *pattern, char c, bool *fits)
{
    const char *end = *pattern == '[' ? set_end(pattern) : NULL;
    if (end)
        *fits = c && in_set(pattern, end, c);
    else
        *fits = c && (*pattern == '?' || *pattern == c);
    return end ? end : pattern + 1;
}

bool glob_match(const char *pattern, const char *name)
{
    const char *star = NULL, *from = NULL; /* the last '*', and what follows what it stands for */
    while (*name || *pattern) {
        bool fits = false;
        const char *next = pattern;
        if (*pattern == '*') {
            star = ++pattern;
            from = name;
            continue;
        }
        if (*pattern)
            next = piece(pattern, *name, &fits);
        if (fits) {
            pattern = next;
            name++;
        } else if (star && *from) { /* it stands for one more */
            pattern = star;
            name = ++from;
        } else {
            return false;
        }
    }
    return true;
}

const char *glob_fault(const char *pattern)
{
    if (!*pattern)
        return "an empty pattern is no name";
    for (const char *p = pattern; *p; p++) {
        if (*p != '[')
            continue;
        p = set_end(p);
        if (!p)
            return "a set has no ']'; write [[] for the character itself";
        p--;
    }
    return NULL;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Levenshtein's rows, one a piece of the pattern. */
size_t glob_distance(const char *pattern, const char *name)
{
    size_t n = strlen(name);
    size_t *row = malloc(2 * (n + 1) * sizeof *row), *next = row + n + 1;
    if (!row)
        return SIZE_MAX;
    for (size_t i = 0; i <= n; i++)
        row[i] = i;
    while (*pattern) {
        bool star = *pattern == '*', fits;
        const char *behind = star ? pattern + 1 : piece(pattern, 0, &fits);
        next[0] = row[0] + !star;
        for (size_t i = 1; i <= n; i++) {
            fits = false;
            if (!star)
                piece(pattern, name[i - 1], &fits);
            next[i] = star ? least(row[i], next[i - 1])
                           : least(row[i - 1] + !fits, least(row[i], next[i - 1]) + 1);
        }
        pattern = behind;
        memcpy(row, next, (n + 1) * sizeof *row);
    }
    size_t distance = row[n];
    free(row);
    return distance;
}
