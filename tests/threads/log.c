/* The log under ThreadSanitizer: threads that write lines while others change the level and replace
 * the sink, whose memory ends as soon as it is replaced. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "host/log.h"
#include "zds/zds.h"

enum { LINES = 3000, SINKS = 300, WRITERS = 2 };

typedef struct book {
    long lines; /* written without atomics: one line at a time */
    int open;
} book;

static int late, inner; /* lines after the end of their sink; lines that a sink wrote */

static void enter(void *user, int32_t level, const char *line)
{
    book *b = user;
    if (!b->open)
        late++;
    b->lines++;
    if (level == ZDS_LOG_WARNING && line)
        log_line(ZDS_LOG_ERROR, -1, NULL, "from inside a sink");
    inner += level == ZDS_LOG_ERROR;
}

static void *write_lines(void *arg)
{
    for (int i = 0; i < LINES; i++)
        log_line(i % 100 ? ZDS_LOG_INFO : ZDS_LOG_WARNING, 0, "test", "line %d of %s", i,
                 (const char *)arg);
    return NULL;
}

static void *change_level(void *arg)
{
    for (int i = 0; i < LINES; i++)
        zds_log_level(i % 2 ? ZDS_LOG_INFO : ZDS_LOG_DEBUG);
    return arg;
}

int main(void)
{
    static char names[WRITERS][4] = {"a", "b"};
    pthread_t writers[WRITERS], changer;
    long lines = 0;
    book *now = calloc(1, sizeof *now);
    if (!now)
        return 1;
    now->open = 1;
    zds_log_to(enter, now);
    for (int i = 0; i < WRITERS; i++)
        if (pthread_create(&writers[i], NULL, write_lines, names[i]))
            return 1;
    if (pthread_create(&changer, NULL, change_level, NULL))
        return 1;
    for (int i = 0; i < SINKS; i++) {
        book *next = calloc(1, sizeof *next);
        if (!next)
            return 1;
        next->open = 1;
        zds_log_to(enter, next);
        now->open = 0;
        lines += now->lines;
        free(now);
        now = next;
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    pthread_join(changer, NULL);
    zds_log_to(NULL, NULL);
    lines += now->lines;
    free(now);
    int warnings = WRITERS * LINES / 100;
    printf("%ld lines, %d of them by sinks, %d late\n", lines, inner, late);
    return lines != WRITERS * LINES + warnings || inner != warnings || late != 0;
}
