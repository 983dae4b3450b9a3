"""The collectives of torch's gloo, one rank of it: what bench/run.py holds `zds-bench comm` against.

usage: comm_gloo.py reduce_scatter|all_gather BYTES REPEATS     (RANK, WORLD_SIZE, MASTER_* set)
Prints on rank 0 {"ms": median}, the slowest rank's time from a barrier on; the bytes are the full
fp32 vector of a rank.
"""
import json
import statistics
import sys
import time

import torch
import torch.distributed as dist


def main():
    op, count, repeats = sys.argv[1], int(sys.argv[2]) // 4, int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    part = count // dist.get_world_size()
    full, piece = torch.ones(count), torch.ones(part)
    times = []
    for i in range(repeats + 2):
        dist.barrier()
        start = time.perf_counter()
        if op == "reduce_scatter":
            dist.reduce_scatter_tensor(piece, full)
        else:
            dist.all_gather_into_tensor(full, piece)
        took = torch.tensor([(time.perf_counter() - start) * 1e3], dtype=torch.float64)
        dist.all_reduce(took, op=dist.ReduceOp.MAX)
        if i >= 2:
            times.append(took.item())
        full.fill_(1)
    if dist.get_rank() == 0:
        print(json.dumps({"ms": statistics.median(times)}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
