/* Attempts at something in a process each, in every one of which another allocation fails. What it
 * must do then: say so with an error that speaks of memory, or come to the same result without;
 * leave nothing behind; and neither crash nor hang. */
#ifndef TESTS_FAILING_ATTEMPTS_H
#define TESTS_FAILING_ATTEMPTS_H

#include <signal.h>
#include <sys/wait.h>

#include "../unit/small_model.h"
#include "allocator.h"

enum {
    MOST_RANKS = 2,
    PATIENCE_S = 60,
    LEAST_COUNT = 500,
    FEW = 4 /* attempts, beside a tenth of them, may make no difference */
};

#if defined(BEFORE_ADDRESS_SANITIZER)
enum { SPARSER = 7 }; /* a process costs as much more */
#else
enum { SPARSER = 1 };
#endif

/* What came of an attempt, of one rank; in memory that the parent sees. */
typedef struct outcome {
    zds_status status; /* of the call that failed, else ZDS_OK */
    char call[32];     /* its name */
    char text[300];    /* of the error */
    uint64_t hash;     /* of the result */
    long count;        /* allocations */
    long left;         /* that nobody freed */
    char site[160], left_site[160];
    bool reached; /* an allocation failed */
    bool direct;  /* not the C library's, which may do without */
    bool ended;
    int how; /* as waitpid says */
} outcome;

typedef struct scenario {
    const char *name;
    const char *json;
    int32_t ranks, threads;
    void (*run)(const struct scenario *s, int32_t rank, outcome *o);
    long stride; /* of the allocations that fail, every stride-th */
    bool texts;  /* it may say nothing but in the log, or in texts that are shorter */
} scenario;

static int attempt_number;

/* Notes an error; true if there is one. */
static inline bool failed(outcome *o, zds_status status, const char *call, const char *text)
{
    if (!status)
        return false;
    o->status = status;
    snprintf(o->call, sizeof o->call, "%s", call);
    snprintf(o->text, sizeof o->text, "%s", text ? text : "(no text)");
    return true;
}

static inline void one_rank(const scenario *s, int32_t rank, long at, outcome *o)
{
    alarm(PATIENCE_S);
    failing_start(at);
    s->run(s, rank, o);
    o->left = failing_stop();
    o->count = atomic_load(&failing_count);
    o->reached = failing_site != NULL;
    o->direct = failing_direct;
    site_text(failing_site, o->site, sizeof o->site);
    site_text(o->left ? held_site() : NULL, o->left_site, sizeof o->left_site);
    o->ended = true;
    _exit(0);
}

/* `at` in rank `victim`. */
static inline void attempt(const scenario *s, int32_t victim, long at, outcome *o)
{
    pid_t pid[MOST_RANKS];
    memset(o, 0, MOST_RANKS * sizeof *o);
    attempt_number++;
    fflush(NULL);
    for (int32_t r = 0; r < s->ranks; r++)
        if ((pid[r] = fork()) == 0)
            one_rank(s, r, r == victim ? at : 0, &o[r]);
    for (int32_t r = 0; r < s->ranks; r++)
        waitpid(pid[r], &o[r].how, 0);
}

static inline bool speaks_of_memory(const outcome *o)
{
    return o->status == ZDS_ERR_MEMORY || strstr(o->text, "memory") != NULL;
}

/* NULL, or what is wrong with what the victim did. */
static inline const char *fault_of(const scenario *s, const outcome *o, const outcome *whole)
{
    if (WIFSIGNALED(o->how))
        return WTERMSIG(o->how) == SIGALRM ? "hangs" : "crashes";
    if (!o->ended)
        return "exits";
    if (o->left)
        return "leaks";
    if (!o->reached && whole != o)
        return "is not reached";
    if (o->status && !speaks_of_memory(o))
        return "does not say that it is memory";
    if (!o->status && o->hash != whole->hash)
        return "says nothing, and the result is another";
    if (!o->status && o->direct && !s->texts)
        return "says nothing";
    return NULL;
}

/* The others of a rank that failed must get an error too, whatever it is, without waiting for ever;
 * but for a rank that failed when all was done. */
static inline const char *fault_of_peer(const outcome *o, const outcome *victim)
{
    if (WIFSIGNALED(o->how))
        return WTERMSIG(o->how) == SIGALRM ? "a peer hangs" : "a peer crashes";
    if (!o->ended)
        return "a peer exits";
    if (o->left)
        return "a peer leaks";
    if (victim->status && !o->status)
        return "a peer gets no error";
    if (!victim->status && o->status)
        return "a peer gets an error, the rank none";
    return NULL;
}

static inline void tell(const scenario *s, int32_t victim, long at, const char *fault,
                        const outcome *o)
{
    printf("%s: allocation %ld of rank %d %s\n", s->name, at, (int)victim, fault);
    for (int32_t r = 0; r < s->ranks; r++)
        printf("    rank %d: %s: status %d of %s: %s\n", (int)r,
               o[r].ended ? "ended" : strsignal(WTERMSIG(o[r].how)), (int)o[r].status, o[r].call,
               o[r].text);
    printf("    failed in %s\n", o[victim].site);
    for (int32_t r = 0; r < s->ranks; r++)
        if (o[r].left)
            printf("    rank %d holds %ld, one from %s\n", (int)r, o[r].left, o[r].left_site);
}

/* Number of faults; *failures: allocations that failed, *errors: those of them that gave one. */
static inline int all_attempts(const scenario *s, long *failures, long *errors)
{
    outcome *o = mmap(NULL, MOST_RANKS * sizeof *o, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int faults = 0;
    long asked = 0, told = 0, stride = getenv("ZDS_FAIL_ALL") ? 1 : s->stride * SPARSER;
    for (int32_t victim = 0; victim < s->ranks; victim++) {
        attempt(s, victim, 0, o);
        outcome whole = o[victim];
        const char *fault = fault_of(s, &whole, &whole);
        if (whole.status || fault) {
            printf("%s: fails with all the memory there is: %s\n", s->name, fault ? fault : "");
            tell(s, victim, 0, "is none", o);
            return 1;
        }
        for (long at = 1; at <= whole.count; at += stride) {
            attempt(s, victim, at, o);
            asked++;
            told += o[victim].status != ZDS_OK;
            fault = fault_of(s, &o[victim], &whole);
            for (int32_t r = 0; r < s->ranks && !fault; r++)
                if (r != victim)
                    fault = fault_of_peer(&o[r], &o[victim]);
            if (fault) {
                faults++;
                tell(s, victim, at, fault, o);
            } else if (!o[victim].status && failing_tells) {
                tell(s, victim, at, "makes no difference", o);
            }
        }
        if (whole.count < LEAST_COUNT || asked - told > asked / 10 + FEW) {
            printf("%s: too little was tried, or said: %ld allocations, %ld of %ld with an error\n",
                   s->name, whole.count, told, asked);
            faults++;
        }
        printf("%s: rank %d: %ld allocations, every %ld-th failed\n", s->name, (int)victim,
               whole.count, stride);
    }
    munmap(o, MOST_RANKS * sizeof *o);
    *failures += asked;
    *errors += told;
    return faults;
}

#endif
