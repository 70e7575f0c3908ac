"""One small file changed in an image of many: what the layer costs, beside umoci and buildah on this kernel."""

import itertools

from .measure import MIB, SCRATCH, Case, Side, place, plywood, quietly, said, shell

CHANGED = "lib/os-release"


def commits(inputs):
    numbers = itertools.count()
    root, layout, bundle, storage = place(), place(), place(), place()
    buildah = f"buildah --root {storage}/root --runroot {storage}/run --storage-driver overlay"

    def imported():
        quietly(plywood(root, "import", inputs.tar, "plain"))
        quietly(plywood(root, "import", "--layer", "--parent", "plain", inputs.busybox, "usr"))
        quietly(["cp", "-r", str(inputs.layout), str(layout)])
        quietly(["umoci", "unpack", "--image", f"{layout}:usr:latest", str(bundle)])
        imported.image = said(shell(f"{buildah} pull -q oci:{inputs.layout}:usr:latest"))

    def changed():
        name = f"c{next(numbers)}"
        quietly(plywood(root, "run", "--name", name, "--net", "none", "usr",
                        "busybox", "sh", "-c", f"echo {name} >>/{CHANGED}"))
        return plywood(root, "commit", name, name)

    def repacked():
        number = next(numbers)
        quietly(shell(f"echo {number} >>{bundle}/rootfs/{CHANGED}"))
        return shell(f"umoci repack --image {layout}:new-{number} {bundle}; sync -f {SCRATCH}")

    def built():
        container = said(shell(f"{buildah} from -q --pull-never {imported.image}"))
        tree = said(shell(f"{buildah} mount {container}"))
        quietly(shell(f"echo {container} >>{tree}/{CHANGED}; {buildah} umount {container}"))
        return shell(f"{buildah} commit -q {container}; sync -f {SCRATCH}")

    yield Case("commit of one changed file, overlay", Side("plywood", changed),
               [Side("umoci repack, sync", repacked), Side("buildah commit, sync", built)],
               [("umoci repack, sync", 1 / 50), ("buildah commit, sync", 1.0)], setup=imported, memory=64 * MIB)
