/* Signals that end the program, held back while files are written. */
#ifndef ZDS_TRAIN_SIGNALS_H
#define ZDS_TRAIN_SIGNALS_H

/* SIGINT and SIGTERM end the process as always, but between the two calls they wait, so that no
 * half-written file is left. */
void signals_hold(void);
void signals_resume(void);

#endif
