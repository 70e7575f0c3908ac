"""What needs device-mapper: thin volumes beside containerd's devmapper snapshotter, in the guest.

On the host, `run` boots it; inside, this file is the program, and prints a JSON line per result.
"""

import argparse
import functools
import itertools
import json
import subprocess
import sys
import tarfile

from .archives import MEMORY, ZSTD_WINDOW
from .inputs import GuestInputs, Inputs
from .measure import MIB, REPO, SCRATCH, TOOL, Case, Growth, Row, Side
from .measure import place, plywood, quietly, said, say, shell, timed
from .peers import Containerd, Pool

IMPORT = "guest: import of a Debian root, thin"
PACKED = "guest: import of a {} Debian root, thin"
COMMIT = "guest: commit of one changed file, Debian root"
LARGE_IMPORT = "guest: import of /usr, thin"
LARGE_COMMIT = "guest: commit of one changed file, /usr"
MANY_IMPORT = "guest: import of 100,000 small files, thin"
MANY_COMMIT = "guest: commit of one changed file, 100,000 small files"
GROWTH = "guest: how a commit's cost grows"
NAMES = [IMPORT, PACKED.format("gzip"), PACKED.format("zstd"), COMMIT, LARGE_IMPORT, LARGE_COMMIT,
         MANY_IMPORT, MANY_COMMIT, GROWTH]
VOLUME = 10 << 30


# On the host


def make_inputs():
    GuestInputs().make()


def run(runs, only, full):
    """Rows and growths, measured in one guest."""
    words = [str(REPO / "tests" / "guest" / "boot"), "--mem", "4G", "--disk-size", "100G", "--",
             "env", f"PYTHONPATH={REPO / 'scripts'}", f"CARGO_TARGET_DIR={TOOL.parent.parent}",
             sys.executable, "-B", "-m", "benchmarks.guest", "--runs", str(runs), "--only", only]
    if full:
        words.append("--full")
    rows, growths = [], []
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as guest:
        for line in guest.stdout:
            found = json.loads(line)
            if "points" in found:
                growths.append(Growth(**found))
            else:
                rows.append(Row(**found))
    if guest.returncode != 0:
        sys.exit(f"bench: the guest ended with status {guest.returncode}")
    return rows, growths


# In the guest


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int)
    parser.add_argument("--only")
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    # Looking a host's file up costs each time; touched, it is on the guest's own disk.
    quietly(shell(f"touch {TOOL} $(command -v containerd ctr tar)"))
    SCRATCH.mkdir()
    inputs = GuestInputs()
    sizes = [Image("debian", inputs.debian, inputs.debian_docker, "etc/debian_version", IMPORT, COMMIT, 1 / 100)]
    if options.full:
        sizes.append(Image("many", inputs.files[100000], inputs.files_docker, "tree/0000/00", MANY_IMPORT, MANY_COMMIT,
                           1 / 300, shell=("busybox", "sh")))
        usr = Inputs()
        sizes.append(Image("usr", usr.tar, usr.docker, "lib/os-release", LARGE_IMPORT, LARGE_COMMIT, 1 / 300,
                           busybox=usr.busybox, shell=("busybox", "sh")))
    for image in sizes:
        for case in image.cases():
            if options.only in case.name:
                tell(case.run(options.runs))
        if image is sizes[0]:
            for case in packed(image, inputs):
                if options.only in case.name:
                    tell(case.run(options.runs))
        forget(image.root)
    Image.containerd.stop()
    if options.only in GROWTH:
        for growth in growths(inputs, options.runs):
            tell(growth)


def tell(result):
    print(json.dumps(result.__dict__), flush=True)


