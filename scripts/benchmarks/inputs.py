"""What is measured on: made once from this machine's own files, and kept."""

import hashlib
import io
import json
import os
import subprocess
import tarfile

from .measure import MACHINE, WORK, place, plywood, quietly, remove, say, shell


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def digest_of(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def descriptor(kind, digest, size):
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": size}


class Inputs:
    """Made once, and kept: a layer tar of /usr, the same as archives, and an archive of many images."""

    # Larger files only measure the disk, and make the input differ from machine to machine.
    FILE_MAX = "-1024k"
    IMAGES = 1000
    LAYERS = 8

    def __init__(self):
        self.tar = WORK / "usr.tar"
        self.docker = WORK / "usr-docker.tar"
        self.layout = WORK / "usr-layout"
        self.gzip = WORK / "usr.tar.gz"
        self.zstd = WORK / "usr.tar.zst"
        # The same files in so many gzip layers.
        self.layers = WORK / "usr-layers.tar"
        self.many = WORK / "many-docker.tar"
        # A layer with the one program that an image needs to change itself.
        self.busybox = WORK / "busybox.tar"
        if not self.tar.exists():
            self.make_tar()
        if not self.docker.exists() or not self.layout.exists():
            self.make_archives()
        if not self.gzip.exists():
            self.made(self.gzip, f"gzip -6 <{self.tar} >")
        if not self.zstd.exists():
            self.made(self.zstd, f"zstd -q -3 -c {self.tar} >")
        if not self.layers.exists():
            self.make_layers()
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
                f"{MACHINE}")

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

    def layer_names(self):
        """The layers' files in the archive of many layers, base first."""
        with tarfile.open(self.layers) as tar:
            return [name for name in tar.getnames() if name.startswith("blobs/")][-self.LAYERS:]

    def make_layers(self):
        say(f"making the input: the same in {self.LAYERS} gzip layers")
        folder = place()
        folder.mkdir()
        listed = subprocess.run(["tar", "--quoting-style=literal", "-tf", str(self.tar)],
                                check=True, capture_output=True).stdout.splitlines()
        share = -(-len(listed) // self.LAYERS)
        quietly(shell(f"mkdir {folder}/tree; tar -xf {self.tar} -C {folder}/tree"))
        entries, layers, diff_ids = [], [], []
        for number in range(self.LAYERS):
            (folder / "list").write_bytes(b"\n".join(listed[number * share:(number + 1) * share]) + b"\n")
            tar, packed = folder / "tar", folder / f"{number}.gz"
            quietly(shell(f"tar -cf {tar} --numeric-owner -C {folder}/tree --no-recursion -T {folder}/list; "
                          f"gzip -6 -n -c {tar} >{packed}"))
            diff_ids.append(f"sha256:{digest_of(tar)}")
            found = digest_of(packed)
            entries.append((f"blobs/sha256/{found}", packed))
            layers.append(descriptor("layer.v1.tar+gzip", found, packed.stat().st_size))
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                             "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
        manifest = json.dumps({"schemaVersion": 2, "layers": layers,
                               "config": descriptor("config.v1+json", sha256(config), len(config))}).encode()
        index = json.dumps({"schemaVersion": 2, "manifests": [
            descriptor("manifest.v1+json", sha256(manifest), len(manifest))
            | {"annotations": {"org.opencontainers.image.ref.name": "layers"}}]}).encode()
        documents = [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", index),
                     (f"blobs/sha256/{sha256(config)}", config), (f"blobs/sha256/{sha256(manifest)}", manifest)]
        part = self.layers.with_suffix(".part")
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as out:
            for name, content in documents:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                out.addfile(entry, io.BytesIO(content))
            for name, path in entries:
                out.add(path, name)
        part.rename(self.layers)
        remove(folder)

    def make_many(self):
        say(f"making the input: {self.IMAGES} images of two layers")

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
            base_file = sha256(base) + ".tar"
            add(base_file, base)
            for number in range(self.IMAGES):
                top = layer(number)
                top_file = sha256(top) + ".tar"
                diff_ids = ["sha256:" + sha256(tar) for tar in (base, top)]
                config = json.dumps({
                    "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
                    "config": {"Labels": {"number": str(number)}},
                    "rootfs": {"type": "layers", "diff_ids": diff_ids},
                }).encode()
                config_file = sha256(config) + ".json"
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
        self.debian_gzip = WORK / "debian.tar.gz"
        self.debian_zstd = WORK / "debian.tar.zst"
        self.files_docker = WORK / "files-docker.tar"
        self.files = {count: WORK / f"files-{count}.tar" for count in self.FILES}

    def make(self):
        if not self.debian.exists():
            Inputs.made(self.debian, "mmdebstrap --quiet --variant=minbase --format=tar bookworm >")
        if not self.debian_gzip.exists():
            Inputs.made(self.debian_gzip, f"gzip -6 <{self.debian} >")
        if not self.debian_zstd.exists():
            Inputs.made(self.debian_zstd, f"zstd -q -3 -c {self.debian} >")
        for count, path in self.files.items():
            if not path.exists():
                self.make_files(path, count)
        for tar, docker in ((self.debian, self.debian_docker), (self.files[max(self.FILES)], self.files_docker)):
            if not docker.exists():
                root = place()
                quietly(plywood(root, "import", tar, docker.stem))
                words = " ".join(plywood(root, "export", "--format", "docker-archive", "-o", "-", docker.stem))
                Inputs.made(docker, f"{words} >")

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
