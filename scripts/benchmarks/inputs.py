"""What is measured on: made once from this machine's own files, and kept."""

import hashlib
import io
import json
import os
import subprocess
import tarfile

from .measure import WORK, place, plywood, quietly, remove, say, shell


class Inputs:
    """Made once, and kept: a layer tar of /usr, the same as archives, and an archive of many images."""

    # Larger files only measure the disk, and make the input differ from machine to machine.
    FILE_MAX = "-1024k"
    IMAGES = 1000

    def __init__(self):
        self.tar = WORK / "usr.tar"
        self.docker = WORK / "usr-docker.tar"
        self.layout = WORK / "usr-layout"
        self.gzip = WORK / "usr.tar.gz"
        self.many = WORK / "many-docker.tar"
        # A layer with the one program that an image needs to change itself.
        self.busybox = WORK / "busybox.tar"
        if not self.tar.exists():
            self.make_tar()
        if not self.docker.exists() or not self.layout.exists():
            self.make_archives()
        if not self.gzip.exists():
            self.made(self.gzip, f"gzip -6 <{self.tar} >")
        if not self.busybox.exists():
            self.made(self.busybox, "tar -c --numeric-owner -C /usr bin/busybox >")
        if not self.many.exists():
            self.make_many()
        self.bytes = self.tar.stat().st_size
        listed = subprocess.run(["tar", "-tf", str(self.tar)], check=True, capture_output=True).stdout
        self.entries = listed.count(b"\n")

    @staticmethod
    def made(path, command):
        """Made by a shell command that ends where the name of its output goes."""
        say(f"making the input: {path.name}")
        part = path.with_name(f"{path.name}.part")
        quietly(shell(f"{command}{part}"))
        part.rename(path)

    def described(self):
        return (f"Input: {self.entries:,} entries, {self.bytes / 1e9:.2f} GB, from /usr without files of 1 MiB and more; "
                f"{os.cpu_count()} processors, ext4 on a loop device")

    def make_tar(self):
        say("making the input: a tar of /usr")
        part = self.tar.with_suffix(".part")
        quietly(shell(
            f"cd /usr && find . -xdev '(' -type f -size {self.FILE_MAX} -o -type l -o -type d ')' -print0 |"
            f" LC_ALL=C sort -z |"
            f" tar -c --no-recursion --null -T - --numeric-owner --format=pax"
            f" --pax-option=delete=atime,delete=ctime -f {part}"))
        part.rename(self.tar)

    def make_archives(self):
        say("making the input: the same as a docker-archive and as an OCI layout")
        root = place()
        remove(self.layout)
        quietly(plywood(root, "import", self.tar, "usr"))
        part = self.docker.with_suffix(".part")
        quietly(plywood(root, "export", "--format", "docker-archive", "-o", part, "usr"))
        part.rename(self.docker)
        quietly(plywood(root, "export", "--format", "oci-dir", "-o", self.layout, "usr"))

    def make_many(self):
        say(f"making the input: {self.IMAGES} images of two layers")

        def digest(content):
            return hashlib.sha256(content).hexdigest()

        def layer(number):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                entry = tarfile.TarInfo(f"file-{number}")
                content = str(number).encode()
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            return buffer.getvalue()

        part = self.many.with_suffix(".part")
        manifest = []
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as out:
            def add(name, content):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                out.addfile(entry, io.BytesIO(content))

            base = layer("base")
            base_file = digest(base) + ".tar"
            add(base_file, base)
            for number in range(self.IMAGES):
                top = layer(number)
                top_file = digest(top) + ".tar"
                diff_ids = ["sha256:" + digest(tar) for tar in (base, top)]
                config = json.dumps({
                    "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
                    "config": {"Labels": {"number": str(number)}},
                    "rootfs": {"type": "layers", "diff_ids": diff_ids},
                }).encode()
                config_file = digest(config) + ".json"
                add(top_file, top)
                add(config_file, config)
                manifest.append({"Config": config_file, "RepoTags": [f"many/image-{number}:1"],
                                 "Layers": [base_file, top_file]})
            add("manifest.json", json.dumps(manifest).encode())
        part.rename(self.many)


class GuestInputs:
    """For the guest: a Debian root filesystem, and trees of so many small files."""

    FILES = [1000, 8743, 100000]

    def __init__(self):
        # The demo's.
        self.debian = WORK.parent / "demo-debian-12.tar"
        self.debian_docker = WORK / "debian-docker.tar"
        self.files = {count: WORK / f"files-{count}.tar" for count in self.FILES}

    def make(self):
        if not self.debian.exists():
            Inputs.made(self.debian, "mmdebstrap --quiet --variant=minbase --format=tar bookworm >")
        if not self.debian_docker.exists():
            root = place()
            quietly(plywood(root, "import", self.debian, "debian"))
            words = " ".join(plywood(root, "export", "--format", "docker-archive", "-o", "-", "debian"))
            Inputs.made(self.debian_docker, f"{words} >")
        for count, path in self.files.items():
            if not path.exists():
                self.make_files(path, count)

    @staticmethod
    def make_files(path, count):
        say(f"making the input: {path.name}")
        part = path.with_suffix(".part")
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
            tar.add("/bin/busybox", "bin/busybox")
            for number in range(count):
                entry = tarfile.TarInfo(f"tree/{number // 100:04}/{number % 100:02}")
                entry.size = 1024
                tar.addfile(entry, io.BytesIO(f"{number:08} ".encode() * 128))
        part.rename(path)