class Image:
    """One image, in a plywood store and in a containerd, each on a pool of its own."""

    pool, containerd = None, Containerd()
    numbers = itertools.count()

    def __init__(self, name, tar, docker, changed, import_name, commit_name, goal, busybox=None, shell=("sh",)):
        self.name, self.tar, self.docker, self.changed = name, tar, docker, changed
        self.busybox, self.shell = busybox, shell
        self.import_name, self.commit_name, self.goal = import_name, commit_name, goal
        self.root = self.last = None

    def cases(self):
        yield Case(self.import_name, Side("plywood", self.importing),
                   [Side("ctr image import, devmapper", self.importing_too, once=True),
                    Side("tar -x onto a thin volume, sync", self.unpacking),
                    Side("dd to a file and to a thin volume, sync", self.copying)],
                   [("ctr image import, devmapper", 1 / 20), ("tar -x onto a thin volume, sync", 1.0),
                    ("dd to a file and to a thin volume, sync", None)],
                   size=self.tar.stat().st_size, memory=MEMORY)
        yield Case(self.commit_name, Side("plywood", lambda: self.committing("block")),
                   [Side("ctr snapshot diff, devmapper", self.comparing, once=self.goal < 1 / 100),
                    Side("plywood --diff=walk", lambda: self.committing("walk"))],
                   [("ctr snapshot diff, devmapper", self.goal), ("plywood --diff=walk", None)],
                   setup=self.both)

    def importing(self, packed=None):
        """Into a store with an empty pool; the last one's goes."""
        archive = packed or self.tar
        forget(self.root)
        self.root = new_store()
        quietly(["cat", str(archive)])
        return thin(self.root, "import", archive, self.name)

    def importing_too(self):
        if not self.containerd.process:
            self.containerd.start(place(), pool().NAME)
        quietly(["cat", str(self.docker)])
        words = self.containerd.ctr("images", "import", "--snapshotter", "devmapper", self.docker)
        return shell(f"{words}; sync")

    def unpacking(self, packed=None, program="cat"):
        archive = packed or self.tar
        device, point = pool().volume(VOLUME), place()
        point.mkdir()
        quietly(["mount", "-o", "noatime", device, str(point)])
        quietly(["cat", str(archive)])
        unpack = f"{program} {archive} | tar -x -C {point}" if packed else f"tar -xf {archive} -C {point}"
        return shell(f"{unpack}; umount {point}; dmsetup remove {device}")

    def copying(self):
        """The bytes that an import writes, and nothing else: what the disk takes for the blob and the volume."""
        device, file = pool().volume(VOLUME), place()
        quietly(["cat", str(self.tar)])
        copy = f"dd if={self.tar} bs=1M status=none"
        return shell(f"{copy} of={file} conv=fsync & {copy} of={device} oflag=direct conv=fsync; wait $!; "
                     f"rm {file}; dmsetup remove {device}")

    def both(self):
        """Both have the image, whether the case before this one ran or not."""
        if not self.containerd.process:
            self.containerd.start(place(), pool().NAME)
        if not self.root:
            quietly(self.importing())
        if not said(shell(self.containerd.ctr("images", "list", "-q", f"name~={self.name}"))):
            quietly(self.importing_too())
        if self.busybox:
            quietly(thin(self.root, "import", "--layer", "--parent", self.name, self.busybox, f"{self.name}-run"))

    def committing(self, differ):
        # As many records in the store each time: every command reads them.
        if self.last:
            undo(self.root, self.last)
        name = self.last = f"c{next(self.numbers)}"
        image = f"{self.name}-run" if self.busybox else self.name
        change = f"echo {name} >>/{self.changed}"
        quietly(thin(self.root, "run", "--name", name, "--net", "none", image, *self.shell, "-c", change))
        return thin(self.root, "commit", "--diff", differ, name, name)

    def comparing(self):
        snapshots = ["snapshots", "--snapshotter", "devmapper"]
        key, point = f"c{next(self.numbers)}", place()
        point.mkdir()
        mount = said(shell(self.containerd.ctr(*snapshots, "prepare", "-t", point, key, layer_of(self.docker))))
        # Without options for it, it prints the -o all the same.
        mount = mount.removesuffix(" -o")
        quietly(shell(f"{mount}; echo {key} >>{point}/{self.changed}; umount {point}"))
        return shell(self.containerd.ctr(*snapshots, "diff", "--media-type", "application/vnd.oci.image.layer.v1.tar", key))


