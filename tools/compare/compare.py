"""Sepia beside PyTorch, Hugging Face and tokenizers: one machine, one run, in turn.

Prints a markdown table; --raw FILE keeps every number as JSON lines. Ratios are medians over pairs
of neighbouring rounds, > 1 where Sepia is faster. Each call measures a few rows, so that a long
comparison can be cut into pieces.
"""

import argparse
import pathlib
import sys

import paced
import report

TORCH_MASKS = ["causal", "dense_sep"]
HF_ATTENTION = {
    "sdpa": ["--attention", "full"],
    "eager": ["--attention", "full", "--implementation", "eager"],
    "dense-mask": ["--attention", "sep"],
    "flex": ["--attention", "full", "--implementation", "flex_attention"],
}
HF_OPTIONS = ["compile", "bf16-weights", "checkpointing"]


def words(text):
    return text.split(",")


def hf_arguments(variant):
    """Of torch_step.py, for "sdpa", "dense-mask+compile", "sdpa+bf16-weights+checkpointing"."""
    attention, *options = variant.split("+")
    if attention not in HF_ATTENTION or not set(options) <= set(HF_OPTIONS):
        sys.exit(f"--hf {variant}: one of {', '.join(HF_ATTENTION)}, then any of "
                 f"{', '.join('+' + option for option in HF_OPTIONS)}")
    return [*HF_ATTENTION[attention], *(f"--{option}" for option in options)]


def sepia_arguments(variant):
    """Of sepia bench step, for "sep", "full", "sep+recompute"."""
    attention, *options = variant.split("+")
    return ["--attention", attention, *(f"--{option}" for option in options)]


def parse_args():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--sepia", type=pathlib.Path, default=paced.ROOT / "build/bin/sepia")
    common.add_argument("--threads", type=int, default=2)
    common.add_argument("--rounds", type=int, default=5)
    common.add_argument("--raw", type=pathlib.Path)
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    attention = commands.add_parser("attention", parents=[common], help="against SDPA")
    attention.set_defaults(run=compare_attention)
    attention.add_argument("--seq", type=int, default=2048)
    attention.add_argument("--heads", type=int, default=12)
    attention.add_argument("--head-dim", type=int, default=64)
    attention.add_argument("--window", type=int, default=64)
    attention.add_argument("--density", type=float, default=0.16)
    attention.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    attention.add_argument("--masks", type=words, default=TORCH_MASKS, help=",".join(TORCH_MASKS))
    attention.add_argument("--kinds", default="sep,full", help="ours: sep, full")
    attention.add_argument("--isa", help="ours, e.g. amx,avx512 (default: the best one)")
    attention.add_argument("--no-warm-up", action="store_true", help="SDPA: for minutes-long cases")

    step = commands.add_parser("step", parents=[common], help="against GPTNeoXForCausalLM")
    step.set_defaults(run=compare_step)
    step.add_argument("--model", default="pythia-70m")
    step.add_argument("--seq", type=int, default=2048)
    step.add_argument("--micro", type=int, default=1)
    step.add_argument("--window", type=int, default=64)
    step.add_argument("--density", type=float, default=0.16)
    step.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    step.add_argument("--hf", type=words, default=["sdpa", "dense-mask"],
                      help=f"{', '.join(HF_ATTENTION)}; with +{', +'.join(HF_OPTIONS)}")
    step.add_argument("--attention", default="sep,full", help="ours: sep, full; with +recompute")

    tokenizer = commands.add_parser("tokenizer", parents=[common], help="against HF tokenizers")
    tokenizer.set_defaults(run=compare_tokenizer)
    tokenizer.add_argument("--tokenizer", type=pathlib.Path, required=True)
    tokenizer.add_argument("--text", type=pathlib.Path, required=True)
    return parser.parse_args()


def flags(args, names):
    """--name value for each; what both sides are told alike."""
    return [text for name in names
            for text in (f"--{name}", str(getattr(args, name.replace("-", "_"))))]


def run(programs, args, kind):
    """Alternates them. Returns [(name, seconds of every round, report)], a row a variant."""
    reports = paced.alternate(programs, args.rounds)
    rows = [(program.name, seconds, row)
            for program, given in zip(programs, reports)
            for seconds, row in zip(program.seconds, given)]
    report.keep(args.raw, [{"comparison": kind, "side": name, "rounds": seconds, "report": row}
                           for name, seconds, row in rows])
    return rows


