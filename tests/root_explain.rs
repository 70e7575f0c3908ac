//! `--explain` is true on overlay too: its lines, typed into a shell, make the same folders under a
//! second root. `dm_explain` does the same on thin, and says what is not typed as it was printed.
//!
//! One line reads a file that only plywood writes: the layer's tar that `commit` applies to a fresh
//! folder. The second root gets it as it is. That line leaves whiteouts to its comment, so nothing of
//! the base is removed here.

mod common;

use common::Plywood;
use common::explain::{EDIT, Shell, Tree, base_tar, explained, output, path};

#[test]
fn root_what_explain_prints_makes_the_same_folders_again() {
    let plywood = Plywood::new("overlay");
    let base = plywood.beside("base.tar");
    base_tar(&base);
    let base = base.to_str().expect("UTF-8");
    let second = plywood.beside("second");
    let there = |line: String| line.replace(&path(&plywood.root()), &path(&second));
    let edit = EDIT.replace("rm /usr/share/doc/b; ", "");
    let mut shell = Shell::start();
    let mut types = |args: &[&str], leaves: bool| {
        for line in explained(&plywood, args) {
            shell.types(&there(line));
        }
        if leaves {
            shell.types("exit");
        }
    };
    types(&["import", base, "base"], true);
    types(&["run", "--name", "c", "base", "sh", "-c", &edit], true);
    let lines = explained(&plywood, &["commit", "c", "image"]);
    output("cp", &["-r", &path(&plywood.root().join("blobs")), &path(&second)]);
    for line in lines {
        shell.types(&there(line));
    }
    shell.types("exit");

    // The mount verbs work in the caller's own tree: what the shell mounts can be seen from here.
    let ours = plywood.ok(["mount", "image"]);
    let tree = Tree::of(ours.as_ref());
    plywood.ok(["umount", "image"]);
    for line in explained(&plywood, &["mount", "image"]) {
        shell.types(&there(line));
    }
    let theirs = there(ours);
    tree.assert_like(&Tree::of(theirs.as_ref()), "image");
    for line in explained(&plywood, &["umount", "image"]) {
        shell.types(&there(line));
    }
    assert!(!std::path::Path::new(&theirs).exists(), "the mount point is gone");
    for line in explained(&plywood, &["rm", "c"]) {
        shell.types(&there(line));
    }
}
