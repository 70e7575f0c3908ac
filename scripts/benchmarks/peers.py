"""A containerd of our own: its folders, its socket, and on device-mapper its pool."""

import os
import subprocess
import time
from pathlib import Path

from .measure import quietly, say, shell


class Containerd:
    """Listens on a socket of its own; its plugins for Kubernetes stay away."""

    def __init__(self):
        self.socket = Path(f"/run/plywood-bench-{os.getpid()}.sock")
        self.process = None

    def start(self, folder, pool=None):
        """With its state in this new folder, and with a devmapper snapshotter where there is a pool for it."""
        folder.mkdir(parents=True)
        config = [
            "version = 2",
            f'root = "{folder}/root"',
            f'state = "{folder}/state"',
            'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", '
            '"io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]',
            "[grpc]",
            f'address = "{self.socket}"',
        ]
        if pool:
            config += [
                '[plugins."io.containerd.snapshotter.v1.devmapper"]',
                f'root_path = "{folder}/devmapper"',
                f'pool_name = "{pool}"',
                'base_image_size = "10GB"',
            ]
        (folder / "config.toml").write_text("\n".join(config) + "\n")
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(["containerd", "--config", str(folder / "config.toml")],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(600):
            if subprocess.run(shell(self.ctr("version")), capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        say((folder / "log").read_text())
        raise RuntimeError("containerd does not answer")

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None
            self.socket.unlink(missing_ok=True)
            Path(f"{self.socket}.ttrpc").unlink(missing_ok=True)

    def ctr(self, *words):
        """The shell command."""
        return " ".join(["ctr", "-a", str(self.socket), "-n", "bench", *map(str, words)])


class Pool:
    """A thin pool by hand, as containerd's documentation makes it."""

    NAME = "plywood-bench"
    SECTOR = 512

    def __init__(self, folder, data_bytes):
        folder.mkdir(parents=True)
        self.data_bytes, self.loops = data_bytes, []
        for name, size in (("metadata", 2 << 30), ("data", data_bytes)):
            with (folder / name).open("w") as file:
                file.truncate(size)
            found = subprocess.run(["losetup", "--find", "--show", str(folder / name)],
                                   check=True, capture_output=True, text=True)
            self.loops.append(found.stdout.strip())
        metadata, data = self.loops
        table = f"0 {data_bytes // self.SECTOR} thin-pool {metadata} {data} 128 32768 1 skip_block_zeroing"
        quietly(["dmsetup", "create", self.NAME, "--table", table])
        # Far from those that containerd gives.
        self.next = 1 << 20

    def volume(self, size):
        """The device of a new thin volume with a new ext4."""
        self.next += 1
        name = f"{self.NAME}-{self.next}"
        quietly(["dmsetup", "message", self.NAME, "0", f"create_thin {self.next}"])
        quietly(["dmsetup", "create", name, "--table",
                 f"0 {size // self.SECTOR} thin /dev/mapper/{self.NAME} {self.next}"])
        device = f"/dev/mapper/{name}"
        quietly(["mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", device])
        return device
