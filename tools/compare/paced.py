"""Programs that measure once a line: how the two sides of a comparison alternate.

A paced program warms up, prints {"ready": variants}, answers every line on stdin with
{"seconds": [...]}, one number a variant, and at the end of stdin prints one JSON report a variant.
`sepia bench ... --paced` is one; serve() makes one of a Python script, which waits for a first line
after its slow imports, so that only one program at a time warms up.
"""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def wait_for_turn():
    sys.stdin.readline()


def serve(measure, reports):
    """Answers lines: measure() gives a list of seconds, reports() a list of dicts."""
    def say(value):
        print(json.dumps(value), flush=True)
    say({"ready": len(reports())})
    for _ in sys.stdin:
        say({"seconds": measure()})
    for report in reports():
        say(report)


class Paced:
    """The other end: starts the program, asks for rounds, collects its reports."""

    def __init__(self, name, command, waits_for_turn):
        self.name = name
        self.command = [str(word) for word in command]
        self.waits_for_turn = waits_for_turn
        self.seconds = []
        self.process = self._launch() if waits_for_turn else None

    def _launch(self):
        return subprocess.Popen(self.command, text=True, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)

    def warm_up(self):
        if self.waits_for_turn:
            self._ask()
        else:
            self.process = self._launch()
        self.seconds = [[] for _ in range(self._read()["ready"])]

    def _ask(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended early with {self.process.wait()}")
        return json.loads(line)

    def round(self):
        self._ask()
        for seconds, values in zip(self._read()["seconds"], self.seconds):
            values.append(seconds)

    def finish(self):
        self.process.stdin.close()
        reports = [self._read() for _ in self.seconds]
        self.process.wait()
        return reports


def alternate(programs, rounds):
    """Runs `rounds` rounds of every program in turn and returns the reports of each.

    Nothing is timed before all of them are warm.
    """
    for program in programs:
        program.warm_up()
    for _ in range(rounds):
        for program in programs:
            program.round()
    return [program.finish() for program in programs]


def sepia(name, arguments, binary):
    return Paced(name, [binary, "bench", *arguments, "--paced"], waits_for_turn=False)


def script(name, file, arguments):
    return Paced(name, [sys.executable, pathlib.Path(__file__).parent / file, *arguments],
                 waits_for_turn=True)
