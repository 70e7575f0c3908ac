"""Running commands by turns, timing them, and the lines of the table."""

import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
WORK = TARGET / "bench"
TOOL = TARGET / "release" / "plywood"
IN_GUEST = "PLYWOOD_IN_GUEST" in os.environ
# The guest is new each time, and so is its disk.
SCRATCH = Path("/srv/plywood-test/bench") if IN_GUEST else WORK / "scratch"
DISK = WORK / "disk"
DISK_BYTES = 64 << 30
MIB = 1 << 20
MACHINE = f"{os.cpu_count()} processors, ext4 on a loop device"


def say(text):
    print(text, file=sys.stderr, flush=True)


def quietly(words, **options):
    """Runs a command that is not timed."""
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **options)


def said(words):
    """What an untimed command prints."""
    return subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout.strip()


def plywood(root, *words, driver="overlay"):
    return [str(TOOL), "--root", str(root), "--driver", driver, "-q", *map(str, words)]


def shell(script):
    return ["sh", "-ec", script]


def remove(*paths):
    for path in paths:
        quietly(["rm", "-rf", "--one-file-system", str(path)])


def clean():
    """Takes away what this or an earlier run made; the inputs stay."""
    if os.path.ismount(SCRATCH):
        quietly(["umount", "-R", str(SCRATCH)])
    remove(SCRATCH, DISK)


def make_disk():
    """A new file system at SCRATCH, with nothing left to be initialised in the background."""
    SCRATCH.mkdir()
    with DISK.open("w") as file:
        file.truncate(DISK_BYTES)
    quietly(["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-N", "8000000", str(DISK)])
    loop = subprocess.run(["losetup", "--find", "--show", "--direct-io=on", str(DISK)],
                          check=True, capture_output=True, text=True).stdout.strip()
    quietly(["mount", loop, str(SCRATCH)])
    # It lives as long as it is mounted.
    quietly(["losetup", "--detach", loop])


def place():
    """A path that nothing had before."""
    place.last += 1
    return SCRATCH / f"{place.last:03}"


place.last = 0


