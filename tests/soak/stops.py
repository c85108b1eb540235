#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Stops of `diffuse train` in real time, and starts that race: one summary line for a kind, exit 1 if anything failed.

  stops.py DIFFUSE sigterm COUNT   SIGTERM at random moments of one run that is started again and again: each exits 75,
                                   no step that was made is lost, and the end is that of a run that was never stopped
  stops.py DIFFUSE race COUNT      pairs of starts on one --run-dir: one wins, the other exits 4 and names pid and host
  stops.py DIFFUSE numbered COUNT  pairs of starts without --run-dir: each gets a folder of its own
  stops.py DIFFUSE terminal COUNT  a terminal is closed under a training, with its bar: it saves and goes on
  stops.py DIFFUSE deadline COUNT  from SIGTERM to the exit at 35.7 million parameters, with a checkpoint that verifies
"""
import argparse
import json
import os
import pathlib
import pty
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
STOPPED, IN_USE = 75, 4

# A network of a few hundred numbers, learnt from points: what takes time is the start of the program.
TINY = ["mlp.hidden=8", "mlp.layers=1", "diffusion.steps=20", "train.batch=4", "train.micro_batch=1",
        "log.every_steps=1", "log.tensorboard=false", "log.plots=false", "checkpoint.every_steps=1000000",
        "sample.every_steps=0", "sample.steps=5", "optim.decay=constant"]


class Failed(Exception):
    pass


def expect(condition, message):
    if not condition:
        raise Failed(message)


reading = threading.Event()


def read_all(terminal_side):
    """Until `reading` is cleared."""
    reading.set()
    while reading.is_set():
        if select.select([terminal_side], [], [], 0.05)[0]:
            os.read(terminal_side, 65536)


def launch(words):
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True, errors="replace")


class Trial:
    def __init__(self, program, folder):
        self.program, self.folder = program, folder

    def words(self, config, settings, more):
        out = [self.program, "train", str(ROOT / "configs" / config), "--threads", "1", *more]
        for setting in settings:
            out += ["--set", setting]
        return out

    def start(self, run, steps, more=()):
        return launch(self.words("moons-epsilon.yaml", [*TINY, f"train.steps={steps}"], ["--run-dir", str(run), *more]))


def finish(process):
    """Its exit code and what it said."""
    said = process.communicate(timeout=600)[1]
    return process.returncode, said


def checkpoints(run):
    """The steps that are saved, ascending."""
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def checkpoint(run, step):
    return run / "checkpoints" / f"step-{step:09d}"


def metric_lines(run):
    """metrics.jsonl without what a clock gives."""
    try:
        text = (run / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    lines = [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]
    for line in lines:
        for timed in ("time", "img_s", "data_wait"):
            line.pop(timed, None)
    return lines


def verify(program, path):
    """Every hash of a checkpoint."""
    done = subprocess.run([program, "verify", str(path)], capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"{path} does not verify: {done.stderr}")


def sigterm(trial, count, draw):
    run = trial.folder / "run"
    made = 0
    for number in range(count):
        process = trial.start(run, 10**9)
        # Any moment: while libraries are loaded, before the first step, in a step.
        time.sleep(draw.uniform(0.02, 1.0))
        process.send_signal(signal.SIGTERM)
        code, said = finish(process)
        # Before main() has run nobody can take a signal: it ends the program, which has not begun.
        unborn = code == -signal.SIGTERM and not said
        expect(code == STOPPED or unborn, f"SIGTERM {number}: exit {code}, not {STOPPED}: {said}")
        lines, saved = metric_lines(run), checkpoints(run)
        newest = saved[-1] if saved else 0
        logged = lines[-1]["step"] if lines else 0
        expect(logged == newest, f"SIGTERM {number}: step {logged} was made, and {newest} is saved")
        expect(newest >= made, f"SIGTERM {number}: the run went back from step {made} to {newest}")
        made = newest
    expect(made > 0, "no run came to its first step")
    verify(trial.program, checkpoint(run, made))
    last, straight = made + 3, trial.folder / "straight"
    for folder in (run, straight):
        code, said = finish(trial.start(folder, last))
        expect(code == 0, f"exit {code}: {said}")
    expect(metric_lines(run) == metric_lines(straight), "metrics differ from those of a run that was never stopped")
    for file in sorted(checkpoint(straight, last).iterdir()):
        same = file.read_bytes() == (checkpoint(run, last) / file.name).read_bytes()
        # Both hold config.yaml with their own number of steps, of which only the last is left here.
        expect(same, f"{file.name} differs from that of a run that was never stopped")
    return f"{count} SIGTERMs in {last} steps, 0 steps lost, 0 bytes differ"


def race(trial, count, _):
    host = socket.gethostname()
    for number in range(count):
        run = trial.folder / f"race-{number}"
        pair = [trial.start(run, 10**9) for _ in range(2)]
        # Whoever ends first has lost; the other trains for ever.
        deadline = time.monotonic() + 60
        while all(p.poll() is None for p in pair):
            expect(time.monotonic() < deadline, f"pair {number}: both run")
            time.sleep(0.002)
        loser = pair[0] if pair[0].poll() is not None else pair[1]
        winner = pair[1] if loser is pair[0] else pair[0]
        code, said = finish(loser)
        running = winner.poll() is None
        winner.kill()
        finish(winner)
        expect(running, f"pair {number}: none won")
        expect(code == IN_USE, f"pair {number}: the loser's exit is {code}, not {IN_USE}: {said}")
        expect(f"pid {winner.pid} on {host}" in said, f"pair {number}: {winner.pid} on {host} is not named: {said}")
        # Killed with -9 it holds nothing any more.
        code, said = finish(trial.start(run, max(checkpoints(run), default=0) + 1)) if number < 3 else (0, "")
        expect(code == 0, f"pair {number}: after kill -9 exit {code}: {said}")
        shutil.rmtree(run)
    return f"{count} racing pairs, one winner each"


def numbered(trial, count, _):
    root = trial.folder / "numbered"
    for number in range(count):
        words = trial.words("moons-epsilon.yaml", [*TINY, "train.steps=1"], ["--root", str(root), "--name", "r"])
        pair = [launch(words) for _ in range(2)]
        for process in pair:
            code, said = finish(process)
            expect(code == 0, f"pair {number}: exit {code}: {said}")
    names = sorted(path.name for path in root.iterdir())
    expect(names == [f"r-{i:03d}" for i in range(1, 2 * count + 1)], f"folders: {names}")
    for path in root.iterdir():
        expect(checkpoints(path) == [1], f"{path} has checkpoints {checkpoints(path)}")
    return f"{count} pairs of numbered runs, {2 * count} folders"


def wait_until(condition, message):
    give_up = time.monotonic() + 60
    while not condition():
        expect(time.monotonic() < give_up, message)
        time.sleep(0.01)


def terminal(trial, count, draw):
    for number in range(count):
        run = trial.folder / f"terminal-{number}"
        words = trial.words("moons-epsilon.yaml", [*TINY, "train.steps=1000000000"],
                            ["--run-dir", str(run), "--progress", "bar"])
        child, master = pty.fork()
        if child == 0:
            os.execv(words[0], words)
        # What is not read would stop it once the terminal's buffer is full.
        reader = threading.Thread(target=read_all, args=(master,))
        reader.start()
        wait_until(lambda: metric_lines(run), f"terminal {number}: no first step")
        time.sleep(draw.uniform(0, 0.2))
        reading.clear()
        reader.join()
        os.close(master)
        wait_until(lambda: checkpoints(run), f"terminal {number}: SIGHUP did not save")
        lines = len(metric_lines(run))
        wait_until(lambda: len(metric_lines(run)) > lines, f"terminal {number}: it does not go on")
        os.kill(child, signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        expect(code == STOPPED, f"terminal {number}: exit {code}, not {STOPPED}")
        expect(metric_lines(run)[-1]["step"] == checkpoints(run)[-1], f"terminal {number}: a step is lost")
    return f"{count} trainings outlived their terminal"


def deadline(trial, count, draw, most):
    run = trial.folder / "large"
    # The DDPM network for CIFAR-10 as it is shipped, batch and all; its pictures are the digits, enlarged.
    settings = [f"data.path={ROOT / 'data' / 'digits'}", "data.channels=3", "data.size=32", "train.steps=1000000",
                "checkpoint.every_steps=1000000", "sample.every_steps=0", "log.every_steps=1"]
    took = []
    for number in range(count):
        words = trial.words("cifar10-ddpm.yaml", settings, ["--run-dir", str(run)])
        words[words.index("--threads") + 1] = str(os.cpu_count() or 1)
        process = launch(words)
        before = len(metric_lines(run))
        give_up = time.monotonic() + 900
        while len(metric_lines(run)) <= before and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.1)
        time.sleep(draw.uniform(0, 5))
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code, said = finish(process)
        took.append(time.monotonic() - asked)
        expect(code == STOPPED, f"exit {code}: {said}")
        newest = checkpoints(run)[-1]
        expect(metric_lines(run)[-1]["step"] == newest, "a step is lost")
        verify(trial.program, checkpoint(run, newest))
        expect(took[-1] <= most, f"{took[-1]:.1f} s from SIGTERM to the exit (is the machine busy?)")
    size = sum(path.stat().st_size for path in checkpoint(run, newest).iterdir()) / 1e6
    took.sort()
    middle = took[len(took) // 2]
    return f"{count} SIGTERMs, {size:.0f} MB a checkpoint: {middle:.1f} s in the middle, {took[-1]:.1f} s at most"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("kind", choices=["sigterm", "race", "numbered", "terminal", "deadline"])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--most", type=float, default=10, help="deadline: seconds that a stop may take [10]")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(2**32)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(options.program, pathlib.Path(folder))
        start = time.monotonic()
        try:
            more = [options.most] if options.kind == "deadline" else []
            line = globals()[options.kind](trial, options.count, random.Random(seed), *more)
        except Failed as failure:
            print(f"{options.kind}: {failure} (--seed {seed})", file=sys.stderr)
            return 1
    print(f"{options.kind}: {line} ({time.monotonic() - start:.0f} s, seed {seed})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
