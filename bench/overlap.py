#!/usr/bin/env python3
"""How much communication overlap_comm hides behind computing.

usage: bench/overlap.py [BUILD] [--ranks N] [--modules M] [--elements E] [--us US] [--gbs G]
                        [--steps S] [--rounds R] [--gather] [--update PATH]
A model of M modules of E fp32 elements, whose computing takes US microseconds a module forward and
twice as many backward, without using a processor. On the test device, with links of G gigabytes a
second that use none either; and on the host by shared memory, where moving is the processors' work:
without anything that moves it meanwhile, by the pool's tick, and by a thread. For each: the step
without computing, computing alone, and the step with overlap_comm false and true, over

    floor = max(computing, communication) + update

where update, the optimizer's pass with what publishing waits for in it, and communication, the rest,
are those of the step without computing. BUILD (default: build) has the libraries and the test plugins.

With --gather instead how much of the gathers of ZeRO-3 is hidden, on the test device: what the links' time adds to a
step where modules are gathered ahead (stage3_prefetch_bucket_size) over what it adds where they are not, on which
nothing but reductions is hidden.

With --update instead how much of the update zds.overlap_step hides behind backward, alternating: on the test
device, whose streams take LATE_US an operation, with states in the host's memory; with states in files below PATH
while the computing uses no processor; and with everything in memory and the computing by the pool's threads,
where there is nothing to hide behind. hidden = (step without - step with) / update.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
LATE_US = 2000


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
    return run_program(options, program, config, side, us)


def run_program(options, program, config, side, us):
    environment = dict(os.environ, ZDS_PLUGIN_PATH=os.pathsep.join(
        [os.path.join(options.build, "tests", "island"),
         os.path.join(options.build, "lib", "zds", "plugins")]))
    run = subprocess.run(
        [os.path.join(options.build, "bin", "zds-run"), "-n", str(options.ranks), program,
         json.dumps(config), str(options.modules), str(options.elements), str(us), side.how,
         str(options.steps)], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout)


def compare_gathers(options, program):
    print(f"{'ms':<24}{'no links':>10}{'links':>10}{'added':>8}")
    added = {}
    for name, ahead in (("when acquired", 0), ("ahead", 4 * options.elements)):
        took = []
        for gbs in (0, options.gbs):
            link = {"delay_gbs": gbs, "delay_us": 20} if gbs else {"delay_us": 0}
            side = Side(name, "outside", {"device": "test", "comm": {"type": "island", "params": link},
                                          "tiers": {"test": {"type": "test", "params": {"delay_us": 0}}}})
            config = {"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "SGD"},
                      "zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": ahead,
                                            "stage3_max_live_parameters": 6 * options.elements,
                                            "stage3_max_reuse_distance": 0,
                                            "stage3_param_persistence_threshold": 0},
                      "zds": side.zds, "steps_per_print": 1000000}
            took.append(statistics.median(
                run_program(options, program, config, side, options.us)["step_ms"]
                for _ in range(options.rounds)))
        added[name] = took[1] - took[0]
        print(f"{name:<24}{took[0]:10.1f}{took[1]:10.1f}{added[name]:8.1f}", flush=True)
    print(f"hidden: {1 - added['ahead'] / added['when acquired']:.2f}")


def update_sides(options):
    cpu = {"offload_optimizer": {"device": "cpu"}}
    files = {"offload_optimizer": {"device": "nvme", "nvme_path": options.update}}
    device = {"device": "test", "comm": {"type": "island", "params": {"delay_us": 0}},
              "tiers": {"test": {"type": "test", "params": {"delay_us": LATE_US}}}}
    yield Side("test device, cpu", "outside", device), {"stage": 1, **cpu}
    yield Side("files", "outside", {}), {"stage": 3, **files}
    yield Side("memory", "pool", {}), {"stage": 1}


def measure_update(options, program, side, zero, overlap, us):
    config = {"train_micro_batch_size_per_gpu": 1, "optimizer": {"type": "AdamW"},
              "gradient_clipping": 0, "zero_optimization": zero,
              "zds": {**side.zds, "overlap_step": overlap}, "steps_per_print": 1000000}
    return run_program(options, program, config, side, us)


def compare_updates(options, program):
    print(f"{'ms':<24}{'update':>8}{'compute':>9}{'false':>8}{'true':>8}{'hidden':>8}{'ratio':>8}")
    for side, zero in update_sides(options):
        rows = {False: [], True: []}
        bare = [measure_update(options, program, side, zero, False, 0)["update_ms"]
                for _ in range(options.rounds)]
        for _ in range(options.rounds):
            for overlap in rows:
                rows[overlap].append(
                    measure_update(options, program, side, zero, overlap, options.us))
        took = [statistics.median(row["step_ms"] for row in rows[way]) for way in rows]
        compute = statistics.median(row["compute_ms"] for row in rows[False])
        update = statistics.median(bare)
        print(f"{side.name:<24}{update:8.1f}{compute:9.1f}{took[0]:8.1f}{took[1]:8.1f}"
              f"{(took[0] - took[1]) / update:8.2f}{took[1] / took[0]:8.2f}", flush=True)


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
    parser.add_argument("--gather", action="store_true")
    parser.add_argument("--update", metavar="PATH")
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
    with tempfile.TemporaryDirectory() as folder:
        program = build(options.build, folder)
        if options.gather:
            return compare_gathers(options, program)
        if options.update:
            return compare_updates(options, program)
        print(f"{'ms':<24}{'comm':>8}{'update':>8}{'compute':>9}{'floor':>8}{'false':>8}{'true':>8}"
              f"{'/floor':>8}{'/floor':>8}")
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
