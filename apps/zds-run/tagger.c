/* Reads the ranks' output through pipes and writes whole lines with the rank in front. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "run.h"

enum { LINE = 8192 }; /* a longer line is passed on in pieces */

typedef struct stream {
    int fd; /* -1: closed */
    int rank;
    bool is_error; /* stderr */
    size_t used;
    char text[LINE];
} stream;

struct tagger {
    int ranks;
    stream *streams; /* [ranks][2] */
};

tagger *tagger_create(int ranks)
{
    tagger *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->ranks = ranks;
    t->streams = calloc((size_t)ranks * 2, sizeof *t->streams);
    if (!t->streams) {
        free(t);
        return NULL;
    }
    for (int i = 0; i < 2 * ranks; i++)
        t->streams[i] = (stream){.fd = -1, .rank = i / 2, .is_error = i % 2 != 0};
    return t;
}

void tagger_destroy(tagger *t)
{
    for (int i = 0; t && i < 2 * t->ranks; i++)
        if (t->streams[i].fd >= 0)
            close(t->streams[i].fd);
    if (t)
        free(t->streams);
    free(t);
}

bool tagger_open(tagger *t, int rank, int ends[2])
{
    ends[0] = ends[1] = -1;
    for (int k = 0; k < 2; k++) {
        int fds[2];
        if (pipe2(fds, O_CLOEXEC) != 0) {
            if (ends[0] >= 0)
                close(ends[0]);
            return false;
        }
        fcntl(fds[0], F_SETFL, O_NONBLOCK);
        t->streams[2 * rank + k].fd = fds[0];
        ends[k] = fds[1];
    }
    return true;
}

size_t tagger_count(const tagger *t)
{
    return t ? 2 * (size_t)t->ranks : 0;
}

void tagger_poll(tagger *t, struct pollfd *fds)
{
    for (size_t i = 0; i < tagger_count(t); i++)
        fds[i] = (struct pollfd){.fd = t->streams[i].fd, .events = POLLIN};
}

static void print_line(const stream *s, const char *text, size_t size)
{
    FILE *out = s->is_error ? stderr : stdout;
    fprintf(out, "[%d] %.*s\n", s->rank, (int)size, text);
}

/* Prints the complete lines in the buffer; all of it where `last` or where it is full. */
static void print_lines(stream *s, bool last)
{
    size_t start = 0;
    for (size_t i = 0; i < s->used; i++)
        if (s->text[i] == '\n') {
            print_line(s, s->text + start, i - start);
            start = i + 1;
        }
    if (start < s->used && (last || (start == 0 && s->used == LINE))) {
        print_line(s, s->text + start, s->used - start);
        start = s->used;
    }
    memmove(s->text, s->text + start, s->used - start);
    s->used -= start;
    fflush(s->is_error ? stderr : stdout);
}

static void read_stream(stream *s)
{
    while (s->fd >= 0) {
        ssize_t n = read(s->fd, s->text + s->used, LINE - s->used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            close(s->fd);
            s->fd = -1;
            print_lines(s, true);
            return;
        }
        s->used += (size_t)n;
        print_lines(s, false);
    }
}

void tagger_read(tagger *t)
{
    for (size_t i = 0; i < tagger_count(t); i++)
        read_stream(&t->streams[i]);
}

void tagger_flush(tagger *t)
{
    tagger_read(t);
    for (size_t i = 0; i < tagger_count(t); i++)
        print_lines(&t->streams[i], true);
}
