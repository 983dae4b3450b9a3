/* What a plugin prints while it is checked. */
#ifndef ZDS_PLUGIN_PROBE_PRINTED_H
#define ZDS_PLUGIN_PROBE_PRINTED_H

/* Once. */
void printed_open(void);
/* In a child: takes its stdout and stderr. */
void printed_take(void);
/* When a child has ended: shows what it printed on stderr, and remembers the first line of all and
 * in which check that was. */
void printed_show(const char *check);
/* That line and check, as a fault; NULL: nothing was printed. */
char *printed_fault(void);

#endif
