"""Dockerfiles, beside `buildah build --layers`: with every step in the cache, and with packages that are at hand."""

import shutil

from .inputs import GuestInputs, Inputs
from .measure import SCRATCH, WORK, Case, Side, place, plywood, quietly, said, shell

# What all their names begin with.
WORD = "build"

POLICY = r"printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d"
OPS = f"""FROM debian:12
ENV DEBIAN_FRONTEND=noninteractive
RUN {POLICY}
RUN --mount=type=bind,source=packages,target=/packages dpkg -i /packages/*.deb >/dev/null \\
 && rm -rf /var/log/dpkg.log /var/cache/ldconfig/aux-cache \\
 && ln -sf /dev/stdout /var/log/nginx/access.log
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
"""
# As Debian's own container images have it: dpkg waits for no disk.
UNSAFE = "echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/docker-apt-speedup && "
OPS_UNSAFE = OPS.replace("RUN printf", f"RUN {UNSAFE}printf")
WEBSITE = """FROM ops-nginx
ARG TITLE="A website"
LABEL title=website
WORKDIR /var/www/html
COPY site/ ./
RUN sed -i "s/@TITLE@/${TITLE}/" index.html && nginx -t -q
HEALTHCHECK --interval=30s CMD ["nginx", "-t", "-q"]
"""
STEPS = "FROM debian:12\nCOPY site/ /srv/\n" + "".join(f"RUN echo {n} >/etc/step-{n}\n" for n in range(9))


def builds():
    root, storage, context = place(), place(), place()
    buildah = ["buildah", "--root", f"{storage}/root", "--runroot", f"{storage}/run", "--storage-driver", "overlay"]

    def prepare():
        """A store and a storage with the same base, and a context for both."""
        if context.exists():
            return
        base, packages = debian(), nginx()
        quietly(plywood(root, "import", base, "debian:12"))
        archive = place()
        quietly(plywood(root, "export", "--format", "docker-archive", "-o", archive, "debian:12"))
        image = said([*buildah, "pull", "-q", f"docker-archive:{archive}"])
        quietly([*buildah, "tag", image, "debian:12"])
        archive.unlink()
        (context / "site").mkdir(parents=True)
        shutil.copytree(packages, context / "packages")
        for number in range(100):
            (context / "site" / f"page-{number}.html").write_text(f"<h1>{number}</h1>\n" * 500)
        (context / "site" / "index.html").write_text("<h1>@TITLE@</h1>\n")
        texts = {"ops-nginx": OPS, "ops-nginx-unsafe-io": OPS_UNSAFE, "website-nginx": WEBSITE, "steps": STEPS}
        for name, text in texts.items():
            (context / f"Dockerfile.{name}").write_text(text)

    def ours(name, *options):
        return plywood(root, "build", "--net", "host", "-t", name, *options, "-f", context / f"Dockerfile.{name}", context)

    def theirs(name, *options):
        # The isolation that costs the least, which has the host's network.
        return [*buildah, "build", "-q", "--layers", "--isolation", "chroot", "--network", "host", "--pull-never",
                *options, "-t", name, "-f", str(context / f"Dockerfile.{name}"), str(context)]

    def synced(words):
        return shell(" ".join(words) + f"; sync -f {SCRATCH}")

    def both(*names):
        prepare()
        for name in names:
            quietly(ours(name))
            quietly(theirs(name))

    fast = Side("100 ms", lambda: ["sleep", "0.1"])
    yield Case(f"{WORD} of ten steps, all cached", Side("plywood", lambda: ours("steps")),
               [fast, Side("buildah --layers", lambda: theirs("steps"))],
               [("100 ms", 1.0), ("buildah --layers", 1 / 1.5)], setup=lambda: both("steps"))
    for name, before in (("ops-nginx", ()), ("ops-nginx-unsafe-io", ()), ("website-nginx", ("ops-nginx",))):
        yield Case(f"{WORD} of {name}", Side("plywood", lambda name=name: ours(name, "--no-cache")),
                   [Side("buildah --layers, sync", lambda name=name: synced(theirs(name, "--no-cache")))],
                   [("buildah --layers, sync", 1 / 1.5)], setup=lambda before=before: both(*before))


def debian():
    inputs = GuestInputs()
    if not inputs.debian.exists():
        Inputs.made(inputs.debian, "mmdebstrap --quiet --variant=minbase --format=tar bookworm >")
    return inputs.debian


def nginx():
    """A folder with the packages that nginx-light is, beside those of the base; fetched once."""
    folder = WORK / "nginx-packages"
    if not folder.exists():
        root, part = place(), WORK / "nginx-packages.part"
        (part / "partial").mkdir(parents=True, exist_ok=True)
        quietly(plywood(root, "import", debian(), "debian:12"))
        fetch = "apt-get update -qq && apt-get install -qq -y --download-only --no-install-recommends nginx-light"
        quietly(plywood(root, "run", "--rm", "--net", "host", "-v", f"{part}:/var/cache/apt/archives", "debian:12",
                        "sh", "-c", fetch))
        quietly(shell(f"cd {part}; rm -rf partial lock"))
        part.rename(folder)
    return folder
