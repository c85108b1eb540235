#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Faults in a save: whatever fails, and whenever the power goes, a good checkpoint is left.

  syscalls  every system call of a save fails in turn (strace), or is the last one before a kill; writes are cut short
  power     a save's operations are recorded, and the disk is put together as a power loss at each of them could leave
            it: what was not synced dropped, kept, torn or reordered
  train     the same faults in `diffuse train` itself: `diffuse verify` finds a good checkpoint, and the run goes on to
            the bytes of one that nothing happened to
  resume    runs that are interrupted at random, half of it by kill -9, equal those that are not
            (`diffuse verify --resume`)

usage: faults.py syscalls|power|train|resume --build FOLDER [--cases N] [--seed N] [--jobs N]
Exits with 77 where strace cannot be used, unless CI=true.
"""
import argparse
import concurrent.futures
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ERRORS = ["ENOSPC", "EIO", "EDQUOT", "EROFS", "EINTR"]
# Memory, time and signals: a save does not hang on them.
NO_SITES = {"brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "futex", "access", "exit_group", "getpid",
            "gettid", "clock_gettime", "getrandom", "rt_sigaction", "rt_sigprocmask"}
# The fewest that a run must have had: fewer mean that a save was not traced, not that it is shorter.
FEWEST_FAULTS = 700
FEWEST_STATES, FEWEST_STATES_OF_A_RELEASE = 700, 5000
FEWEST_KILLS = 20
SKIPPED = 77
WRITE_FAILED = 9
RUN_FOLDER_FAILED = 4


def fail(message):
    sys.exit(f"faults.py: {message}")


def scratch():
    """Memory, where there is some: nothing here needs a real disk, and fsync is asked of the kernel either way."""
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(prefix="diffuse-faults-", dir=memory if os.access(memory, os.W_OK) else None)


def need_strace():
    why = None
    if shutil.which("strace") is None:
        why = "strace is not installed (scripts/setup --tests installs it)"
    elif subprocess.run(["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "true"], capture_output=True).returncode:
        why = "strace cannot trace here (a container without ptrace?)"
    if why is None:
        return
    if os.environ.get("CI") == "true":
        fail(why)
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def tracing(kills):
    """Options of strace: by seccomp-bpf the other calls cost nothing, but no signal is injected."""
    return ["-f"] if kills else ["-f", "--seccomp-bpf"]


@dataclass
class Call:
    name: str
    nth: int  # of this name in the process, from 1
    text: str  # arguments and result


def calls_of(trace):
    """The calls of a process from its strace."""
    counts, out = Counter(), []
    for line in trace.splitlines():
        match = re.match(r"(?:\d+ +)?(\w+)\((.*)$", line)
        if match:
            counts[match[1]] += 1
            out.append(Call(match[1], counts[match[1]], match[2]))
    return out


def between_marks(calls):
    at = [i for i, c in enumerate(calls) if c.name == "access" and "/save-" in c.text]
    if len(at) != 2:
        fail("the trace has no marks")
    return calls[at[0] + 1:at[1]]


@dataclass
class Scenario:
    """A save over a folder with one older checkpoint."""
    name: str
    step: int  # the older one is step 1
    verify: bool
    numbers: int = 300
    fresh: bool = False  # no run before
    damaged: bool = False  # this step is there already, and damaged

    def checkpoints(self, root):
        return root / "runs/a/checkpoints" if self.fresh else root / "checkpoints"

    def words(self, helper, root):
        return [helper, "save", str(self.checkpoints(root)), str(self.step), str(NEW_VALUE), str(self.numbers),
                str(int(self.verify)), str(int(self.fresh))]


OLD_VALUE, NEW_VALUE = 1, 2


def make_old(helper, scenario, root):
    root.mkdir()
    if not scenario.fresh:
        subprocess.run([helper, "save", str(root / "checkpoints"), "1", str(OLD_VALUE), str(scenario.numbers), "1",
                        "0"], check=True)
    if scenario.damaged:
        broken = root / f"checkpoints/step-{scenario.step:09}"
        shutil.copytree(root / "checkpoints/step-000000001", broken)
        (broken / "state.json").write_text("{}")


def copy(template, to):
    shutil.copytree(template, to, symlinks=True)


def check(helper, folders):
    """What a run would find in each folder, by save_helper check."""
    done = subprocess.run([helper, "check"], input="".join(f"{f}\n" for f in folders), capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or len(lines) != len(folders):
        fail(f"save_helper check ended with {done.returncode}: {done.stderr}")
    return lines


def problem_of(scenario, found, must_be_new, may_be_none=False):
    """What is wrong with what was found; None when nothing is."""
    if "error" in found:
        return found["error"]
    if found["step"] == -1:
        return ("no checkpoint is left" if not may_be_none else None if found["next"] else
                "the next save fails or leaves something behind")
    if (found["step"], found["value"]) != (scenario.step, NEW_VALUE):
        if must_be_new:
            return f"the new checkpoint was promised, but step {found['step']} with {found['value']} is there"
        if scenario.fresh or (found["step"], found["value"]) != (1, OLD_VALUE):
            return f"step {found['step']} holds {found['value']}"
    return None if found["next"] else "the next save fails or leaves something behind"


# ---- system calls ----


@dataclass
class Case:
    scenario: Scenario
    what: str
    strace: list = field(default_factory=list)
    environment: dict = field(default_factory=dict)
    killed: bool = False
    may_be_killed: bool = False


def syscall_cases(helper, short_write, scenario, template, root):
    """Every call of the save with every fault."""
    folder = root / f"sites-{scenario.name}"
    copy(template, folder)
    trace = root / f"trace-{scenario.name}"
    words = scenario.words(helper, folder)
    subprocess.run(["strace", "-f", "-o", str(trace), *words], check=True)
    calls = between_marks(calls_of(trace.read_text()))
    sites = [c for c in calls if c.name not in NO_SITES]
    out = []
    for c in sites:
        at = f"{c.name} {c.nth} ({c.text[:80]})"
        inject = lambda how: ["-e", f"trace={c.name}", "-e", f"inject={c.name}:{how}:when={c.nth}"]
        out.append(Case(scenario, f"killed at {at}", inject("signal=KILL"), killed=True))
        out += [Case(scenario, f"{e} at {at}", inject(f"error={e}")) for e in ERRORS]
    # Writes before the save go to no file, so these are counted from its first.
    writes = [c for c in sites if c.name == "write"]
    for i, c in enumerate(writes, 1):
        size = int(re.search(r", (\d+)\)", c.text)[1])
        for bytes_, then in itertools.product(sorted({0, 1, size // 2, size - 1}), ["on", "full"]):
            if bytes_ == 0 and then == "on":
                continue  # no file system writes nothing and says that all is well
            out.append(Case(scenario, f"{bytes_} of {size} bytes at write {i}, then {then}",
                            environment={"LD_PRELOAD": str(short_write), "SHORT_WRITE_AT": str(i),
                                         "SHORT_WRITE_BYTES": str(bytes_), "SHORT_WRITE_THEN": then}))
    return sites, out


def paired(cases, sites, count, rng):
    """More cases with a second fault after the first: in what a save does about it, or later."""
    out = []
    while len(out) < count:
        case = rng.choice(cases)
        if case.killed or not case.strace:
            continue
        site = rng.choice(sites[case.scenario.name])
        if site.name == case.strace[1].removeprefix("trace="):
            continue
        kill = rng.random() < 0.5
        how = "signal=KILL" if kill else f"error={rng.choice(ERRORS)}"
        out.append(Case(case.scenario, f"{case.what}, then {how} at {site.name} {site.nth}",
                        ["-e", f"{case.strace[1]},{site.name}", *case.strace[2:], "-e",
                         f"inject={site.name}:{how}:when={site.nth}"], may_be_killed=kill))
    return out


def run_case(helper, template, folder, case):
    copy(template, folder)
    words = case.scenario.words(helper, folder)
    if not case.strace:
        done = subprocess.run(words, env={**os.environ, **case.environment}, capture_output=True, text=True)
        return done.returncode, None
    log = folder / "strace"
    done = subprocess.run(["strace", *tracing(case.killed or case.may_be_killed), "-o", str(log), *case.strace, *words],
                          capture_output=True, text=True)
    text = log.read_text()
    hit = ("(INJECTED)" in text and not case.killed) or "killed by SIGKILL" in text
    return done.returncode, None if hit else "the fault was not injected"


def syscalls(options):
    helper, short_write = str(options.build / "save_helper"), options.build / "libshort_write.so"
    scenarios = [Scenario("new-step", 2, True), Scenario("same-step", 1, True), Scenario("unverified", 2, False)]
    if options.cases:
        scenarios += [Scenario("damaged", 2, True, damaged=True), Scenario("new-run", 1, True, fresh=True)]
    with scratch() as name:
        root = Path(name)
        templates, cases, sites, rng = {}, [], {}, random.Random(options.seed)
        for s in scenarios:
            templates[s.name] = root / s.name
            make_old(helper, s, templates[s.name])
            sites[s.name], more = syscall_cases(helper, short_write, s, templates[s.name], root)
            cases += more
        total = len(cases)
        if options.cases:
            cases = rng.sample(cases, min(total, options.cases)) + paired(cases, sites, options.cases - total, rng)
        bad, codes, new = [], Counter(), 0
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for part in range(0, len(cases), 200):
                batch = list(enumerate(cases[part:part + 200], part))

                def run(numbered):
                    i, case = numbered
                    return run_case(helper, templates[case.scenario.name], root / f"case-{i}", case)

                ended = list(pool.map(run, batch))
                found = check(helper, [case.scenario.checkpoints(root / f"case-{i}") for i, case in batch])
                for (i, case), (code, problem), left in zip(batch, ended, found):
                    codes[code] += 1
                    allowed = set() if case.killed else {0, WRITE_FAILED}
                    if case.scenario.fresh:
                        allowed |= {RUN_FOLDER_FAILED}
                    if case.killed or case.may_be_killed:
                        allowed |= {-signal.SIGKILL, 128 + signal.SIGKILL}
                    if problem is None and code not in allowed:
                        problem = f"exit code {code}"
                    problem = problem or problem_of(case.scenario, left, must_be_new=code == 0,
                                                    may_be_none=case.scenario.fresh and code != 0)
                    new += left["value"] == NEW_VALUE
                    if problem:
                        bad.append(f"{case.scenario.name}: {case.what}: {problem}")
                    shutil.rmtree(root / f"case-{i}")
    if sum(codes.values()) < max(FEWEST_FAULTS if not options.cases else 0, options.cases):
        bad.append(f"only {sum(codes.values())} faults")
    ended = ", ".join(f"{n} ended with {c}" for c, n in sorted(codes.items()))
    single, pairs = min(total, len(cases)), max(0, len(cases) - total)
    print(f"syscalls: {single} of {total} faults at {sum(map(len, sites.values()))} calls of {len(scenarios)} saves, "
          f"{pairs} pairs of faults, seed {options.seed}; {ended}; {new} left the new checkpoint, "
          f"{len(cases) - new - len(bad)} what was there before; {len(bad)} bad")
    return bad


# ---- power loss ----


class Disk:
    """What is on a disk: folders of names, files of bytes. Every change of it is an operation that may be dropped."""

    def __init__(self):
        self.folders = {0: {}}  # inode -> name -> inode
        self.files = {}  # inode -> bytearray
        self.links = {}  # inode -> target

    def clone(self):
        out = Disk()
        out.folders = {i: dict(n) for i, n in self.folders.items()}
        out.files = {i: bytearray(b) for i, b in self.files.items()}
        out.links = dict(self.links)
        return out

    def state(self, inode=0):
        """A value that is equal for equal contents."""
        if inode in self.folders:
            return tuple((n, self.state(i)) for n, i in sorted(self.folders[inode].items()))
        return ("link", self.links[inode]) if inode in self.links else bytes(self.files[inode])

    def store(self, path, inode=0):
        if inode in self.folders:
            os.mkdir(path)
            for name, child in self.folders[inode].items():
                self.store(f"{path}/{name}", child)
        elif inode in self.links:
            os.symlink(self.links[inode], path)
        else:
            with open(path, "wb") as out:
                out.write(self.files[inode])


@dataclass
class Entries:
    """Names that change together, as in a rename: (folder, name, inode or None)."""
    changes: list

    def apply(self, disk):
        for folder, name, inode in self.changes:
            if inode is None:
                disk.folders[folder].pop(name, None)
            else:
                disk.folders[folder][name] = inode

    def folder_inodes(self):
        return {folder for folder, _, _ in self.changes}


@dataclass
class Write:
    inode: int
    offset: int
    data: bytes

    def apply(self, disk, first=0, size=None):
        """All of it, or the `size` bytes from `first` on."""
        data = self.data if size is None else self.data[first:first + size]
        file = disk.files[self.inode]
        end = self.offset + first + len(data)
        file.extend(bytes(max(0, end - len(file))))
        file[self.offset + first:end] = data


@dataclass
class Sync:
    inode: int


def unescape(text):
    return bytes.fromhex(text.replace("\\x", ""))


def record(helper, scenario, run, trace):
    """The operations of a save on `run`, from a strace with all data, and the disk before it."""
    before, inodes = Disk(), {str(run): 0}
    new_inode = itertools.count(1)

    def load(disk, folder, inode, paths):
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            i = next(new_inode)
            paths[entry.path] = disk.folders[inode][entry.name] = i
            if entry.is_symlink():
                disk.links[i] = os.readlink(entry.path)
            elif entry.is_dir():
                disk.folders[i] = {}
                load(disk, entry.path, i, paths)
            else:
                disk.files[i] = bytearray(Path(entry.path).read_bytes())

    load(before, str(run), 0, inodes)
    names = ("open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync,syncfs,close,mkdir,mkdirat,"
             "rename,renameat,renameat2,unlink,unlinkat,rmdir,symlink,symlinkat,link,linkat,truncate,ftruncate,"
             "fallocate,copy_file_range,sendfile,sync_file_range,access")
    subprocess.run(["strace", "-f", "-xx", "-s", "10000000", "-o", str(trace), "-e", f"trace={names}",
                    *scenario.words(helper, run)], check=True)
    operations, open_files, now = [], {}, before.clone()

    def place(path):
        """Inode of the folder, and the name in it."""
        parent, name = os.path.split(path)
        return inodes[parent], name

    def entries(*changes):
        operation = Entries(list(changes))
        operation.apply(now)
        operations.append(operation)

    def moved(old, new):
        """Paths below a folder that was renamed."""
        for path in [p for p in inodes if p == old or p.startswith(old + "/")]:
            inodes[new + path[len(old):]] = inodes.pop(path)

    def path_of(fd, text):
        text = os.fsdecode(unescape(text))
        if text.startswith("/"):
            return text
        return os.path.join(open_files[int(fd)][2], text) if fd != "AT_FDCWD" else os.path.abspath(text)

    string = r'"((?:\\x[0-9a-f]{2})*)"'
    marks = 0
    for line in trace.read_text().splitlines():
        match = re.match(r"(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)", line)
        if not match:
            continue
        call, text, result = match[1], match[2], int(match[3])
        if call == "access":
            marks += unescape(re.match(string, text)[1]).startswith(b"/save-")
            continue
        if marks != 1 or result < 0:
            continue
        if call == "openat":
            fd, name, flags = re.match(rf"(\w+), {string}, ([\w|]+)", text).groups()
            path = path_of(fd, name)
            if not path.startswith(str(run)):
                open_files[result] = None
                continue
            if path not in inodes:
                i = next(new_inode)
                now.files[i] = bytearray()
                before.files[i] = bytearray()
                entries((*place(path), i))
                inodes[path] = i
            elif "O_TRUNC" in flags:
                fail("truncation is not modelled")
            open_files[result] = [inodes[path], 0, path]
        elif call in ("write", "pwrite64"):
            fd = int(re.match(r"(\d+)", text)[1])
            # What the lock says while it is held is for people, and it is empty afterwards.
            if open_files.get(fd) and not open_files[fd][2].endswith("run.lock"):
                data = unescape(re.search(string, text)[1])[:result]
                inode, offset, _ = open_files[fd]
                operations.append(Write(inode, offset if call == "write" else int(text.split(", ")[-1]), data))
                if call == "write":
                    open_files[fd][1] += len(data)
        elif call == "ftruncate" and text.endswith(", 0"):
            if not open_files[int(text.split(",")[0])][2].endswith("run.lock"):
                fail("truncation is not modelled")
        elif call in ("fsync", "fdatasync"):
            if open_files.get(int(text)):  # else of a folder above the run
                operations.append(Sync(open_files[int(text)][0]))
        elif call == "close":
            open_files.pop(int(text), None)
        elif call == "mkdir":
            path = path_of("AT_FDCWD", re.match(string, text)[1])
            i = next(new_inode)
            now.folders[i], before.folders[i] = {}, {}
            entries((*place(path), i))
            inodes[path] = i
        elif call == "symlink":
            target, path = re.match(rf"{string}, {string}", text).groups()
            i = next(new_inode)
            now.links[i] = before.links[i] = os.fsdecode(unescape(target))
            path = path_of("AT_FDCWD", path)
            entries((*place(path), i))
            inodes[path] = i
        elif call in ("rename", "renameat2"):
            a, b = (path_of("AT_FDCWD", p) for p in re.findall(string, text))
            ia, ib = inodes[a], inodes.get(b)
            if "RENAME_EXCHANGE" in text:
                entries((*place(a), ib), (*place(b), ia))
                moved(a, a + "\0")
                moved(b, a)
                moved(a + "\0", b)
            else:
                entries((*place(a), None), (*place(b), ia))
                inodes.pop(b, None)
                moved(a, b)
        elif call in ("unlink", "unlinkat", "rmdir"):
            groups = re.match(rf"(?:(\w+), )?{string}", text).groups()
            path = path_of(groups[0] or "AT_FDCWD", groups[1])
            entries((*place(path), None))
            inodes.pop(path)
        else:
            fail(f"{call} is not modelled")
    for operation in operations:
        if isinstance(operation, Write):
            operation.apply(now)
    left = Disk()
    load(left, str(run), 0, {})
    if left.state() != now.state():
        fail("the recorded operations do not give what the save left")
    return before, operations


def crash_states(before, operations, rng, random_states):
    """(operations done, what of the pending ones is kept, disk) of every state that is tried."""
    for done in range(len(operations) + 1):
        # What a sync that has returned covers is on the disk; the rest is pending.
        kept = set()
        for i, operation in enumerate(operations[:done]):
            if isinstance(operation, Sync):
                kept |= {j for j, o in enumerate(operations[:i])
                         if (isinstance(o, Write) and o.inode == operation.inode) or
                         (isinstance(o, Entries) and operation.inode in o.folder_inodes())}
        pending = [i for i, o in enumerate(operations[:done]) if i not in kept and not isinstance(o, Sync)]

        def build(also, torn=None, part=None):
            disk = before.clone()
            for i in sorted(kept | set(also)):
                if i == torn:
                    operations[i].apply(disk, *part)
                else:
                    operations[i].apply(disk)
            return disk

        yield done, "nothing", build([])
        yield done, "all", build(pending)
        for i in pending:
            yield done, f"only {i}", build([i])
            yield done, f"all but {i}", build([j for j in pending if j != i])
            operation = operations[i]
            if not isinstance(operation, Write):
                continue
            size = len(operation.data)
            for unit in (512, 4096):
                for first in range(0, size, unit):
                    # Its beginning reached the disk, or one sector or page of it and zeros before.
                    for part in {(0, first), (first, unit)}:
                        for others in ([], pending):
                            yield done, f"{part} of {i} and {len(others)} more", build({*others, i}, i, part)
        for _ in range(random_states if pending else 0):
            some = [i for i in pending if rng.random() < 0.5]
            yield done, f"{some}", build(some)


def power(options):
    helper = str(options.build / "save_helper")
    rng = random.Random(options.seed)
    numbers = 20000 if options.cases else 5000  # the more, the more ways to tear a write
    scenarios = [Scenario("new-step", 2, True, numbers), Scenario("same-step", 1, True, numbers),
                 Scenario("new-run", 1, True, numbers, fresh=True)]
    bad, tried, distinct, left_new, recorded = [], 0, 0, 0, 0
    with scratch() as name:
        root = Path(name)
        for scenario in scenarios:
            run = root / scenario.name
            make_old(helper, scenario, run)
            before, operations = record(helper, scenario, run, root / "trace")
            recorded += len(operations)
            seen, batch = set(), []

            def flush():
                nonlocal left_new
                found = check(helper, [scenario.checkpoints(root / f"state-{i}") for i in range(len(batch))])
                for i, ((done, kept), left) in enumerate(zip(batch, found)):
                    over = done == len(operations)
                    problem = problem_of(scenario, left, must_be_new=over, may_be_none=scenario.fresh and not over)
                    left_new += left["value"] == NEW_VALUE
                    if problem:
                        bad.append(f"{scenario.name}: after {done} of {len(operations)} operations, kept {kept}: "
                                   f"{problem}")
                    shutil.rmtree(root / f"state-{i}")
                batch.clear()

            for done, kept, disk in crash_states(before, operations, rng, options.cases):
                tried += 1
                # At the end more is asked of the same state.
                key = (disk.state(), done == len(operations))
                if key in seen:
                    continue
                seen.add(key)
                disk.store(f"{root}/state-{len(batch)}")
                batch.append((done, kept))
                if len(batch) == 500:
                    flush()
            flush()
            distinct += len(seen)
    more = FEWEST_STATES_OF_A_RELEASE - FEWEST_STATES
    fewest = FEWEST_STATES + more * min(options.cases, 100) // 100
    if distinct < fewest:
        bad.append(f"only {distinct} crash states, not {fewest}")
    print(f"power: {distinct} distinct of {tried} crash states of {recorded} operations of {len(scenarios)} saves, "
          f"seed {options.seed}; {left_new} left the new checkpoint, {distinct - left_new - len(bad)} the older one or "
          f"none yet; {len(bad)} bad")
    return bad


# ---- diffuse train ----


TRAIN_CALLS = ["fsync", "rename", "mkdir", "symlink", "fadvise64", "unlinkat", "write", "openat", "close", "newfstatat"]


def train(options):
    diffuse = str(options.build / "diffuse")
    rng = random.Random(options.seed)
    source = Path(__file__).resolve().parents[2]

    def words(run, steps):
        sets = ["data.points=moons", "mlp.hidden=16", "mlp.layers=1", "train.batch=16", f"train.steps={steps}",
                "checkpoint.every_steps=1", "checkpoint.keep_last=1", "sample.every_steps=0", "log.every_steps=1",
                "optim.decay=constant"]
        return [diffuse, "train", str(source / "configs/moons-epsilon.yaml"), "--threads", "1", "--run-dir", str(run),
                "--log-level", "error", *itertools.chain(*(["--set", s] for s in sets))]

    def quiet(command):
        return subprocess.run(command, capture_output=True, text=True)

    def hashes(run, step):
        return json.loads((run / f"checkpoints/step-{step:09}/MANIFEST.json").read_text())["xxh3_128"]

    bad, codes, injected = [], Counter(), 0
    with scratch() as name:
        root = Path(name)
        old, straight = root / "old", root / "straight"
        for run, steps in ((old, 1), (straight, 3)):
            done = quiet(words(run, steps))
            if done.returncode:
                fail(f"diffuse train ended with {done.returncode}: {done.stderr}")
        # How often each call is made from the first that is a save's (mkdir of its folder) to the end.
        copy(old, root / "sites")
        trace = root / "trace"
        quiet(["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fdatasync," + ",".join(TRAIN_CALLS),
               *words(root / "sites", 3)])
        pid = trace.read_text().split()[0]
        calls = calls_of("\n".join(line for line in trace.read_text().splitlines() if line.split()[0] == pid))
        first = next(i for i, c in enumerate(calls) if c.name == "mkdir" and ".tmp-step-" in c.text)
        sites = [c for c in calls[first:] if c.name in TRAIN_CALLS]
        # An earlier start may have made the folders and been killed before it synced them.
        for folder in (root / "sites", root):
            if not any(c.name == "fsync" and f"<{folder}>" in c.text for c in calls[:first]):
                bad.append(f"a run that goes on does not sync {folder} before it saves")
        # A checkpoint that is there has its lines of metrics.
        synced = True
        for c in calls:
            if "/metrics.jsonl>" in c.text:
                synced = c.name == "fdatasync" or (synced and c.name != "write")
            elif c.name == "rename" and "/.tmp-step-" in c.text and not synced:
                bad.append("a checkpoint got its name before its lines of metrics were synced")
        # Each kind of call as often as any other, though there are many more of some.
        kinds = sorted({c.name for c in sites})
        cases = []
        for i in range(options.cases or 12):
            c = rng.choice([s for s in sites if s.name == kinds[i % len(kinds)]])
            cases.append((c, rng.choice(["signal=KILL", *(f"error={e}" for e in ERRORS)])))

        def one(numbered):
            i, (call, how) = numbered
            run = root / f"run-{i}"
            copy(old, run)
            log = root / f"log-{i}"
            ended = quiet(["strace", *tracing(how == "signal=KILL"), "-o", str(log), "-e", f"trace={call.name}", "-e",
                           f"inject={call.name}:{how}:when={call.nth}", *words(run, 3)])
            text = log.read_text()
            hit = "(INJECTED)" in text or "killed by SIGKILL" in text
            what, problem = f"{how} at {call.name} {call.nth}", None
            verified = quiet([diffuse, "verify", str(run)])
            again = quiet(words(run, 3))
            if ended.returncode not in (0, 4, 9, -signal.SIGKILL, 128 + signal.SIGKILL):
                problem = f"exit code {ended.returncode}: {ended.stderr}"
            elif verified.returncode:
                problem = f"verify: {verified.stdout}{verified.stderr}"
            elif ended.returncode == 0 and "step-000000003" not in verified.stdout:
                problem = f"exit 0 without the last checkpoint: {verified.stdout}"
            elif again.returncode:
                problem = f"going on ended with {again.returncode}: {again.stderr}"
            elif hashes(run, 3) != hashes(straight, 3):
                problem = "the run that went on is another"
            shutil.rmtree(run)
            return ended.returncode, hit, problem and f"{what}: {problem}"

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for code, hit, problem in pool.map(one, enumerate(cases)):
                codes[code] += 1
                injected += hit
                if problem:
                    bad.append(problem)
        if injected < len(cases) * 0.8:
            bad.append(f"only {injected} of {len(cases)} faults were injected")
    ended = ", ".join(f"{n} ended with {c}" for c, n in sorted(codes.items()))
    print(f"train: {len(cases)} faults in diffuse train, {injected} of them reached, seed {options.seed}; {ended}; "
          f"{len(bad)} bad")
    return bad


# ---- resume ----


def resume(options):
    """`diffuse verify --resume` of every time sampler, pictures (bad ones among them) and points."""
    diffuse = str(options.build / "diffuse")
    source = Path(__file__).resolve().parents[2]
    digits = ["model.base_channels=8", "model.norm_groups=4", "model.blocks_per_level=1", "model.dropout=0.1",
              "data.flip=true", "train.batch=8"]
    points = ["mlp.hidden=16", "mlp.layers=2", "train.batch=32"]
    edm = [*points, "diffusion.schedule=edm", "diffusion.target=edm"]
    with scratch() as name:
        pictures = Path(name) / "pictures"
        shutil.copytree(source / "data/digits/3", pictures)
        for picture in sorted(pictures.iterdir())[::7]:
            picture.write_bytes(picture.read_bytes()[:60])
        bad_pictures = [f"data.path={pictures}", "data.labels=none", "data.cache=none",
                        "data.max_bad_fraction=0.5"]
        arms = [("digits", [*digits, "diffusion.time_sampler=importance"]),
                ("digits", [*digits, *bad_pictures, "data.workers=3"]),
                ("digits", [*digits, "train.micro_batch=3", "data.workers=8", "optim.decay=cosine"]),
                ("moons-epsilon", points),
                ("moons-x0", [*points, "diffusion.time_sampler=stratified"]),
                ("moons-epsilon", [*edm, "diffusion.time_sampler=lognormal"]),
                ("moons-epsilon", [*edm, "diffusion.time_sampler=log_logistic"]),
                ("moons-epsilon", [*points, "diffusion.schedule=flow", "diffusion.target=flow",
                                   "diffusion.time_sampler=logit_normal"]),
                ("moons-epsilon", [*points, "diffusion.time_sampler=importance", "train.micro_batch=7"])]
        bad, counts, runs, wanted, losses = [], Counter(), 0, options.cases or 50, 0
        while counts["killed"] + counts["signalled"] < wanted and losses < 3:
            config, sets = arms[runs % len(arms)]
            command = [diffuse, "verify", "--resume", str(source / f"configs/{config}.yaml"), "--json", "--threads",
                       "1", "--interruptions", "7", "--seed", str(options.seed + runs), "--log-level", "error",
                       *itertools.chain(*(["--set", s] for s in sets))]
            done = subprocess.run(command, capture_output=True, text=True)
            runs += 1
            if done.returncode == 0:
                report = json.loads(done.stdout)
                for key in ("killed", "signalled", "bytes", "metric_lines", "checkpoints"):
                    counts[key] += report[key]
                losses = 0 if report["killed"] + report["signalled"] else losses + 1
            else:
                bad.append(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
                losses += 1
    if not bad and counts["killed"] + counts["signalled"] < wanted:
        bad.append("runs end before they are interrupted")
    if not bad and counts["killed"] < min(FEWEST_KILLS, wanted // 4):
        bad.append(f"only {counts['killed']} of the interruptions are kills")
    print(f"resume: {counts['killed']} interruptions by kill -9 and {counts['signalled']} by other signals in {runs} "
          f"runs, seeds {options.seed} to {options.seed + runs - 1}; {counts['bytes']} bytes of "
          f"{counts['checkpoints']} checkpoints and {counts['metric_lines']} lines of metrics compared; {len(bad)} bad")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["syscalls", "power", "train", "resume"])
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=0,
                        help="syscalls: so many, drawn at random, and above all with second faults (0: all); power: "
                        "more states at each operation, of random subsets; train: faults (0: 12); resume: "
                        "interruptions (0: 50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.build = options.build.resolve()
    if options.what != "resume":
        need_strace()
    bad = {"syscalls": syscalls, "power": power, "train": train, "resume": resume}[options.what](options)
    for line in bad[:20]:
        print(f"BAD {line}")
    if len(bad) > 20:
        print(f"and {len(bad) - 20} more")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
