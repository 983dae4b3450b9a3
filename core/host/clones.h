/* Plain loops, compiled for several processors, of which the program takes its own at run time. */
#ifndef CORE_HOST_CLONES_H
#define CORE_HOST_CLONES_H

/* Resolvers of cloned functions run before sanitizers are ready. */
#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__) &&                 \
    !defined(__SANITIZE_THREAD__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#endif
