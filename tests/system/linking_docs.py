"""docs/linking.md as its reader uses it: its pieces of code, put together, are a program that trains. README.md's few
lines of a program run, too, and its config is the demo's."""
import json
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from installed import SOURCE, expect, library_folder, prefix, run

with open(os.path.join(SOURCE, "docs", "linking.md")) as file:
    PAGE = file.read()
BLOCKS = re.findall(r"^```c\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)

# Around the page's code: w is moved towards 3 by the gradient of (w - 3)^2 / 2 of each element.
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <zds/zds.h>
#include <zds/engine.h>

%(slot)s
static zds_status read_weights(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user, (void)param;
    for (uint64_t i = 0; i < count; i++)
        out[i] = (float)(first + i);
    return ZDS_OK;
}

static void back(const zds_slot *slot, double scale)
{
    const float *w = slot->data;
    float *grad = slot->grad;
    for (uint64_t i = 0; i < slot->count; i++)
        grad[i] = (slot->accumulate ? grad[i] : 0) + (float)scale * (w[i] - 3);
}

static void write_header(uint64_t *file, uint32_t param, const zds_state_info *info)
{
    printf("%%u %%s %%llu ", param, info->name, (unsigned long long)(info->bytes + *file));
}

static zds_status write_bytes(void *user, uint64_t first, uint64_t count, const void *bytes)
{
    uint64_t *file = user;
    *file += bytes && first == *file ? count : 0;
    return ZDS_OK;
}

int main(void)
{
    const int64_t out = 2, in = 2;
    const uint32_t modules = 1;
    void *user = NULL;
    zds_view view;
    zds_step_result result = {.struct_size = sizeof result};
%(load)s
%(model)s
%(create)s
    for (int step = 0; step < 200; step++) {
%(loop)s
    }
    zds_acquire(engine, 0, ZDS_FORWARD, NULL, &view);
    const zds_slot *slot = slot_at(&view, 0);
    float w[4];
    zds_status status = zds_copy_out(engine, w, slot->data, sizeof w);
    zds_release(engine, 0, NULL);
    const uint32_t param = 0;
    uint64_t written = 0, *file = &written;
%(states)s
    printf("%%llu %%s\n", (unsigned long long)written, zds_engine_error(engine));
    printf("%%d %%.4f %%.4f %%.4f %%.4f\n", status, w[0], w[1], w[2], w[3]);
    zds_engine_destroy(engine);
    zds_config_destroy(config);
    zds_error_clear(&error);
}
"""


# Around the README's: one step with the gradients that fresh memory holds, which are zeros.
SHORT = r"""
#include <stdio.h>
#include <zds/zds.h>

static zds_status read_weights(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user, (void)param, (void)first;
    for (uint64_t i = 0; i < count; i++)
        out[i] = 1;
    return ZDS_OK;
}

int main(void)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_model *model = zds_model_create();
    zds_engine *engine = NULL;
    FILE *file = NULL;
    uint32_t hidden, weight;
    const zds_param_desc desc = {.struct_size = sizeof desc, .name = "w", .shape = (int64_t[]){8}, .ndim = 1};
    const zds_engine_options options = {.struct_size = sizeof options, .optimizer = "AdamW"};
    zds_view view;
    zds_step_result result = {.struct_size = sizeof result};
    zds_config_load("{\"train_batch_size\": 1}", NULL, &config, &error);
%s
    printf("%%s%%d\n", zds_engine_error(engine), result.applied);
}
"""


def check_readme(work, build):
    with open(os.path.join(SOURCE, "README.md")) as file:
        page = file.read()
    with open(os.path.join(SOURCE, "examples", "demo", "ds_config.json")) as file:
        demo = json.load(file)
    first = re.search(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE).group(1)
    expect(json.loads(first) == demo, "README.md's config is the demo's")
    code = next(block for block in re.findall(r"^```c\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "zds_engine_create" in block)
    with open(os.path.join(work, "program.c"), "w") as file:
        file.write(SHORT % code)
    build()
    told = run([os.path.join(work, "my_trainer")], cwd=work)
    expect(told == "1\n", f"README.md's lines make a step: {told}")


def block_with(text):
    found = [block for block in BLOCKS if text in block]
    expect(len(found) == 1, f"one piece of code has {text}")
    return found[0]


def write(folder):
    loop = block_with("zds_step(engine, &result)")
    loop = loop.replace("... forward of module m ...", "")
    loop = loop.replace("... backward of module m ...",
                        "for (size_t i = 0; i < view.count; i++)\n"
                        "    back(slot_at(&view, i), zds_loss_scale(engine));")
    path = os.path.join(folder, "program.c")
    with open(path, "w") as file:
        file.write(PROGRAM % {"slot": block_with("slot_at("), "load": block_with("zds_config_load"),
                              "model": block_with("zds_model_add_param"),
                              "create": block_with("zds_engine_create"), "loop": loop,
                              "states": block_with("zds_get_state_bytes")})
    expect(len(BLOCKS) == 6, "no piece of code is left out")
    with open(os.path.join(folder, "ds_config.json"), "w") as file:
        json.dump({"train_batch_size": 2, "train_micro_batch_size_per_gpu": 1,
                   "gradient_clipping": 0.0, "optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.5}}}, file)
    return path


with prefix() as (work, root):
    source = write(work)
    expect("..." not in open(source).read(), "nothing is left out of the program")
    line = next(line for line in PAGE.splitlines() if line.startswith("cc my_trainer.c"))

    def build():
        run(["sh", "-ec", line.replace("my_trainer.c", "-std=c11 -Wall -Wextra -Werror program.c")], cwd=work,
            env=dict(os.environ, PKG_CONFIG_PATH=os.path.join(library_folder(root), "pkgconfig")))

    build()
    state, told = run([os.path.join(work, "my_trainer")], cwd=work).splitlines()
    told = told.split()
    expect(state.split() == ["0", "momentum_buffer", "16", "16"], f"states are got as bytes, without an error: {state}")
    expect(told == ["0", "3.0000", "3.0000", "3.0000", "3.0000"], f"it trains: {told}")
    check_readme(work, build)