def packed(image, inputs):
    """The same layer, packed."""
    for how, archive, program, goal, window in (("gzip", inputs.debian_gzip, "gzip -dc", 1 / 1.5, 0),
                                                ("zstd", inputs.debian_zstd, "zstd -dc", 1.0, ZSTD_WINDOW)):
        peer = f"{program}, tar -x onto a thin volume, sync"
        yield Case(PACKED.format(how), Side("plywood", functools.partial(image.importing, archive)),
                   [Side(peer, functools.partial(image.unpacking, archive, program))], [(peer, goal)],
                   size=image.tar.stat().st_size, memory=MEMORY + window)


def pool():
    """The one that the peers share."""
    if not Image.pool:
        Image.pool = Pool(place(), 60 << 30)
    return Image.pool


def layer_of(archive):
    """The DiffID of the one layer in a docker-archive, which is what containerd calls its snapshot."""
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
        return json.load(tar.extractfile(manifest[0]["Config"]))["rootfs"]["diff_ids"][0]


def thin(root, *words):
    return plywood(root, *words, driver="thin")


def new_store():
    root = place()
    quietly(thin(root, "pool", "init", "--data-size", "40G", "--limit", "40G"))
    return root


def forget(root):
    if root:
        quietly(thin(root, "pool", "detach"))
        quietly(["rm", "-rf", str(root)])


def undo(root, name):
    """Removes a committed container and its image."""
    quietly(thin(root, "rm", name))
    quietly(thin(root, "rmi", name))


def growths(inputs, runs):
    """How long a commit takes, one thing changed at a time; the rest is 1,000 files and one small change."""
    say(f"== {GROWTH}")
    files, walks = [], []
    for count, tar in inputs.files.items():
        root = stored(tar)
        for differ, points in (("block", files), ("walk", walks)):
            points.append((f"{count:,} files", commit_takes(root, "files", 4096, runs, differ)))
        if count != inputs.FILES[0]:
            forget(root)
        else:
            small = root
    yield Growth("Commit of 4 KiB by changed blocks, by files in the image", files)
    yield Growth("The same by a walk", walks)
    sizes = [(f"{size >> 10:,} KiB changed", commit_takes(small, "files", size, runs, "block"))
             for size in (4 << 10, 64 << 10, MIB, 16 * MIB, 128 * MIB)]
    yield Growth("Commit by changed blocks, by bytes", sizes)
    layers, image = [], "files"
    for depth in range(1, 33):
        if depth in (1, 8, 32):
            layers.append((f"{depth} layers", commit_takes(small, image, 4096, runs, "block")))
        name = f"layer-{depth}"
        change(small, image, name, 4096)
        quietly(thin(small, "commit", name, name))
        quietly(thin(small, "rm", name))
        image = name
    yield Growth("Commit of 4 KiB by changed blocks, by layers", layers)
    forget(small)


def stored(tar):
    root = new_store()
    quietly(thin(root, "import", tar, "files"))
    return root


def change(root, image, container, size):
    """Writes one new file of this size in a new container."""
    dd = f"dd if=/dev/urandom of=/tree/0000/new bs=4096 count={size // 4096} 2>/dev/null"
    quietly(thin(root, "run", "--name", container, "--net", "none", image, "busybox", "sh", "-c", dd))


def commit_takes(root, image, size, runs, differ):
    """Seconds, the least of some runs: what else the machine does is only ever added."""
    results = []
    for _ in range(runs):
        name = f"c{next(Image.numbers)}"
        change(root, image, name, size)
        results.append(timed(thin(root, "commit", "--diff", differ, name, name))["seconds"])
        undo(root, name)
    say(f"   {size:,} bytes on {image} with {differ}: {', '.join(f'{seconds:.3f}' for seconds in results)} s")
    return min(results)


if __name__ == "__main__":
    main()
