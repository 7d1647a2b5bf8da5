#!/usr/bin/env python3
"""Weak scaling of `sepia train`: N ranks with a batch N times as large against one rank, in turn, and
a table that says where the rest of a perfect N goes. Needs nothing beyond Python.

    python3 tools/compare/weak_scaling.py --sepia build/bin/sepia

Each round trains three times: one rank alone; N runs of one rank at the same time, which share the
machine and exchange nothing; N ranks of one run. What N separate runs lose against one alone is the
machine's (memory bandwidth, clock); what one run of N ranks loses beyond that is communication,
waiting for the slower rank, and the work of communication's own thread.
"""

import argparse
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

import report

SEPARATORS = [15, 13, 32, 2, 28, 27, 209, 186, 187]  # of the Pythia tokenizer


def write_dataset(prefix, documents, length, density, vocabulary=50000):
    """Random tokens, a share `density` of them separators: docs/formats/indexed_dataset.md."""
    generator = random.Random(1)
    with open(f"{prefix}.bin", "wb") as file:
        for _ in range(documents):
            tokens = [generator.choice(SEPARATORS) if generator.random() < density
                      else generator.randrange(300, vocabulary) for _ in range(length)]
            file.write(struct.pack(f"<{length}H", *tokens))
    with open(f"{prefix}.idx", "wb") as file:
        file.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, documents, documents + 1))
        file.write(struct.pack(f"<{documents}i", *[length] * documents))
        file.write(struct.pack(f"<{documents}q", *[2 * length * i for i in range(documents)]))
        file.write(struct.pack(f"<{documents + 1}q", *range(documents + 1)))


class Trial:
    """Runs of one config; each writes into a directory of its own."""

    def __init__(self, args, folder):
        self.args = args
        self.folder = pathlib.Path(folder)
        self.count = 0
        samples = 2 * args.ranks * args.accumulation * (args.steps + 1)
        self.data = self.folder / "data"
        write_dataset(self.data, samples // 4 + 1, 4 * args.seq, args.density)
        self.config = self.folder / "run.textproto"
        self.config.write_text(f"""
model {{ preset: "{args.model}" attention {{ kind: {args.attention} {args.window} }} }}
data {{ train {{ prefix: "{self.data}" }} sequence_length: {args.seq} order: LINEAR }}
batch {{ micro: 1 }} precision: {args.precision} threads: 1
schedule {{ total_steps: {args.steps} }} eval {{ every_steps: 0 }}
checkpoint {{ every_steps: 0 }} logging {{ tensorboard: false peak_gflops: 100 }}
parallel {{ zero_stage: {args.zero} }}
""")

    def start(self, ranks):
        self.count += 1
        run_dir = self.folder / f"run{self.count}"
        command = [self.args.sepia, "train", str(self.config), "--run-dir", str(run_dir),
                   "--set", f"batch.global={self.args.accumulation * ranks}"]
        if ranks > 1:
            command = ["mpirun", "-n", str(ranks)] + self.args.mpirun.split() + command
            for override in self.args.set:
                command += ["--set", override]
        environment = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1",
                           OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        log = open(self.folder / f"log{self.count}", "wb")
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        return process, run_dir, log.name

    def finish(self, started):
        process, run_dir, log = started
        if process.wait() != 0:
            sys.exit(pathlib.Path(log).read_text())
        lines = (run_dir / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line) for line in lines][1:]  # the first touches every page
        subprocess.run(["rm", "-rf", str(run_dir)], check=True)
        return {key: report.median([step[key] for step in steps])
                for key in ("step_ms", "comm_ms", "data_ms", "tokens_per_s")}

    def run(self, ranks, copies=1):
        started = [self.start(ranks) for _ in range(copies)]
        results = [self.finish(each) for each in started]
        return {key: report.median([result[key] for result in results]) for key in results[0]}


def print_tables(rows, ranks):
    one, apart, together = (
        {key: report.median([row[kind][key] for row in rows]) for key in rows[0][kind]}
        for kind in ("one", "apart", "together"))
    speedup = [row["together"]["tokens_per_s"] / row["one"]["tokens_per_s"] for row in rows]
    alone = [ranks * row["one"]["step_ms"] / row["apart"]["step_ms"] for row in rows]
    step = together["step_ms"]
    sharing = apart["step_ms"] - one["step_ms"]
    rest = step - apart["step_ms"] - together["comm_ms"] - together["data_ms"]

    def row(what, milliseconds):
        return [what, f"{milliseconds:.0f} ms", f"{100 * milliseconds / step:.1f} %"]

    print(report.table(
        ["", "step", "tokens/s", "over one rank"],
        [["one rank", f"{one['step_ms']:.0f} ms", f"{one['tokens_per_s']:.0f}", "1"],
         [f"{ranks} runs apart", f"{apart['step_ms']:.0f} ms",
          f"{ranks * apart['tokens_per_s']:.0f}", f"{report.median(alone):.2f}"],
         [f"{ranks} ranks", f"{step:.0f} ms", f"{together['tokens_per_s']:.0f}",
          f"{report.median(speedup):.2f}"]]))
    print()
    print(report.table(
        [f"a step of {ranks} ranks", "time", "share"],
        [row("what one rank takes alone", one["step_ms"]),
         row("sharing the machine: memory bandwidth, clock", sharing),
         row("communication and waiting for the slower rank (comm_ms)", together["comm_ms"]),
         row("waiting for data", together["data_ms"]),
         row("the rest: the communication thread beside computing, imbalance", rest)]))
    print(f"\nspeed-ups of the rounds: {', '.join(f'{s:.2f}' for s in speedup)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sepia", default="build/bin/sepia")
    parser.add_argument("--model", default="pythia-70m")
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--zero", type=int, default=0)
    parser.add_argument("--precision", default="BF16", choices=["BF16", "FP32"])
    parser.add_argument("--attention", default="SEP", choices=["SEP", "FULL"])
    parser.add_argument("--density", type=float, default=0.16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[],
                        help="for the run of N ranks alone, e.g. parallel.overlap=false")
    parser.add_argument("--mpirun", default="--bind-to none", help="more options of mpirun")
    parser.add_argument("--raw", help="append the raw numbers to this file")
    args = parser.parse_args()
    args.window = "window: 64" if args.attention == "SEP" else ""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(args, folder)
        for _ in range(args.rounds):
            rows.append({"one": trial.run(1), "apart": trial.run(1, copies=args.ranks),
                         "together": trial.run(args.ranks)})
    print(report.heading(1, ranks=args.ranks, model=args.model, T=args.seq,
                         accumulation=args.accumulation, precision=args.precision,
                         attention=args.attention, zero=args.zero) + "\n")
    print_tables(rows, args.ranks)
    report.keep(args.raw, rows)


if __name__ == "__main__":
    main()
