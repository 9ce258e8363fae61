#!/usr/bin/env python3
"""The sum over 2 ranks of f32 gradients on the CPU: dtrain (MPI) beside torch.distributed with gloo.

    python benchmarks/allreduce.py target/release/dtrain [--rounds 3] [--sizes 667493,86543818]

In every round dtrain's ranks run, then gloo's, each with its own warm-up and repetitions. A time is that of the slowest rank.
"""
import argparse, json, os, statistics, subprocess, sys, time

arguments = argparse.ArgumentParser()
arguments.add_argument("program")
arguments.add_argument("--rounds", type=int, default=3)
arguments.add_argument("--sizes", default="667493,86543818")
arguments.add_argument("--repeat", type=int, default=7)
arguments.add_argument("--json", help="a file for the raw numbers")
a = arguments.parse_args()
sizes = [int(s) for s in a.sizes.split(",")]
RANKS = 2


def gloo_rank(rank, results):
    import torch, torch.distributed as dist
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    for size in sizes:
        times = []
        pattern = (torch.arange(size) % 1009).float()
        for turn in range(a.repeat + 1):
            values = pattern + rank
            dist.barrier()
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(values)
            slowest = torch.tensor([time.perf_counter() - start])
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            assert torch.equal(values, 2 * pattern + 1), "gloo's sum is wrong"
            if turn:
                times.append(slowest.item())
        if rank == 0:
            results[size] = times
    dist.destroy_process_group()


def gloo():
    import torch.multiprocessing as processes
    with processes.Manager() as manager:
        results = manager.dict()
        processes.spawn(gloo_rank, (results,), nprocs=RANKS)
        return dict(results)


def ours():
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(RANKS), a.program, "bench", "allreduce", "--json",
               "--device", "cpu", "--rounds", str(a.repeat), "--least", "2", "--most", "1", "--also", a.sizes]
    if os.geteuid() == 0:
        command.insert(1, "--allow-run-as-root")
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert all(row["#wrong"] == 0 for row in report["rows"]), "our sum is wrong"
    return {row["count"]: row["time us"]["median"] * 1e-6 for row in report["rows"]}


if __name__ == "__main__":
    mine, theirs = {s: [] for s in sizes}, {s: [] for s in sizes}
    for _ in range(a.rounds):
        for size, seconds in ours().items():
            mine[size].append(seconds)
        for size, times in gloo().items():
            theirs[size].append(statistics.median(times))
    print(f"{RANKS} ranks, {a.rounds} rounds in turns of {a.repeat} sums each; median of medians [least-most], ms\n")
    print("| f32 values | dtrain, MPI | gloo | dtrain is faster by |\n|---|---|---|---|")
    for size in sizes:
        cell = lambda v: f"{1e3 * statistics.median(v):.2f} [{1e3 * min(v):.2f}-{1e3 * max(v):.2f}]"
        print(f"| {size:,} | {cell(mine[size])} | {cell(theirs[size])} | "
              f"{statistics.median(theirs[size]) / statistics.median(mine[size]):.2f} |")
    if a.json:
        from importlib.metadata import version
        json.dump({"arguments": vars(a), "torch": version("torch"), "seconds": {"dtrain": mine, "gloo": theirs}}, open(a.json, "w"), indent=1)
