"""zds-plugins --check names the fault of each faulty plugin and passes every plugin of the build; the
engine refuses or reports those faults that it can see. usage: plugin_check.py FOLDER_OF_PROGRAMS"""
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import golden

PROGRAMS = os.path.abspath(sys.argv[1])
BUILD = os.path.dirname(PROGRAMS)
SAMPLES = os.path.join(BUILD, "tests", "plugins")
ISLAND = os.path.join(BUILD, "tests", "island", "island.so")
REPLAY = os.path.join(golden.DATA, "replay")
failures = 0

# What the engine does with a plugin that has the fault:
#   text      refuses or reports it: exit 1, this text, no output
#   DIES      the process dies in the plugin, with no output
#   HANGS     waits for ever, since it has no means to end a thread in a plugin's code
#   UNSEEN    cannot see it, since a plugin shares its memory; or need not, since it does no harm
DIES, HANGS, UNSEEN = object(), object(), object()

# plugin, the check that must fail, a part of its text, what the engine does
FAULTS = [
    # what the descriptor and the file say
    ("short_descriptor", "descriptor", "struct_size of its zds_plugin", "struct_size"),
    ("short_ops", "descriptor", "struct_size of its zds_optim_ops", "struct_size"),
    ("null_step", "descriptor", "step of its zds_optim_ops is NULL", "is NULL"),
    ("no_destroy", "descriptor", "destroy of its zds_optim_ops is NULL", "is NULL"),
    ("no_dtypes", "descriptor", "grad_dtypes", "grad_dtypes"),
    ("comm_reduces_none", "descriptor", "lacks ZDS_F32", UNSEEN),
    ("offset_outside", "descriptor", "outside the options struct", "outside the options struct"),
    ("crash", "open", "crashed: ", "crashed"),
    ("quits", "open", "ended its process with exit code 0", "ended its process"),
    ("hang", "open", "did not come to an end within 1 s", "within 1 s"),
    ("crash_at_close", "close", "crashed: ", "crashed"),
    # create and describe
    ("refuses_defaults", "create with the defaults", "not today", "not today"),
    ("silent_refusal", "create with the defaults", "without calling host->fail",
     "it gave no reason"),
    ("bad_state", "describe", "has dtype 42 (unknown)", "has dtype 42 (unknown)"),
    ("moves_states", "describe", "changed struct_size, state_stride or a pointer",
     "its describe changes states or state_stride of the zds_param_needs"),
    ("cut_block", "describe", "a tile could cut a block", "a tile could cut a block"),
    ("no_norms", "describe", "its norms function is NULL", "its norms function is NULL"),
    ("hyper_nan", "describe", "describe sets lr to", "describe sets lr to"),
    ("two_globals", "describe", "GLOBAL state \"counter\" is one for all parameters",
     "its global state \"counter\" has 1048576 bytes here and 8 with parameter"),
    # the golden model has no empty parameter
    ("divides_by_numel", "describe", "without elements: crashed: Aborted", UNSEEN),
    ("changes_mind", "describe", "something else of block.weight when it is asked again", UNSEEN),
    ("changes_version", "describe", "something else of block.weight when it is asked again", UNSEEN),
    # step
    ("fails_in_step", "a plain step", "three steps are one too many",
     "failed in step of step 3: three steps are one too many"),
    ("exits_in_step", "a plain step", "ended its process with exit code 0", DIES),
    ("aborts_in_step", "a plain step", "crashed: Aborted", DIES),
    ("loops_in_step", "a plain step", "did not come to an end within 1 s", HANGS),
    ("divides_later", "a plain step", "without elements: crashed: Aborted", UNSEEN),
    ("never_moves", "a plain step", "have changed no weight", UNSEEN),
    ("makes_nan", "a plain step", "have made weight 0 of block.weight nan", UNSEEN),
    ("half_norms", "a plain step", "norms wrote no sum 0 for chunk 1", UNSEEN),
    ("writes_grad", "a plain step", "gradient of block.weight, which is not the plugin's", UNSEEN),
    ("writes_hyper", "a plain step", "structs that describe the step, which is not the", UNSEEN),
    ("writes_tensor_state", "a plain step", "calls of block.weight, which is not the", UNSEEN),
    ("zeroes", "weights come of weights and gradients", "other gradients lead to the same", UNSEEN),
    ("overwrites", "weights come of weights and gradients", "without reading them", UNSEEN),
    ("uninitialised", "the same again gives the same bits", "not written yet holds other", UNSEEN),
    ("dirty_scratch", "the same again gives the same bits", "not written yet holds other", UNSEEN),
    ("address", "the same again gives the same bits", "arrays have other addresses", UNSEEN),
    ("global_state", "instances do not share state", "something else than alone", UNSEEN),
    ("stale_options", "instances do not share state", "something else than alone", UNSEEN),
    ("keeps_tile", "nothing is kept from call to call", "describe the step of an earlier", UNSEEN),
    ("keeps_state", "nothing is kept from call to call", "of an earlier call: of pointers", UNSEEN),
    ("own_rate", "hyperparameters are the tile's", "what the option lr does", UNSEEN),
    ("rank_describes", "every rank describes and computes the same", "on rank 1 than on", UNSEEN),
    ("rank_steps", "every rank describes and computes the same", "rank 1 computes", UNSEEN),
    ("wrong_grad_dtype", "all types of its masks", "gradients in bf16", UNSEEN),
    ("refuses_mask", "all types of its masks", "its masks allow this, but create refuses", UNSEEN),
    ("depends_on_tile", "any tiling gives the same bits", "tiles of 1: element 0", UNSEEN),
    ("short_counter", "any tiling gives the same bits", "tiles of 65536: element 0 ", UNSEEN),
    ("first_5000", "any tiling gives the same bits", "tiles of 65536: element 65536 ", UNSEEN),
    ("depends_on_order", "any order and number of threads give the same bits",
     "the last one first", UNSEEN),
    ("no_output", "16-bit output is the rounded master", "output 0 of block.weight is 0x0000",
     UNSEEN),
    ("cut_output", "16-bit output is the rounded master", "to nearest, ties to even", UNSEEN),
    ("ignores_scale", "gradients are multiplied by grad_scale", "do not give the same", UNSEEN),
    ("scales_late", "gradients are multiplied by grad_scale", "do not give the same", UNSEEN),
    ("own_counter", "a new instance goes on from saved states", "was given weights and states",
     UNSEEN),
    # the engine skips a step whose gradients are no numbers
    ("crashes_on_nan", "NaN and Inf stay where they are", "crashed: Aborted", UNSEEN),
    ("spreads_nan", "NaN and Inf stay where they are", "element 561 of the master", UNSEEN),
    ("past_tile", "nothing outside the tile is touched", "changed element 24 of the master",
     UNSEEN),
    ("pads_tile", "nothing outside the tile is touched", "changed element 24 of the master",
     UNSEEN),
    ("allocates", "no allocation in step", "use ctx->scratch", UNSEEN),
    ("reduces_alone", "its own reduction between ranks", "the ranks end with other weights", UNSEEN),
    ("reduces_unlike", "its own reduction between ranks", "ranks do different things", UNSEEN),
    ("reduces_less", "its own reduction between ranks", "ranks do different things", UNSEEN),
    ("reduces_at_odds", "every rank describes and computes the same",
     "says something else of step 3 on rank 1", UNSEEN),
    ("reduces_then_sleeps", "its own reduction between ranks", "2 ranks: rank 0: step_collective "
     "returned", UNSEEN),
    ("reduces_then_dies", "its own reduction between ranks", "rank 1: its process ended", UNSEEN),
    ("leaks", "no leaks", "4 pieces of memory", UNSEEN),
    ("leaks_malloc", "no leaks", "4 pieces of memory", UNSEEN),
    ("leaks_thread", "no leaks", "4 threads", UNSEEN),
    ("leaks_process", "no leaks", "processes are left behind", UNSEEN),
    ("rounds_in_step", "no leaks", "the thread rounds otherwise", UNSEEN),
    ("takes_signal", "no leaks", "signal 15 (Terminated) does something else", UNSEEN),
    ("changes_folder", "no leaks", "is in another folder", UNSEEN),
    ("changes_umask", "no leaks", "(umask)", UNSEEN),
    ("changes_locale", "no leaks", "(setlocale)", UNSEEN),
    ("changes_environment", "no leaks", "(setenv)", UNSEEN),
]
# schedules, memory tiers and backends: --check alone
OTHERS = [
    ("sched_counts", "at is a function of the moves alone", "from the last move to the first"),
    ("sched_not_finite", "values, masks and strides", "at(101) gives group 0"),
    ("sched_stride", "values, masks and strides", "use value_stride, not sizeof"),
    ("sched_no_mask", "values, masks and strides", "bit 0x1 of the mask is not set"),
    ("offload_dirty", "blocks keep what is written", "in a block that is fresh"),
    ("offload_offset", "blocks keep what is written", "after it was written and read"),
    ("offload_event_size", "blocks keep what is written", "struct_size of its event's zds_event_ops is 0"),
    ("offload_short", "blocks keep what is written", "byte 0 of 1 is 0x00"),
    ("offload_long", "blocks keep what is written", "past the end of the memory of a copy"),
    ("offload_recycles", "blocks are zero when they are used again", "and should be zero"),
    ("offload_one_world", "instances do not share blocks", "is fresh and should be zero"),
    ("offload_anywhere", "a folder that is not there", "accepts a folder that is not there"),
    ("offload_source_offset", "blocks keep what is written", "after it was written and read"),
    ("offload_lies_aligned", "blocks keep what is written", "1048576 bytes, as query says"),
    ("offload_unaligned", "open and close the tier", "alignment is 48"),
    ("offload_reaches_none", "open and close the tier", "reaches is 0x0"),
    ("offload_forgets_size", "open and close the tier", "beyond the struct_size"),
    ("offload_no_size", "descriptor", "struct_size of its zds_offload_ops is 0"),
    ("offload_no_query", "descriptor", "query of its zds_offload_ops is NULL"),
    ("offload_bare_device", "descriptor", "fill of its zds_offload_ops is NULL"),
    ("offload_direct_file", "descriptor", "say DIRECT, but its blocks are in files"),
    ("offload_adopt_frees", "views of other memory", "whose view was freed: crashed"),
    ("offload_adopt_clears", "views of other memory", "in memory that was adopted"),
    ("offload_adopt_copies", "views of other memory", "adopt of 3001 bytes at"),
    ("offload_carries_on", "what waits for a failure fails", "\"peer lost\" returns \"ok\""),
    ("offload_fills_half", "fill", "element 2502 is"),
    ("offload_fills_other", "fill", "element 3 is 1, not 1.5"),
    ("offload_truncates", "convert", "from f32 to bf16"),
    ("offload_no_scale", "accumulate", "accumulate of 3000 elements from f32 to f32"),
    ("offload_always_adds", "accumulate", "accumulate of 3000 elements from f32 to f32"),
    ("offload_sums_plainly", "sums of chunks", "chunk_sums of f32: chunk 0 is"),
    ("offload_counts_anew", "sums of chunks", "2 elements are not finite"),
    ("offload_sync_says_ok", "errors on a stream", "stream_sync returns \"ok\""),
    ("offload_stays_failed", "errors on a stream", "stream_sync once more"),
    ("offload_impatient", "copies wait for their events", "a copy to a block does not wait"),
    ("offload_reads_early", "copies wait for their events", "had to wait for its destination"),
    ("offload_loses_one", "several copies in flight", "after several copies in flight"),
    ("offload_grants", "too much memory is refused", "alloc grants 2^62 bytes"),
    ("offload_litter", "open and close the tier", "leaves files behind"),
    ("offload_forgets", "no leaks", "pieces of memory"),
    ("offload_hasty_sums", "device calls wait for their events", "chunk_sums does not wait"),
    ("offload_hasty_stream", "device calls wait for their events", "copy on a stream does not wait"),
    ("offload_lets_pass", "streams wait for each other", "comes before it"),
    ("offload_gives_nothing", "blocks keep what is written", "a block of 0 bytes"),
    ("offload_long_block", "blocks keep what is written", "alloc writes beyond the struct_size"),
    ("offload_long_view", "views of other memory", "adopt writes beyond the struct_size"),
    ("offload_long_stream", "streams", "stream_create writes beyond the struct_size"),
    ("offload_never_opens", "open and close the tier", 'open returned "internal error": broken'),
    ("comm_mourns", "a peer that dies", "all_reduce when a peer has died: did not come to an end"),
    ("comm_patient", "a peer that is silent", "when a peer is silent: did not come to an end"),
    ("comm_wrong_sum", "reductions of several ranks",
     "2 ranks: rank 1: all_reduce of 1023 of f32: gives"),
    ("comm_drops_last", "reductions of several ranks", "for element 0, not"),
    ("comm_coarse", "reductions of several ranks", "of bf16: gives"),
    ("comm_refuses_none", "reductions of several ranks", "reduce of 0 of f32"),
    ("comm_unlike", "reductions of several ranks", "other bits here than on rank 0"),
    ("comm_root_0", "moves between ranks", "broadcast of 1 of f32: gives"),
    ("comm_spoils_source", "moves between ranks", "changes element 0 of its source"),
    ("comm_runs_on", "moves between ranks", "bytes behind the end of dst"),
    ("comm_no_barrier", "moves between ranks", "is done before all ranks have issued it"),
    ("comm_fuses_wrong", "fused reduction of several ranks", "rank 1: reduce_scatter from f32"),
    ("comm_lonely_memory", "memory that ranks share", "does not show on rank"),
    ("comm_counts_early", "counters of several ranks", "rank"),
    ("comm_unordered", "split of several ranks", "in reverse order member 0 of color 0 is"),
    ("comm_carries_on", "a peer that dies", "reduce_scatter comes to its end although rank 1"),
    ("comm_no_abort", "a peer that aborts", "ends no wait here before the timeout"),
    ("comm_hasty", "moves between ranks", "does not wait for the event in its waits"),
    ("comm_hasty_barrier", "moves between ranks", "barrier does not wait for the event in its waits"),
    ("comm_long_region", "memory", "mem_alloc writes beyond the struct_size"),
    ("comm_needs_pushing", "progress by itself", "while the others do nothing"),
    ("comm_ungrouped", "descriptor", "group_begin of its zds_comm_ops is NULL"),
    ("comm_unregisters", "descriptor", "mem_register of its zds_comm_ops is NULL"),
    ("sched_no_observe", "descriptor", "observe of its zds_sched_ops is NULL"),
    ("comm_cuts", "reductions of its types", "all_reduce of f32 in a world of one does not give"),
]
# good as far as can be told, but worth a remark
NOTES = [
    ("uphill", "a plain step", "the loss grows"),
    ("refuses_empty", "describe", "without elements are refused: block.weight"),
    ("forgets_bias", "a plain step", "leave block.bias as they were"),
    ("rounds_at_open", "open", "when it is loaded: the thread rounds otherwise"),
    ("chatty", "prints nothing", '"{"plugins": 1}" in "open"; give it to host->log'),
]
GOOD = ["sched_beta3", "sample", "momentum", "anchor", "newer", "old_abi_1_0", "reduces", "whole", "no_create", "offload_good",
        "offload_device", "offload_sectors", "comm_own_memory", "comm_pairs"]


