//! Device nodes that a container makes in its root filesystem.

use super::Plywood;

/// Wants one that a container of the image `base` makes to open nothing, unless the container is privileged.
pub fn only_a_privileged_container_opens_its_own(plywood: &Plywood) {
    let script = "mknod /node c 1 5 && head -c 1 /node >/dev/null && echo opened; true";
    let told = |options: &[&str]| {
        let run = [&["run", "--rm"], options, &["base", "sh", "-c", script]].concat();
        plywood.ok(run)
    };
    assert_eq!(told(&[]), "");
    assert_eq!(told(&["--privileged"]), "opened");
}