class Sampler(threading.Thread):
    """The most resident memory that a process and its descendants had at a time, in bytes."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.most, self.done = pid, 0, threading.Event()

    def run(self):
        while not self.done.wait(0.01):
            self.most = max(self.most, sum(map(self.resident, self.family())))

    def family(self):
        found, queue = [], [self.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                    queue.extend(map(int, children.split()))
            except OSError:
                continue
        return found

    @staticmethod
    def resident(pid):
        try:
            # Until it executes, a new process is a copy of this one.
            if os.readlink(f"/proc/{pid}/exe") == os.path.realpath(sys.executable):
                return 0
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0


def timed(words, sampled=not IN_GUEST):
    """Seconds, processor seconds and, where it is sampled, most memory in bytes of one command.

    Looking every 10 ms would cost more than what it looks at, where a system call takes microseconds.
    """
    quietly(["sync"])
    begin = time.monotonic()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    sampler = Sampler(process.pid)
    if sampled:
        sampler.start()
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    sampler.done.set()
    if sampled:
        sampler.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"bench: {' '.join(words)} failed with status {process.returncode}:\n{said.decode(errors='replace')}")
    # Not the kernel's ru_maxrss: it begins with what this process had when it forked.
    memory = sampler.most
    return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "memory": memory}


class Side:
    """One side of a case: its name in the table, and what prepares a run and gives the command to time.

    `once` is for what takes minutes: one run is enough to see by how much it is slower.
    """

    def __init__(self, name, prepare, once=False):
        self.name, self.prepare, self.once = name, prepare, once


class Case:
    """A plywood command beside its peers.

    `goals` has a peer's name and the largest ratio to it that is good enough, None where it only shows;
    `memory` is the most that plywood may have resident, in bytes.
    """

    def __init__(self, name, ours, peers, goals, setup=None, size=None, memory=None, cleanup=None):
        self.name, self.ours, self.peers, self.goals = name, ours, peers, goals
        self.setup, self.cleanup = setup or (lambda: None), cleanup or (lambda: None)
        self.size, self.memory = size, memory

    def run(self, runs):
        say(f"== {self.name}")
        try:
            self.setup()
            return self.measured(runs)
        finally:
            self.cleanup()

    def measured(self, runs):
        sides = [self.ours, *self.peers]
        results = {side.name: [] for side in sides}
        for number in range(runs):
            for side in sides:
                if side.once and number > 0:
                    continue
                result = timed(side.prepare())
                results[side.name].append(result)
                say(f"   {side.name}: {clock(result['seconds'])}, {clock(result['cpu'])} of processor, "
                    f"{result['memory'] / MIB:.0f} MiB ({number + 1} of {1 if side.once else runs})")
        if IN_GUEST and self.memory:
            self.sample(results[self.ours.name])
        return Row(self.name, self.ours.name, results, self.goals, self.size, self.memory)

    def sample(self, results):
        """In a run of its own, whose time does not count."""
        memory = timed(self.ours.prepare(), sampled=True)["memory"]
        say(f"   {self.ours.name}: {memory / MIB:.0f} MiB")
        for result in results:
            result["memory"] = memory


class Resident:
    """What stays in memory beside a container that waits, in bytes, beside a limit."""

    def __init__(self, name, limit, ours, setup):
        self.name, self.limit, self.ours, self.setup = name, limit, ours, setup

    def run(self, runs):
        say(f"== {self.name}")
        self.setup()
        results = []
        for number in range(runs):
            pid, end = self.ours.prepare()
            # What it does after the command has begun is done by then.
            time.sleep(0.5)
            results.append(Sampler.resident(pid))
            end()
            say(f"   {self.ours.name}: {results[-1] / MIB:.2f} MiB ({number + 1} of {runs})")
        return ResidentRow(self, results)


class ResidentRow:
    def __init__(self, case, results):
        self.name, self.limit, self.results = case.name, case.limit, results

    def lines(self):
        ours = statistics.median(self.results)
        ratio = ours / self.limit
        yield (f"| {self.name} | – | {ours / MIB:.2f} MiB | – | {self.limit / MIB:.0f} MiB "
               f"| {verdict(ratio, 1.0)} |")


class Row:
    """A case's results, as plain data: the guest sends its own as JSON."""

    def __init__(self, name, ours, results, goals, size, memory):
        self.name, self.ours, self.results = name, ours, results
        self.goals, self.size, self.memory = goals, size, memory

    def median(self, side, what="seconds"):
        return statistics.median(result[what] for result in self.results[side])

    def lines(self):
        ours, memory = self.median(self.ours), self.median(self.ours, "memory")
        spread = [result["seconds"] for result in self.results[self.ours]]
        head = f"{self.name} | {clock(ours)} ({clock(min(spread))}–{clock(max(spread))}) | "
        head += f"{memory / MIB:.0f} MiB" if memory else "–"
        if self.size:
            head += f" | {self.size / ours / 1e6:.0f} MB/s"
        else:
            head += " | –"
        for (peer, goal) in self.goals:
            theirs = self.median(peer)
            yield f"| {head} | {peer}: {clock(theirs)} | {verdict(ours / theirs, goal)} |"
            head = " | | | "
        if self.memory:
            yield f"| {head} | {self.memory / MIB:.0f} MiB resident | {verdict(memory / self.memory, 1.0)} |"


def clock(seconds):
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def verdict(ratio, goal):
    """The columns ratio, goal and whether it is met."""
    if goal is None:
        return f"{share(ratio)} | – | "
    return f"{share(ratio)} | ≤ {share(goal)} | {'met' if ratio <= goal else '**not met**'}"


def share(ratio):
    return f"{ratio:.2f}" if ratio >= 0.1 else f"1/{1 / ratio:.0f}"


class Growth:
    """How a figure grows with one thing: a label and seconds for each point, and a plot of them."""

    WIDTH = 40

    def __init__(self, name, points):
        self.name, self.points = name, points

    def lines(self):
        most = max(seconds for _, seconds in self.points)
        yield f"{self.name}:"
        for label, seconds in self.points:
            bar = "#" * max(1, round(self.WIDTH * seconds / most))
            yield f"  {label:>24} {clock(seconds):>9} {bar}"


def table(inputs, rows, runs):
    lines = [
        f"{inputs.described() if inputs else MACHINE}; medians of {runs} runs.",
        "",
        "| case | plywood | memory | rate | beside | ratio | goal | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.extend(row.lines())
    return "\n".join(lines)