def expect(condition, what):
    global failures
    print(("ok    " if condition else "FAIL  ") + what, flush=True)
    failures += not condition


def run(*command, timeout=600):
    """Only those that hang have but a second: machines may be slow."""
    path = " ".join(command)
    hangs = any(name in path for name in ("/hang.", "/loops_in_step."))
    ranks_hang = any(name in path for name in ("comm_mourns.so", "comm_patient.so",
                                               "reduces_then_sleeps.so"))
    environment = dict(os.environ, ZDS_PLUGIN_TIMEOUT="1" if hangs else "8" if ranks_hang else "60",
                       ZDS_TEST_COMM=os.path.join(BUILD, "lib", "zds", "plugins", "comm_shm.so"),
                       ZDS_TEST_ISLAND=ISLAND, TMPDIR=LEFT)
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, text=True,
                          errors="replace", capture_output=True, timeout=timeout)


def check(path):
    """(exit code, results) of --check."""
    result = run(os.path.join(PROGRAMS, "zds-plugins"), "--check", path, "--json")
    return result.returncode, json.loads(result.stdout)


def check_all(paths):
    """(name, exit code, results) of each file. Those of backends, which wait for most of their time,
    begin first, and more at a time than there are cores."""
    paths = sorted(paths, key=lambda path: not os.path.basename(path).startswith("comm_"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() + 4) as pool:
        for path, (code, results) in zip(paths, pool.map(check, paths)):
            yield os.path.basename(path)[:-len(".so")], code, results


def told(results, status):
    return {(r["check"], r["text"]) for r in results if r["status"] == status}


def failed(results):
    return told(results, "failed")


def check_plugins(folder):
    """The faulty ones, and every plugin that comes with zds."""
    expected = {name: (what, part) for name, what, part, *_ in FAULTS + OTHERS}
    notes = {name: (what, part) for name, what, part in NOTES}
    plugins = os.path.join(BUILD, "lib", "zds", "plugins")
    own = {name[:-len(".so")] for name in os.listdir(plugins) if name.endswith(".so")}
    paths = [os.path.join(plugins, name + ".so") for name in sorted(own)]
    paths += [os.path.join(folder, n + ".so") for n in (*expected, *notes, *GOOD)]
    paths.append(ISLAND)
    for name, code, results in check_all(paths):
        if name in own:
            passed = sum(r["status"] in ("ok", "note") for r in results)
            expect(code == 0 and not failed(results),
                   f"{name}: {passed} checks passed {failed(results) or ''}")
            continue
        status = "failed" if name in expected else "note"
        what, part = expected.get(name) or notes.get(name) or (None, None)
        found = what is None or any(c == what and part in text
                                    for c, text in told(results, status))
        right = found and code == (name in expected) and bool(failed(results)) == code
        expect(right, f"{name}: {what}: ...{part}..." if what else f"{name} has no fault")
        if not right:
            print("      but:", code, told(results, "failed") | told(results, "note"))
    expect(not os.listdir(LEFT), f"nothing is left in TMPDIR: {os.listdir(LEFT)}")


def check_rates(folder):
    """A rate that is no number is told before a run meets it."""
    with tempfile.TemporaryDirectory() as work:
        config = os.path.join(work, "ds.json")
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"train_batch_size": 1, "optimizer": {"type": "AdamW", "params": {"lr": 1}},
                       "scheduler": {"type": os.path.join(folder, "sched_not_finite.so"),
                                     "params": {}}}, file)
        for steps, code in ((101, 0), (102, 1)):
            result = run(os.path.join(PROGRAMS, "zds-config"), "schedule", config, "--steps",
                         str(steps))
            told = "the scheduler failed at move 101: it sets lr of group 0 to "
            expect(result.returncode == code and (told in result.stderr) == code,
                   f"schedule of {steps} steps: {result.stderr[-200:]}")