def print_times(rows, extra_columns=(), extra=lambda row: ()):
    """Rows of ours against each of theirs."""
    theirs = [row for row in rows if row[0] != "Sepia"]
    ours = [row for row in rows if row[0] == "Sepia"]
    columns = ["what", "median", *extra_columns, *(f"{name} / this" for name, _, _ in theirs)]
    table = [[name, report.seconds(report.median(seconds)), *extra(row), *["" for _ in theirs]]
             for name, seconds, row in theirs]
    for _, seconds, row in ours:
        ratios = [f"{report.paired_ratio(other, seconds):.2f}" for _, other, _ in theirs]
        table.append([describe(row), report.seconds(report.median(seconds)), *extra(row), *ratios])
    print(report.table(columns, table))


def describe(row):
    keys = ("kind", "attention", "dtype", "isa", "attention_isa")
    parts = [str(row[key]) for key in keys if key in row]
    parts += ["recompute"] * row.get("recompute", False)
    return "Sepia " + " ".join(parts)


def compare_attention(args):
    shared = flags(args, ["seq", "heads", "head-dim", "window", "density", "dtype", "threads"])
    late = ["--no-warm-up"] if args.no_warm_up else []
    programs = [paced.script(f"SDPA {mask}", "torch_attention.py", ["--mask", mask, *shared, *late])
                for mask in args.masks]
    programs.append(paced.sepia("Sepia", ["attention", *shared, "--kind", args.kinds,
                                          "--repeats", str(args.rounds),
                                          *(["--isa", args.isa] if args.isa else [])], args.sepia))
    rows = run(programs, args, "attention")
    print(report.heading(args.threads, torch=rows[0][2]["torch"]))
    print(f"attention forward and backward, T={args.seq}, {args.heads} x {args.head_dim}, "
          f"{args.dtype}, n={args.window}, density {args.density}, {args.rounds} rounds\n")
    print_times(rows)


def compare_step(args):
    shared = flags(args, ["model", "seq", "micro", "window", "density", "dtype", "threads"])
    programs = [paced.script(f"HF {name}", "torch_step.py", [*shared, *hf_arguments(name)])
                for name in args.hf]
    # One process each, for the memory's sake.
    for attention in words(args.attention):
        programs.append(paced.sepia("Sepia", [
            "step", *shared, *sepia_arguments(attention), "--steps", str(args.rounds)], args.sepia))
    rows = run(programs, args, "step")
    versions = {key: rows[0][2][key] for key in ("torch", "transformers") if key in rows[0][2]}
    print(report.heading(args.threads, **versions))
    print(f"step of {args.model}, T={args.seq}, micro-batch {args.micro}, {args.dtype}, "
          f"n={args.window}, density {args.density}, {args.rounds} rounds\n")
    print_times(rows, ["memory for training", "memory in all"],
                lambda row: (report.gib(row["measured_growth_bytes"]),
                             report.gib(row["peak_rss_bytes"])))


def compare_tokenizer(args):
    text = flags(args, ["tokenizer", "text"])
    programs = [paced.script(f"tokenizers {n}", "hf_tokenizer.py", [*text, "--threads", str(n)])
                for n in range(1, args.threads + 1)]
    counts = ",".join(str(n) for n in range(1, args.threads + 1))
    programs.append(paced.sepia("Sepia", ["tokenizer", *text, "--threads", counts,
                                          "--repeats", str(args.rounds)], args.sepia))
    rows = run(programs, args, "tokenizer")
    print(report.heading(args.threads, tokenizers=rows[0][2]["tokenizers"]))
    print(f"{args.text.name}, {rows[0][2]['bytes'] / 1e6:.1f} MB, {args.rounds} rounds\n")
    print_times(rows, ["threads", "MB/s", "tokens"],
                lambda row: (row["threads"],
                             f"{row['bytes'] / 1e6 / report.median(row_seconds(rows, row)):.1f}",
                             row["tokens"]))


def row_seconds(rows, row):
    return next(seconds for _, seconds, other in rows if other is row)


if __name__ == "__main__":
    arguments = parse_args()
    sys.exit(arguments.run(arguments))
