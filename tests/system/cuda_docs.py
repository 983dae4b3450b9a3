"""docs/cuda_trainers.md as its reader uses it, with the island in place of a GPU: its pieces of code, put together, are a
program that trains in memory that the host cannot touch, on a stream that is late."""
import json
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from installed import SOURCE, expect, library_folder, prefix, run

RATE, STEPS = 0.1, 12


def page(name):
    with open(os.path.join(SOURCE, "docs", name), encoding="utf-8") as file:
        return file.read()


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def block_with(text, found):
    found = [block for block in found if text in block]
    expect(len(found) == 1, f"one piece of code has {text}")
    return found[0]


# Around the page's code: each element of two modules is moved towards 3 by the gradient of (w - 3)^2 / 2. Forward leaves
# w - 3 on the device, where backward finds it.
PROGRAM = r"""
#include <cuda_runtime.h>
#include <stdio.h>
#include <zds/zds.h>

enum { modules = 2, COUNT = 3000 };
static float *threes, *saved[modules];

%(slot_at)s
static void forward(uint32_t m, const zds_view *view, cudaStream_t native)
{
    cuda_add(saved[m], slot_at(view, 0)->data, 1, false, COUNT, native);
    cuda_add(saved[m], threes, -1, true, COUNT, native);
}

static void backward(uint32_t m, const zds_view *view, double scale, cudaStream_t native)
{
    const zds_slot *slot = slot_at(view, 0);
    cuda_add(slot->grad, saved[m], scale, slot->accumulate, COUNT, native);
}

static zds_status read_weights(void *user, uint32_t param, uint64_t first, uint64_t count, float *out)
{
    (void)user;
    for (uint64_t i = 0; i < count; i++)
        out[i] = 10 * (float)param + 0.001f * (float)(first + i);
    return ZDS_OK;
}

static zds_status print(void *user, uint32_t param, uint64_t first, uint64_t count, const float *values)
{
    (void)user;
    for (uint64_t i = 0; i < count; i++)
        if ((first + i) %% 500 == 0)
            printf("%%u %%llu %%.7g\n", param, (unsigned long long)(first + i), values[i]);
    return ZDS_OK;
}

int main(int argc, char **argv)
{
    zds_error error = ZDS_ERROR_INIT;
    zds_config *config = NULL;
    zds_engine *engine = NULL;
    zds_view view;
    zds_step_result result = {.struct_size = sizeof result};
    const zds_engine_options options = {.struct_size = sizeof options, .threads = 1, .total_steps = -1};
    const int64_t shape[] = {COUNT};
    zds_model *model = zds_model_create();
    for (uint32_t m = 0, index; m < modules; m++) {
        const zds_param_desc desc = {.struct_size = sizeof desc, .name = m ? "b" : "a", .shape = shape, .ndim = 1};
        zds_model_add_module(model, desc.name, &index);
        zds_model_add_param(model, m, &desc, &index);
    }
    if (zds_config_load(argc > 1 ? argv[1] : "", NULL, &config, &error) ||
        zds_engine_create(config, model, &options, &engine, &error) || zds_set_values(engine, read_weights, NULL)) {
        fprintf(stderr, "%%s\n", error.text ? error.text : zds_engine_error(engine));
        return 1;
    }
%(stream)s
    threes = cuda_floats(COUNT);
    cuda_fill(threes, 3, COUNT, native);
    for (uint32_t m = 0; m < modules; m++)
        saved[m] = cuda_floats(COUNT);
    for (int step = 0; step < %(steps)d; step++) {
%(loop)s
        if (!result.applied) {
            fprintf(stderr, "step %%d: %%s\n", step, zds_engine_error(engine));
            return 1;
        }
    }
%(copy)s
    if (zds_rank(engine) == 0)
        printf("first %%.7g\n", first);
    for (uint32_t p = 0; p < modules; p++)
        zds_get_values(engine, p, NULL, print, NULL);
    zds_engine_destroy(engine);
    cudaStreamDestroy(native);
    zds_model_destroy(model);
    zds_config_destroy(config);
    return 0;
}
"""

PAGE = page("cuda_trainers.md")


def build(work, root):
    code = blocks(PAGE, "c")
    pieces = {"stream": block_with("cudaStreamCreateWithFlags", code), "loop": block_with("zds_step(engine", code),
              "copy": block_with("zds_copy_out(engine", code),
              "slot_at": block_with("*slot_at(const", blocks(page("linking.md"), "c")), "steps": STEPS}
    expect(len(code) == 3, "and there is no other")
    source, program = os.path.join(work, "program.c"), os.path.join(work, "program")
    with open(source, "w", encoding="utf-8") as file:
        file.write(PROGRAM % pieces)
    lib = library_folder(root)
    run(["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I", os.path.join(SOURCE, "tests", "cuda"), "-I",
         os.path.join(root, "include"), source, f"-L{lib}", f"-Wl,-rpath,{lib}", "-lzds", "-o", program])
    return program


def formula(param, element):
    """w - 3 shrinks by the rate in every step."""
    return 3 + (10 * param + 0.001 * element - 3) * (1 - RATE) ** STEPS


def check(work, root, program, ranks, stage):
    island = os.path.join(os.path.dirname(os.path.abspath(sys.argv[1])), "tests", "island")
    config = os.path.join(work, "ds_config.json")
    tree = json.loads(block_with('"device": "cuda"', blocks(PAGE, "json")))
    tree["zds"] = {"device": "test", "tiers": {"test": {"params": {"delay_us": 300, "seed": 5}}}}
    tree["optimizer"] = {"type": "SGD", "params": {"lr": RATE}}
    tree.update({"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 2, "gradient_clipping": 1e6,
                 "zero_optimization": {"stage": stage}})
    with open(config, "w", encoding="utf-8") as file:
        json.dump(tree, file)
    lines = run([os.path.join(root, "bin", "zds-run"), "-n", str(ranks), program, config],
                env=dict(os.environ, ZDS_PLUGIN_PATH=island, ISLAND=os.path.join(island, "island.so"))).splitlines()
    first, rows = float(lines[0].split()[1]), [line.split() for line in lines[1:]]
    near = [abs(float(value) - formula(int(param), int(element))) < 1e-5 for param, element, value in rows]
    expect(len(rows) == 12 and all(near) and abs(first - formula(0, 0)) < 1e-5,
           f"{ranks} ranks, stage {stage}: {first} and {len(rows)} values more are the formula's")


with prefix() as (folder, install):
    made = build(folder, install)
    for world, zero in ((1, 0), (2, 1), (2, 2)):
        check(folder, install, made, world, zero)