def check_third_beta(folder):
    """A schedule of beta3, of an optimizer that has three, is shown as it moves."""
    config = os.path.join(folder, "beta3.json")
    with open(config, "w", encoding="utf-8") as file:
        json.dump({"train_batch_size": 1, "optimizer": {"type": os.path.join(folder, "anchor.so")},
                   "scheduler": {"type": os.path.join(folder, "sched_beta3.so"), "params": {}}}, file)
    show = [os.path.join(PROGRAMS, "zds-config"), "schedule", config, "--steps", "3"]
    result = run(*show, "--json")
    betas = json.loads(result.stdout)["betas"] if result.returncode == 0 else None
    expect(betas and [round(1 / (1 - third)) for _, _, third in betas] == [2, 3, 4],
           f"schedule of beta3: {betas}{result.stderr[-200:]}")
    table = run(*show).stdout.splitlines()
    expect(table[0].split() == ["step", "lr", "beta1", "beta2", "beta3"] and table[1].split()[-1] == "0.5",
           f"schedule of beta3: the table {table[:2]}")


def replay(folder, name, out, **config):
    """Three steps of golden gradients, with the plugin by its path."""
    path = os.path.join(folder, name + ".json")
    with open(path, "w") as file:
        json.dump({"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1,
                   "optimizer": {"type": os.path.join(folder, name + ".so")}, **config}, file)
    return run(os.path.join(PROGRAMS, "zds-replay"), "--config", path,
               "--params", os.path.join(REPLAY, "init.safetensors"),
               "--grads", os.path.join(REPLAY, "grads", "normal"),
               "--micro-steps", "3", "--out", out)


