/* The element-wise optimizers that every property is tested on, with options that reach each of
 * their branches. */
#ifndef TESTS_OPTIM_LIST_H
#define TESTS_OPTIM_LIST_H

typedef struct optim_case {
    const char *file, *name, *options;
} optim_case;

static const optim_case optim_cases[] = {
    {"optim_adamw", "AdamW", "{\"weight_decay\": 0.1}"},
    {"optim_adamw", "AdamW", "{\"torch_adam\": true, \"amsgrad\": true}"},
    {"optim_adamw", "Adam", "{\"adam_w_mode\": false, \"weight_decay\": 0.1, \"eps\": 1e-6}"},
    {"optim_sgd", "SGD", "{\"weight_decay\": 0.1}"},
    {"optim_sgd", "SGD", "{\"momentum\": 0.9, \"nesterov\": true}"},
    {"optim_sgd", "SGD", "{\"momentum\": 0.9, \"dampening\": 0.5, \"maximize\": true}"},
};

enum { OPTIM_CASES = sizeof optim_cases / sizeof optim_cases[0] };

#endif
