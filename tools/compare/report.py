"""Medians and the markdown that docs and README quote."""

import datetime
import json
import pathlib
import platform
import statistics


def median(values):
    return statistics.median(values)


def paired_ratio(theirs, ours):
    """Median of the ratios of neighbouring rounds: slow moments of the machine cancel out."""
    return median([a / b for a, b in zip(theirs, ours)])


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def heading(threads, **versions):
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{date}, {processor()}, {threads} threads, {named}"


def table(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def seconds(value):
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


def gib(num_bytes):
    return f"{num_bytes / 2**30:.2f} GiB"


def keep(path, rows):
    """Appends the raw numbers, a JSON object a line."""
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
