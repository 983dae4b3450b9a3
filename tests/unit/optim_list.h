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
    {"optim_lion", "Lion", "{\"weight_decay\": 0.1}"},
    {"optim_adagrad", "Adagrad", "{\"lr_decay\": 0.1}"},
    {"optim_rmsprop", "RMSprop", "{}"},
    {"optim_rmsprop", "RMSprop", "{\"momentum\": 0.5}"},
    {"optim_rmsprop", "RMSprop", "{\"centered\": true}"},
    {"optim_rmsprop", "RMSprop", "{\"momentum\": 0.5, \"centered\": true}"},
    {"optim_adamax", "Adamax", "{}"},
    {"optim_nadam", "NAdam", "{\"weight_decay\": 0.1, \"decoupled_weight_decay\": true}"},
    {"optim_radam", "RAdam", "{\"betas\": [0.9, 0.9]}"},
    {"optim_radam", "RAdam", "{\"betas\": [0.9, 0.2]}"},
    {"optim_adadelta", "Adadelta", "{}"},
    {"optim_adamw", "MuAdam", "{\"weight_decay\": 0.1}"},
    {"optim_adamw", "MuAdamW", "{\"amsgrad\": true}"},
    {"optim_sgd", "MuSGD", "{\"momentum\": 0.9}"},
    {"optim_asgd", "ASGD", "{\"lr\": 0.1, \"t0\": 1}"},
    {"optim_rprop", "Rprop", "{}"},
    {"optim_lamb", "Lamb", "{\"weight_decay\": 0.1}"},
    {"optim_adamw", "AdamW8bit", "{}"},
    {"optim_adamw", "AdamW8bit", "{\"min_8bit_size\": 0}"},
};

enum { OPTIM_CASES = sizeof optim_cases / sizeof optim_cases[0] };

#endif
