#!/usr/bin/env python3
"""How much communication overlap_comm hides behind computing.

usage: bench/overlap.py [BUILD] [--ranks N] [--modules M] [--elements E] [--us US] [--gbs G]
                        [--steps S] [--rounds R]
A model of M modules of E fp32 elements, whose computing takes US microseconds a module forward and
twice as many backward, without using a processor. On the test device, with links of G gigabytes a
second that use none either; and on the host by shared memory, where moving is the processors' work:
without anything that moves it meanwhile, by the pool's tick, and by a thread. For each: the step
without computing, computing alone, and the step with overlap_comm false and true, over

    floor = max(computing, communication) + update

where update, the optimizer's pass with what publishing waits for in it, and communication, the rest,
are those of the step without computing. BUILD (default: build) has the libraries and the test plugins.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)


def build(build_folder, folder):
    program = os.path.join(folder, "overlap")
    library = os.path.join(build_folder, "lib")
    subprocess.run(["cc", "-O2", "-o", program, os.path.join(HERE, "overlap.c"),
                    "-I", os.path.join(ROOT, "include"), "-L", library, "-lzds",
                    f"-Wl,-rpath,{library}"], check=True)
    return program


class Side:
    """What steps run on: its section of zds, and where the computing is."""

    def __init__(self, name, how, zds):
        self.name, self.how, self.zds = name, how, zds


def measure(options, program, side, stage, overlap, us):
    config = {"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "SGD"},
              "zero_optimization": {"stage": stage, "overlap_comm": overlap,
                                    "reduce_bucket_size": options.elements},
              "zds": side.zds, "steps_per_print": 1000000}
    environment = dict(os.environ, ZDS_PLUGIN_PATH=os.pathsep.join(
        [os.path.join(options.build, "tests", "island"),
         os.path.join(options.build, "lib", "zds", "plugins")]))
    run = subprocess.run(
        [os.path.join(options.build, "bin", "zds-run"), "-n", str(options.ranks), program,
         json.dumps(config), str(options.modules), str(options.elements), str(us), side.how,
         str(options.steps)], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout)


def median(options, program, side, stage, overlap, us):
    rows = [measure(options, program, side, stage, overlap, us) for _ in range(options.rounds)]
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def sides(options):
    link = {"delay_gbs": options.gbs, "delay_us": 20}
    yield Side("test device", "outside",
               {"device": "test", "comm": {"type": "island", "params": link},
                "tiers": {"test": {"type": "test", "params": {"delay_us": 0}}}})
    yield Side("shm, nothing", "outside", {"comm": "shm"})
    yield Side("shm, tick", "pool", {"comm": "shm"})
    yield Side("shm, thread", "outside", {"comm": "shm", "progress_thread": True})


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("build", nargs="?", default=os.path.join(ROOT, "build"))
    for name, default in (("ranks", 2), ("modules", 12), ("elements", 1 << 18), ("us", 1000),
                          ("steps", 15), ("rounds", 3)):
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--gbs", type=float, default=1.0)
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
    print(f"{'ms':<24}{'comm':>8}{'update':>8}{'compute':>9}{'floor':>8}{'false':>8}{'true':>8}"
          f"{'/floor':>8}{'/floor':>8}")
    with tempfile.TemporaryDirectory() as folder:
        program = build(options.build, folder)
        for side in sides(options):
            for stage in (1, 2):
                bare = median(options, program, side, stage, True, 0)
                rows = [median(options, program, side, stage, overlap, options.us)
                        for overlap in (False, True)]
                took = [row["step_ms"] for row in rows]
                compute = min(row["compute_ms"] for row in rows)
                comm = bare["step_ms"] - bare["update_ms"]
                floor = max(compute, comm) + bare["update_ms"]
                print(f"{side.name + ', stage ' + str(stage):<24}{comm:8.1f}"
                      f"{bare['update_ms']:8.1f}{compute:9.1f}{floor:8.1f}"
                      f"{took[0]:8.1f}{took[1]:8.1f}{took[0] / floor:8.2f}{took[1] / floor:8.2f}",
                      flush=True)


if __name__ == "__main__":
    main()
