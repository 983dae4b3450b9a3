/* The words of Hjson (https://hjson.github.io/syntax.html), in the reading of the hjson package
 * that DeepSpeed uses. Every function is linear in what it passes. */
#include "config/scan.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

bool scan_begin(scan *s, const char *text, size_t length)
{
    memset(s, 0, sizeof *s);
    s->text = text;
    s->length = length;
    s->c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return s->c_locale != (locale_t)0;
}

void scan_end(scan *s)
{
    if (s->c_locale != (locale_t)0)
        freelocale(s->c_locale);
    free(s->word);
}

bool scan_fail(scan *s, size_t at, const char *error)
{
    if (!s->error) {
        s->error = error;
        s->error_at = at;
    }
    return false;
}

static int peek(const scan *s, size_t ahead)
{
    return s->at + ahead < s->length ? (unsigned char)s->text[s->at + ahead] : 0;
}

static bool is_space(int c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool put(scan *s, const char *bytes, size_t count)
{
    if (count >= s->word_space - s->word_length) {
        size_t space = (s->word_length + count + 32) * 2;
        char *word = realloc(s->word, space);
        if (!word)
            return scan_fail(s, s->at, "out of memory");
        s->word = word;
        s->word_space = space;
    }
    memcpy(s->word + s->word_length, bytes, count);
    s->word_length += count;
    s->word[s->word_length] = '\0';
    return true;
}

static bool clear_word(scan *s)
{
    s->word_length = 0;
    return put(s, "", 0);
}

/* Bytes of the UTF-8 sequence at p (at most n), 0 if it is none. */
static size_t utf8_length(const unsigned char *p, size_t n)
{
    size_t need = p[0] < 0x80   ? 1
                  : p[0] < 0xc2 ? 0
                  : p[0] < 0xe0 ? 2
                  : p[0] < 0xf0 ? 3
                  : p[0] < 0xf5 ? 4
                                : 0;
    if (!need || need > n)
        return 0;
    for (size_t i = 1; i < need; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return need;
}

bool scan_check_utf8(scan *s)
{
    const unsigned char *p = (const unsigned char *)s->text;
    for (size_t i = 0; i < s->length;) {
        if (p[i] == 0)
            return scan_fail(s, i, "a NUL byte: this is no text");
        size_t n = utf8_length(p + i, s->length - i);
        if (!n)
            return scan_fail(s, i, "not UTF-8: save the file in that encoding");
        i += n;
    }
    return true;
}

static void skip_line(scan *s)
{
    while (s->at < s->length && s->text[s->at] != '\n' && s->text[s->at] != '\r')
        s->at++;
}

int scan_next(scan *s)
{
    for (;;) {
        int c = peek(s, 0);
        if (is_space(c)) {
            s->at++;
        } else if (c == '#' || (c == '/' && peek(s, 1) == '/')) {
            skip_line(s);
        } else if (c == '/' && peek(s, 1) == '*') {
            const char *end = s->at + 2 < s->length
                                  ? memmem(s->text + s->at + 2, s->length - s->at - 2, "*/", 2)
                                  : NULL;
            if (!end) {
                scan_fail(s, s->at, "a comment that does not end: close it with */");
                return SCAN_FAILED;
            }
            s->at = (size_t)(end - s->text) + 2;
        } else {
            return c;
        }
    }
}

static bool put_code_point(scan *s, uint32_t c)
{
    char b[4];
    size_t n;
    if (c < 0x80) {
        b[0] = (char)c;
        n = 1;
    } else if (c < 0x800) {
        b[0] = (char)(0xc0 | c >> 6);
        b[1] = (char)(0x80 | (c & 63));
        n = 2;
    } else if (c < 0x10000) {
        b[0] = (char)(0xe0 | c >> 12);
        b[1] = (char)(0x80 | (c >> 6 & 63));
        b[2] = (char)(0x80 | (c & 63));
        n = 3;
    } else {
        b[0] = (char)(0xf0 | c >> 18);
        b[1] = (char)(0x80 | (c >> 12 & 63));
        b[2] = (char)(0x80 | (c >> 6 & 63));
        b[3] = (char)(0x80 | (c & 63));
        n = 4;
    }
    return put(s, b, n);
}

/* Four hexadecimal digits at s->at, or UINT32_MAX. */
static uint32_t hex4(const scan *s)
{
    uint32_t value = 0;
    for (size_t i = 0; i < 4; i++) {
        int c = peek(s, i);
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return UINT32_MAX;
        value = value << 4 | (uint32_t)digit;
    }
    return value;
}

static bool unicode_escape(scan *s)
{
    size_t at = s->at - 2; /* the backslash */
    uint32_t c = hex4(s);
    if (c == UINT32_MAX)
        return scan_fail(s, at, "\\u must be followed by four hexadecimal digits");
    s->at += 4;
    if (c >= 0xd800 && c < 0xdc00 && peek(s, 0) == '\\' && peek(s, 1) == 'u') {
        s->at += 2;
        uint32_t low = hex4(s);
        if (low != UINT32_MAX && low >= 0xdc00 && low < 0xe000) {
            s->at += 4;
            return put_code_point(s, 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00));
        }
    }
    if (c >= 0xd800 && c < 0xe000)
        return scan_fail(s, at, "half of a surrogate pair");
    if (c == 0)
        return scan_fail(s, at, "\\u0000 inside a string is not supported");
    return put_code_point(s, c);
}

static bool escape(scan *s)
{
    static const char from[] = "\"'\\/bfnrt", to[] = "\"'\\/\b\f\n\r\t";
    int c = peek(s, 1);
    s->at += 2;
    if (c == 'u')
        return unicode_escape(s);
    const char *found = c ? strchr(from, c) : NULL;
    if (!found)
        return scan_fail(s, s->at - 2,
                         "an escape that does not exist; a backslash is written \\\\");
    return put(s, to + (found - from), 1);
}

/* s->at is at the opening quote, " or '. */
static bool quoted(scan *s)
{
    size_t begin = s->at++;
    char quote = s->text[begin];
    if (!clear_word(s))
        return false;
    for (;;) {
        size_t from = s->at;
        while (s->at < s->length && s->text[s->at] != quote && s->text[s->at] != '\\' &&
               (unsigned char)s->text[s->at] >= 0x20)
            s->at++;
        if (!put(s, s->text + from, s->at - from))
            return false;
        if (s->at >= s->length || s->text[s->at] == '\n' || s->text[s->at] == '\r')
            return scan_fail(s, begin, "a string that does not end: its closing quote is missing");
        if (s->text[s->at] == quote) {
            s->at++;
            return true;
        }
        if (s->text[s->at] != '\\')
            return scan_fail(s, s->at,
                             "a control character inside a string; write it as \\t or \\u00XX");
        if (!escape(s))
            return false;
    }
}

/* Characters between the start of the line and `at`. Asked for ascending places only. */
static size_t indent_of(scan *s, size_t at)
{
    for (; s->mark < at; s->mark++)
        if (s->text[s->mark] == '\n')
            s->line_start = s->mark + 1;
    return at - s->line_start;
}

static void skip_indent(scan *s, size_t limit)
{
    for (; limit > 0 && s->at < s->length; limit--, s->at++) {
        char c = s->text[s->at];
        if (c != ' ' && c != '\t' && c != '\r')
            break;
    }
}

/* s->at is at the opening '''. */
static bool multiline(scan *s)
{
    size_t begin = s->at, indent = indent_of(s, begin);
    if (!clear_word(s))
        return false;
    s->at += 3;
    skip_indent(s, SIZE_MAX);
    if (peek(s, 0) == '\n') {
        s->at++;
        skip_indent(s, indent);
    }
    for (size_t quotes = 0;;) {
        int c = peek(s, 0);
        if (c == 0)
            return scan_fail(s, begin, "a ''' string that does not end");
        s->at++;
        if (c == '\'') {
            if (++quotes < 3)
                continue;
            if (s->word_length && s->word[s->word_length - 1] == '\n')
                s->word[--s->word_length] = '\0'; /* the last line's end is not part of it */
            return true;
        }
        for (; quotes; quotes--)
            if (!put(s, "'", 1))
                return false;
        char b = (char)c;
        if (c != '\r' && !put(s, &b, 1))
            return false;
        if (c == '\n')
            skip_indent(s, indent);
    }
}

/* Where the number that starts at `begin` ends, blanks after it included; begin if it is none. */
static size_t number_end(const scan *s, size_t begin)
{
    const char *t = s->text; /* NUL-ended */
    size_t i = begin + (t[begin] == '-');
    if (t[i] == '0')
        i++;
    else if (t[i] >= '1' && t[i] <= '9')
        while (t[i] >= '0' && t[i] <= '9')
            i++;
    else
        return begin;
    if (t[i] == '.' && t[i + 1] >= '0' && t[i + 1] <= '9')
        for (i++; t[i] >= '0' && t[i] <= '9';)
            i++;
    if (t[i] == 'e' || t[i] == 'E') {
        size_t j = i + 1 + (t[i + 1] == '+' || t[i + 1] == '-');
        if (t[j] >= '0' && t[j] <= '9')
            for (i = j; t[i] >= '0' && t[i] <= '9';)
                i++;
    }
    while (t[i] == ' ' || t[i] == '\t')
        i++;
    return i;
}

/* The same for true, false and null. */
static size_t word_end(const scan *s, size_t begin, int *kind)
{
    static const struct {
        const char *word;
        size_t length;
        int kind;
    } words[] = {{"true", 4, SCAN_TRUE}, {"false", 5, SCAN_FALSE}, {"null", 4, SCAN_NULL}};
    for (size_t i = 0; i < 3; i++) {
        if (strncmp(s->text + begin, words[i].word, words[i].length) != 0)
            continue;
        size_t end = begin + words[i].length;
        while (s->text[end] == ' ' || s->text[end] == '\t')
            end++;
        *kind = words[i].kind;
        return end;
    }
    return begin;
}

/* A value without quotes: a number, true, false or null where one ends at a punctuation mark, a
 * comment or the line's end; else a string that goes to the line's end. */
static int quoteless_value(scan *s, double *number)
{
    int kind = SCAN_FAILED;
    size_t begin = s->at, numeric = number_end(s, begin), word = word_end(s, begin, &kind);
    for (;; s->at++) {
        int c = peek(s, 0);
        bool line_end = c == 0 || c == '\n' || c == '\r';
        if (!line_end && c != ',' && c != '}' && c != ']' && c != '#' &&
            !(c == '/' && (peek(s, 1) == '/' || peek(s, 1) == '*')))
            continue;
        if (numeric > begin && numeric == s->at) {
            *number = strtod_l(s->text + begin, NULL, s->c_locale);
            if (!isfinite(*number)) {
                scan_fail(s, begin, "a number that is too large");
                return SCAN_FAILED;
            }
            return SCAN_NUMBER;
        }
        if (word > begin && word == s->at)
            return kind;
        if (line_end) {
            size_t end = s->at;
            while (end > begin && is_space((unsigned char)s->text[end - 1]))
                end--;
            return clear_word(s) && put(s, s->text + begin, end - begin) ? SCAN_STRING
                                                                         : SCAN_FAILED;
        }
    }
}

int scan_scalar(scan *s, double *number, bool *quoteless)
{
    int c = peek(s, 0);
    *quoteless = false;
    if (c == '\'' && peek(s, 1) == '\'' && peek(s, 2) == '\'')
        return multiline(s) ? SCAN_STRING : SCAN_FAILED;
    if (c == '"' || c == '\'')
        return quoted(s) ? SCAN_STRING : SCAN_FAILED;
    if (c == 0 || strchr("{}[],:", c)) {
        scan_fail(s, s->at,
                  c == 0 ? "the text ends where a value should be" : "a value is missing here");
        return SCAN_FAILED;
    }
    *quoteless = true;
    return quoteless_value(s, number);
}

bool scan_key(scan *s)
{
    int c = peek(s, 0);
    if (c == '"' || c == '\'')
        return quoted(s);
    size_t begin = s->at, end = begin;
    for (;; s->at++) {
        c = peek(s, 0);
        if (c == 0)
            return scan_fail(s, begin, "the text ends inside a key, or a closing } is missing");
        if (c == ':')
            break;
        if (strchr("{}[],", c))
            return scan_fail(s, s->at,
                             "a key is missing here (keys with one of {}[],: need quotes)");
        if (is_space(c)) {
            if (end == begin)
                end = s->at;
        } else if (end > begin) {
            return scan_fail(s, begin, "no ':' after this key (keys with blanks need quotes)");
        }
    }
    if (s->at == begin)
        return scan_fail(s, begin, "':' without a key before it (an empty key needs quotes)");
    if (end == begin)
        end = s->at;
    return clear_word(s) && put(s, s->text + begin, end - begin);
}
