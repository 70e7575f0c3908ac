"""Images in and out, listed, deleted: beside what does the same to a tree or an archive."""

from .measure import MIB, SCRATCH, Case, Side, place, plywood, quietly, shell
from .peers import Containerd

# Beside the decompressor's window: 32 KiB for gzip, what `zstd -3` takes for an input of any size.
MEMORY = 64 * MIB
ZSTD_WINDOW = 2 * MIB


def cached(*archives):
    for archive in archives:
        quietly(["cat", str(archive)])


def imports(inputs, full):
    size = inputs.bytes

    def importing(archive, *name):
        def prepare():
            cached(archive)
            return plywood(place(), "import", archive, *name)
        return prepare

    def unpacking(command):
        """A shell command that fills `$to`, on the disk when it ends."""
        def prepare():
            cached(inputs.tar, inputs.docker, inputs.gzip, inputs.zstd, inputs.layers)
            return shell(f"to={place()}; {command}; sync -f $to")
        return prepare

    yield Case("import of a root filesystem tar",
               Side("plywood", importing(inputs.tar, "usr")),
               [Side("tar -x, sync", unpacking(f"mkdir $to; tar -xf {inputs.tar} -C $to"))],
               [("tar -x, sync", 1.0)], size=size, memory=MEMORY)
    yield Case("import of a gzip root filesystem tar",
               Side("plywood", importing(inputs.gzip, "usr")),
               [Side("gzip -d, tar -x, sync", unpacking(f"mkdir $to; gzip -dc {inputs.gzip} | tar -x -C $to"))],
               [("gzip -d, tar -x, sync", 1 / 1.5)], size=size, memory=MEMORY)

    yield Case("import of a zstd root filesystem tar",
               Side("plywood", importing(inputs.zstd, "usr")),
               [Side("zstd -d, tar -x, sync", unpacking(f"mkdir $to; zstd -dc {inputs.zstd} | tar -x -C $to"))],
               [("zstd -d, tar -x, sync", 1.0)], size=size, memory=MEMORY + ZSTD_WINDOW)
    blobs = f"tar -xOf {inputs.layers} $name | gzip -d | tar -x -C $to"
    yield Case(f"import of {inputs.LAYERS} gzip layers",
               Side("plywood", importing(inputs.layers, "layers")),
               [Side("gzip -d, tar -x of each, sync", unpacking(
                   f"mkdir $to; for name in {' '.join(inputs.layer_names())}; do {blobs}; done"))],
               [("gzip -d, tar -x of each, sync", 1 / 1.5)], size=size, memory=MEMORY)

    daemon = Containerd()

    def importing_too():
        cached(inputs.docker)
        daemon.stop()
        daemon.start(place())
        return shell(f"{daemon.ctr('images', 'import', '--snapshotter', 'overlayfs', inputs.docker)}; sync -f {SCRATCH}")

    peers = [Side("umoci unpack, sync", unpacking(f"umoci unpack --image {inputs.layout}:usr:latest $to")),
             Side("podman load, sync", unpacking(
                 f"podman --root $to/root --runroot $to/run --storage-driver overlay load -q -i {inputs.docker}"))]
    if full:
        peers.append(Side("ctr image import, sync", importing_too, once=True))
    yield Case("import of a docker-archive", Side("plywood", importing(inputs.docker)), peers,
               [(peer.name, 1 / 5) for peer in peers], size=size, memory=MEMORY, cleanup=daemon.stop)


def exports(inputs):
    size, root = inputs.bytes, place()

    def lasting(seconds):
        return lambda: ["sleep", f"{seconds:.3f}"]

    def imported():
        if not root.exists():
            quietly(plywood(root, "import", inputs.tar, "usr"))

    # An import keeps no more in memory of a blob than its end.
    def warm():
        cached(*(root / "blobs" / "sha256").iterdir())

    def exporting():
        warm()
        return plywood(root, "export", "--format", "docker-archive", "-o", place(), "usr")

    def copying():
        cached(inputs.docker)
        return shell(f"dd if={inputs.docker} of={place()} bs=1M conv=fsync status=none")

    def piping():
        warm()
        words = " ".join(plywood(root, "export", "--format", "docker-archive", "-o", "-", "usr"))
        return shell(f"{words} | cat")

    yield Case("export as docker-archive", Side("plywood", exporting), [Side("dd, fsync", copying)],
               [("dd, fsync", 1.1)], setup=imported, size=size)
    yield Case("export as docker-archive, to a pipe", Side("plywood", piping), [Side("500 MB/s", lasting(size / 500e6))],
               [("500 MB/s", 1.0)], setup=imported, size=size)

    def packing():
        return plywood(root, "export", "--format", "rootfs", "--compress", "zstd", "-o", place(), "usr")

    def packing_too():
        tree = place()
        tree.mkdir()
        quietly(["tar", "-xf", str(inputs.tar), "-C", str(tree)])
        return shell(f"tar -c -C {tree} . | zstd -q -3 -T0 -o {place()}; sync -f {SCRATCH}")

    yield Case("export of the tree, zstd", Side("plywood", packing), [Side("tar -c, zstd -T0, sync", packing_too)],
               [("tar -c, zstd -T0, sync", 1.3)], setup=imported, size=size)

    def hashing():
        warm()
        return plywood(root, "check", "--data")

    def hashing_too():
        warm()
        return shell(f"openssl dgst -sha256 {root}/blobs/sha256/*")

    yield Case("hashing (check --data)", Side("plywood", hashing),
               [Side("openssl dgst -sha256", hashing_too)], [("openssl dgst -sha256", 1.5)], setup=imported, size=size)

    many = place()
    yield Case(f"images, of {inputs.IMAGES:,}", Side("plywood", lambda: plywood(many, "images")),
               [Side("50 ms", lasting(0.05))], [("50 ms", 1.0)],
               setup=lambda: quietly(plywood(many, "import", inputs.many)))


def deletions(inputs):
    def deleting():
        root = place()
        quietly(plywood(root, "import", inputs.tar, "usr"))
        return shell(f"{' '.join(plywood(root, 'rmi', 'usr'))}; {' '.join(plywood(root, 'gc'))}")

    def removing():
        tree = place()
        tree.mkdir()
        quietly(["tar", "-xf", str(inputs.tar), "-C", str(tree)])
        return shell(f"rm -rf {tree}; sync -f {SCRATCH}")

    yield Case("rmi and gc of that image", Side("plywood", deleting), [Side("rm -rf of its tree, sync", removing)],
               [("rm -rf of its tree, sync", 1.0)])
