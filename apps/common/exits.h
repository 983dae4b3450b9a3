/* Programs end by returning from main. What a library ends by exit is a failure, whatever code it
 * gives: a plugin that does so in the middle of a step must not look like a run that is complete.
 */
#ifndef APPS_COMMON_EXITS_H
#define APPS_COMMON_EXITS_H

/* From now on, until exits_done, exit tells who called it and ends the process with code 1. Call it
 * once. */
void exits_watch(void);
/* The end has come as it should; returns `code`, for main. */
int exits_done(int code);

#endif
