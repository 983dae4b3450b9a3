/* Patterns of names: what matches, what is refused, how near a name is, and that a hostile pattern
 * costs nothing. */
#include <criterion/criterion.h>
#include <string.h>

#include "host/glob.h"

Test(glob, matches)
{
    static const struct {
        const char *pattern, *name;
        bool match;
    } cases[] = {
        {"wte", "wte", true},
        {"wte", "wte.weight", false},
        {"wte", "awte", false},
        {"*.bias", "transformer.h.0.attn.bias", true},
        {"*.bias", ".bias", true},
        {"*.bias", "transformer.h.0.attn.bias2", false},
        {"*", "", true},
        {"*", "anything.at.all", true},
        {"", "", true},
        {"", "a", false},
        {"a*b*c", "a.b.b.c", true},
        {"a*b*c", "a.b.b.c.", false},
        {"a**c", "abc", true},
        {"h.?.ln_[12].*", "h.3.ln_2.weight", true},
        {"h.?.ln_[12].*", "h.13.ln_2.weight", false},
        {"h.?.ln_[12].*", "h.3.ln_f.weight", false},
        {"h.[0-5].*", "h.5.x", true},
        {"h.[0-5].*", "h.6.x", false},
        {"h.[!0-5].*", "h.6.x", true},
        {"h.[!0-5].*", "h.0.x", false},
        {"[]a]", "]", true},
        {"[!]a]", "]", false},
        {"[!]a]", "b", true},
        {"[a-]", "-", true},
        {"[[]x", "[x", true},
        {"[*]", "*", true},
        {"[*]", "a", false},
        {"?", "", false},
        {"[a]", "", false},
        {"Wte", "wte", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_assert_eq(glob_match(cases[i].pattern, cases[i].name), cases[i].match, "%s and %s",
                     cases[i].pattern, cases[i].name);
}

Test(glob, faults)
{
    cr_assert_null(glob_fault("a*[b-c]?[]]"));
    cr_assert_not_null(glob_fault(""));
    cr_assert_not_null(glob_fault("a[b"));
    cr_assert_not_null(glob_fault("a["));
    cr_assert_not_null(glob_fault("a[!"));
    cr_assert_not_null(glob_fault("[]"));
    cr_assert_not_null(glob_fault("[a]["));
}

Test(glob, distances)
{
    cr_assert_eq(glob_distance("wte", "wte"), 0);
    cr_assert_eq(glob_distance("wtf", "wte"), 1);
    cr_assert_eq(glob_distance("wte", ""), 3);
    cr_assert_eq(glob_distance("", "wte"), 3);
    cr_assert_eq(glob_distance("[ab]*", ""), 1);
    cr_assert_eq(glob_distance("*.bias", "h.0.attn.bias"), 0);
    cr_assert_eq(glob_distance("*.biases", "h.0.attn.bias"), 2);
    cr_assert_eq(glob_distance("h.*.c_porj", "h.11.attn.c_proj"), 2);
    cr_assert_eq(glob_distance("h.[0-5]", "h.7"), 1);
}

/* Many stars against a name that fails at its end: time by the product of the lengths. */
Test(glob, hostile_patterns, .timeout = 5)
{
    char pattern[4001] = "", name[20001];
    for (size_t i = 0; i < 1999; i++)
        memcpy(pattern + 2 * i, "*a", 3);
    strcat(pattern, "b");
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    cr_assert_not(glob_match(pattern, name));
}