def check_engine(folder):
    """One rank, three steps of golden gradients, with each plugin by its path."""
    out = os.path.join(folder, "out.safetensors")
    for name, _, _, does in FAULTS:
        if does in (HANGS, UNSEEN):
            continue
        result = replay(folder, name, out)
        said = result.stderr.strip()
        written = os.path.exists(out)
        if does is DIES:
            expect(not written, f"engine with {name}: exit {result.returncode}, nothing written")
        else:
            expect(result.returncode == 1 and does in said and not written,
                   f"engine with {name}: exit {result.returncode}: {said[-200:]}")
            expect(said.count(name + ".so") <= 1, f"engine with {name}: the path is told once")
        if written:
            os.remove(out)
    result = replay(folder, "no_create", out)
    expect(result.returncode == 0, f"engine with no_create {result.stderr}")
    result = replay(folder, "no_create_bf16", out, zero_optimization={"stage": 1},
                    zero_allow_untested_optimizer=True,
                    bf16={"enabled": True, "bf16_optimizer_states": True,
                          "bf16_master_weights_and_grads": True})
    expect(result.returncode == 1 and "float32; remove bf16_optimizer_states" in result.stderr,
           f"engine with no_create_bf16 and states in 16 bits: {result.stderr.strip()[-150:]}")


if not os.path.isdir(SAMPLES):
    print(f"skipped: {SAMPLES} is not built")
    sys.exit(77)
with tempfile.TemporaryDirectory() as temporary:
    FOLDER = os.path.realpath(temporary)
    LEFT = os.path.join(FOLDER, "left")
    os.mkdir(LEFT)
    os.chmod(FOLDER, 0o755)
    for sample in os.listdir(SAMPLES):
        shutil.copyfile(os.path.join(SAMPLES, sample), os.path.join(FOLDER, sample))
        os.chmod(os.path.join(FOLDER, sample), 0o755)
    check_plugins(FOLDER)
    check_rates(FOLDER)
    check_third_beta(FOLDER)
    check_engine(FOLDER)
sys.exit(1 if failures else 0)
