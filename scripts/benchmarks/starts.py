"""Containers that begin and end."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .measure import MIB, Case, Resident, Side, place, plywood, quietly, shell


def starts():
    """`true` in a container, started and cleared away, beside what does the same by hand and beside runc."""
    tree, bundle, root = place(), place(), place()
    command = ["run", "--rm", "small", "true"]

    def prepare():
        if tree.exists():
            return
        (tree / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", tree / "bin")
        (tree / "bin" / "true").symlink_to("busybox")
        tar = place()
        quietly(["tar", "-cf", str(tar), "-C", str(tree), "."])
        quietly(plywood(root, "import", tar, "small"))
        bundle.mkdir()
        quietly(["runc", "spec", "-b", str(bundle)])
        spec = json.loads((bundle / "config.json").read_text())
        spec["process"].update(terminal=False, args=["true"])
        spec["root"] = {"path": str(tree), "readonly": False}
        (bundle / "config.json").write_text(json.dumps(spec))

    def times(count, words, before=""):
        """One after the other; in a network namespace, for what a bridge changes is not this machine's."""
        return lambda: ["unshare", "--net", *shell(f"{before} for n in $(seq {count}); do {words}\n done")]

    def ours(network):
        return " ".join(plywood(root, *command[:2], "--net", network, *command[2:]))

    by_hand = Side("unshare, chroot", times(20, f"unshare -muinpfC chroot {tree} /bin/true"))
    runc = Side("runc", times(20, f"runc run -b {bundle} bench-$n </dev/null"))
    yield Case("20 starts without a network", Side("plywood", times(20, ours("none"))), [by_hand, runc],
               [("unshare, chroot", 2.0), ("runc", 1.0)], setup=prepare)
    yield Case("20 starts on the bridge", Side("plywood", times(20, ours("bridge"), "ip link set lo up;")), [runc],
               [("runc", 1.0)], setup=prepare)

    waits = ["busybox", "sleep", "600"]

    def monitored():
        """The monitor of a container that waits, and what ends it."""
        words = plywood(root, "run", "-d", "--rm", "--net", "none", "small", *waits)
        name = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        pid = parent_of(waits)

        def end():
            quietly(plywood(root, "kill", name))
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.01)
        return pid, end

    together = times(100, ours("none") + " &")
    yield Case("100 starts at a time", Side("plywood", lambda: [*together()[:-1], together()[-1] + "; wait"]),
               [Side("one", times(1, ours("none")))], [("one", 60.0)], setup=prepare)
    yield Resident("monitor of a container, once it starts", 3 * MIB, Side("plywood", monitored), setup=prepare)


def parent_of(words):
    """The parent of the one process that was called with these words."""
    called = "\0".join(words).encode() + b"\0"
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes() == called:
                return int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    sys.exit(f"bench: {' '.join(words)} does not run")
