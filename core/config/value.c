/* One value as its row wants it: the lax coercions of DeepSpeed's typed sections (pydantic). */
#include <ctype.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/internal.h"

/* Numbers of strings: blanks around are allowed, as are single '_' between digits. */
static bool parse_number(const char *text, double *out)
{
    char plain[64];
    size_t n = 0;
    while (isspace((unsigned char)*text))
        text++;
    for (const char *p = text; *p; p++) {
        if (*p == '_' && p > text && isdigit((unsigned char)p[-1]) && isdigit((unsigned char)p[1]))
            continue;
        if (n + 1 == sizeof plain || *p == 'x' || *p == 'X' || *p == '(')
            return false;
        plain[n++] = *p;
    }
    while (n && isspace((unsigned char)plain[n - 1]))
        n--;
    plain[n] = '\0';
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!n || c == (locale_t)0)
        return false;
    char *end;
    *out = strtod_l(plain, &end, c);
    freelocale(c);
    return *end == '\0';
}

static const char *read_bool(const cJSON *node, bool *out)
{
    static const char *const yes = "1|on|t|true|y|yes", *const no = "0|off|f|false|n|no";
    if (cJSON_IsBool(node))
        *out = cJSON_IsTrue(node);
    else if (cJSON_IsNumber(node) && (node->valuedouble == 0 || node->valuedouble == 1))
        *out = node->valuedouble == 1;
    else if (cJSON_IsString(node) && field_has_choice(yes, node->valuestring, true))
        *out = true;
    else if (cJSON_IsString(node) && field_has_choice(no, node->valuestring, true))
        *out = false;
    else
        return "is not a boolean";
    return NULL;
}

static const char *read_number(const field *f, const cJSON *node, double *out)
{
    if (cJSON_IsNumber(node))
        *out = node->valuedouble;
    else if (cJSON_IsBool(node) && !(f->flags & FIELD_NO_BOOL))
        *out = cJSON_IsTrue(node);
    else if (!cJSON_IsString(node) || !parse_number(node->valuestring, out))
        return f->type == FIELD_INT ? "is not an integer" : "is not a number";
    if (!isfinite(*out))
        return "is not finite";
    return NULL;
}

static const char *check_range(const field *f, double x)
{
    if ((f->flags & FIELD_MIN && x < f->min) || (f->flags & FIELD_ABOVE && x <= f->min) ||
        (f->flags & FIELD_MAX && x > f->max) || (f->flags & FIELD_BELOW && x >= f->max))
        return "is out of range";
    return NULL;
}

static const char *read_int(const field *f, const cJSON *node, value *out)
{
    const char *wrong = read_number(f, node, &out->number);
    if (wrong)
        return wrong;
    if (cJSON_IsString(node) && strpbrk(node->valuestring, "eE"))
        return "is a string that is not an integer";
    if (out->number != floor(out->number))
        return "is not an integer";
    if (fabs(out->number) > 0x1p63)
        return "is too large";
    out->integer = out->number >= 0x1p63 ? INT64_MAX : (int64_t)out->number;
    return check_range(f, out->number);
}

static const char *read_list(const field *f, const cJSON *node, value *out)
{
    const cJSON *item;
    out->list = node;
    if (f->flags & FIELD_OR_STRING && cJSON_IsString(node))
        return NULL;
    if (!cJSON_IsArray(node))
        return "is not an array";
    cJSON_ArrayForEach(item, node)
    {
        bool whole = item->valuedouble == floor(item->valuedouble);
        if (f->type == FIELD_STRINGS && !cJSON_IsString(item))
            return "holds something that is no string";
        if (f->type == FIELD_INTS && !(cJSON_IsNumber(item) && whole))
            return "holds something that is no integer";
        if (f->type == FIELD_FLOATS && !(cJSON_IsNumber(item) && isfinite(item->valuedouble)))
            return "holds something that is no number";
    }
    return NULL;
}

const char *value_read(const field *f, const cJSON *node, value *out)
{
    if (f->flags & FIELD_OR_AUTO && tree_is_auto(node)) {
        out->as_auto = node;
        return NULL;
    }
    switch (f->type) {
    case FIELD_BOOL:
        return read_bool(node, &out->boolean);
    case FIELD_INT:
        return read_int(f, node, out);
    case FIELD_FLOAT: {
        const char *wrong = read_number(f, node, &out->number);
        return wrong ? wrong : check_range(f, out->number);
    }
    case FIELD_ENUM:
        if (!cJSON_IsString(node))
            return "is not a string";
        out->string = node->valuestring;
        return field_has_choice(f->choices, out->string, f->flags & FIELD_NO_CASE)
                   ? NULL
                   : "is not among the choices";
    case FIELD_STRING:
        if (!cJSON_IsString(node))
            return "is not a string";
        out->string = node->valuestring;
        return NULL;
    case FIELD_STRINGS:
    case FIELD_INTS:
    case FIELD_FLOATS:
    case FIELD_SECTIONS:
        return read_list(f, node, out);
    case FIELD_OBJECT:
        return cJSON_IsObject(node) ? NULL : "is not an object";
    case FIELD_ANY:
        out->list = node;
        return NULL;
    }
    return NULL;
}

void value_default(const field *f, value *out)
{
    *out = (value){.null = !f->fallback};
    if (!f->fallback)
        return;
    switch (f->type) {
    case FIELD_BOOL:
        out->boolean = strcmp(f->fallback, "true") == 0;
        break;
    case FIELD_INT:
    case FIELD_FLOAT:
        /* Defaults are plain decimals without a locale's letters but for the point. */
        out->integer = strtoll(f->fallback, NULL, 10);
        out->number = (double)out->integer;
        const char *point = strchr(f->fallback, '.');
        if (point) {
            double scale = 1;
            for (const char *p = point + 1; isdigit((unsigned char)*p); p++)
                scale *= 10;
            out->number += (double)strtoll(point + 1, NULL, 10) / scale;
        }
        break;
    case FIELD_STRING:
    case FIELD_ENUM:
        out->string = f->fallback;
        break;
    default:
        break;
    }
}

/* True if a list equals a default given as JSON text. */
static bool list_is(const cJSON *list, const char *text)
{
    cJSON *fallback = cJSON_Parse(text);
    bool same = fallback && cJSON_Compare(list, fallback, true);
    cJSON_Delete(fallback);
    return same;
}

bool value_is_default(const field *f, const value *v)
{
    value d;
    value_default(f, &d);
    bool auto_default = f->flags & FIELD_OR_AUTO && f->fallback && strcmp(f->fallback, "auto") == 0;
    if (v->as_auto)
        return auto_default;
    if (auto_default)
        return !v->node || v->bad;
    if (v->null || d.null)
        return v->null == d.null;
    switch (f->type) {
    case FIELD_BOOL:
        return v->boolean == d.boolean;
    case FIELD_INT:
        return v->integer == d.integer;
    case FIELD_FLOAT:
        return v->number == d.number;
    case FIELD_STRING:
    case FIELD_ENUM:
        return f->flags & FIELD_NO_CASE ? strcasecmp(v->string, d.string) == 0
                                        : strcmp(v->string, d.string) == 0;
    case FIELD_STRINGS:
    case FIELD_INTS:
    case FIELD_FLOATS:
    case FIELD_SECTIONS:
        return !v->list || list_is(v->list, f->fallback);
    case FIELD_OBJECT:
    case FIELD_ANY:
        break;
    }
    return !v->node;
}
