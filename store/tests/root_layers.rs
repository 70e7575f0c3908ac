//! Layers on real trees, as root: what is written and applied again is the same tree.
//!
//! Trees and edits are random; the oracle is [`digest`], which reads
//! every attribute that a tar can carry.

#![allow(clippy::unwrap_used, reason = "a test ends where it does not go on")]

#[path = "layers/edits.rs"]
mod edits;
#[path = "../../tests/common/environment.rs"]
mod environment;
#[path = "layers/touched.rs"]
mod touched;
#[path = "layers/trees.rs"]
mod trees;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use edits::{Edit, do_edit, edit};
use plywood_store::layer::Limits;
use plywood_store::layer::diff::{ChangeKind, Everything, Options, changes, write_layer};
use proptest::prelude::*;
use tempfile::TempDir;
use touched::Touched;
use trees::{acl, apply_to, copy, digest, folder, layer, layer_in, open, times, xattr};

/// The whole promise for one pair of trees.
fn check_pair(dir: &Path, parent: &Path, child: &Path) {
    let tar = layer(Some(parent), child);
    assert!(tar == layer(Some(parent), child), "writing twice gives the same bytes");
    let thorough = Options {
        thorough: true,
        ..Options::default()
    };
    assert!(tar == layer_in(Some(parent), child, &Everything, &thorough));
    let touched = Touched::between(parent, child);
    assert!(
        tar == layer_in(Some(parent), child, &touched, &Options::default()),
        "a sound scope changes no byte"
    );
    let again = dir.join("again");
    copy(parent, &again);
    assert_eq!(digest(parent), digest(&again), "cp made a faithful copy");
    apply_to(&again, &tar);
    assert_eq!(digest(child), digest(&again), "apply(layer, parent) is the child");
    apply_to(&again, &tar);
    assert_eq!(digest(child), digest(&again), "and applying it twice changes nothing");
    fs::remove_dir_all(&again).unwrap();
    let base = dir.join("base");
    fs::create_dir(&base).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    apply_to(&base, &layer(None, child));
    assert_eq!(digest(child), digest(&base), "a base layer is the whole tree");
    assert_eq!(layer(Some(child), &base).len(), 1024, "no difference is an empty layer");
    fs::remove_dir_all(&base).unwrap();
}

fn seed(root: &Path, edits: &[Edit]) {
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    for edit in edits {
        do_edit(root, edit);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn root_random_edits_come_back(
        before in prop::collection::vec(edit(), 10..60),
        after in prop::collection::vec(edit(), 0..40),
    ) {
        let dir = folder();
        let (parent, child) = (dir.path().join("parent"), dir.path().join("child"));
        fs::create_dir(&parent).unwrap();
        seed(&parent, &before);
        copy(&parent, &child);
        for edit in &after {
            do_edit(&child, edit);
        }
        check_pair(dir.path(), &parent, &child);
    }
}

#[test]
fn root_a_name_like_a_whiteout_is_refused() {
    let dir = folder();
    fs::write(dir.path().join(".wh.x"), "").unwrap();
    let error = write_layer(
        None,
        &open(dir.path()).as_fd(),
        &Everything,
        &Options::default(),
        &mut Vec::new(),
    );
    let error = error.unwrap_err();
    assert!(error.to_string().contains(".wh.x"), "{error}");
}

/// A whiteout's name is longer than the file's that it hides, and so longer than a file's can be.
#[test]
fn root_the_longest_name_can_be_removed() {
    let (parent, child, built) = (folder(), folder(), folder());
    fs::write(parent.path().join("n".repeat(255)), "").unwrap();
    copy(parent.path(), built.path());
    let tar = layer(Some(parent.path()), child.path());
    apply_to(built.path(), &tar);
    assert_eq!(fs::read_dir(built.path()).unwrap().count(), 0);
}

#[test]
fn root_a_split_group_is_told_from_one() {
    let dir = folder();
    let (parent, child) = (dir.path().join("parent"), dir.path().join("child"));
    fs::create_dir(&parent).unwrap();
    fs::write(parent.join("a"), "same").unwrap();
    fs::hard_link(parent.join("a"), parent.join("b")).unwrap();
    fs::hard_link(parent.join("a"), parent.join("c")).unwrap();
    copy(&parent, &child);
    do_edit(&child, &Edit::Copied(1));
    check_pair(dir.path(), &parent, &child);
    let tar = layer(Some(&parent), &child);
    let mut reader = &*tar;
    let mut entries = plywood_store::layer::read::Reader::new(&mut reader, &Limits::default());
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().unwrap() {
        names.push(entry.path.to_string_lossy().into_owned());
    }
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn root_changes_are_listed_as_docker_does() {
    let dir = folder();
    let (parent, child) = (dir.path().join("parent"), dir.path().join("child"));
    for path in ["d/gone/deep", "d/kept", "e"] {
        fs::create_dir_all(parent.join(path)).unwrap();
    }
    copy(&parent, &child);
    fs::remove_dir_all(child.join("d/gone")).unwrap();
    fs::create_dir(child.join("new")).unwrap();
    fs::write(child.join("new/file"), "").unwrap();
    fs::set_permissions(child.join("e"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut list = Vec::new();
    let (parent, child) = (open(&parent), open(&child));
    changes(
        Some(&parent.as_fd()),
        &child.as_fd(),
        &Everything,
        &Options::default(),
        &mut |change| {
            let letter = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Changed => 'C',
                ChangeKind::Deleted => 'D',
            };
            list.push(format!("{letter} {}", change.path.display()));
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(list, ["C d", "D d/gone", "C e", "A new", "A new/file"]);
}

#[test]
fn root_sockets_are_left_out_and_told() {
    let dir = folder();
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    let mut tar = Vec::new();
    let written = write_layer(
        None,
        &open(dir.path()).as_fd(),
        &Everything,
        &Options::default(),
        &mut tar,
    )
    .unwrap();
    drop(socket);
    assert_eq!(written.notes.len(), 1, "{:?}", written.notes);
    assert!(written.notes[0].contains('s'));
    let root_only = if fs::metadata(dir.path()).unwrap().mode() & 0o7777 == 0o755 {
        0
    } else {
        1
    };
    assert_eq!(written.entries, root_only);
}

#[test]
fn root_the_clamp_makes_times_equal_and_hides_touches() {
    let dir = folder();
    let (parent, child) = (dir.path().join("parent"), dir.path().join("child"));
    fs::create_dir(&parent).unwrap();
    fs::write(parent.join("touched"), "x").unwrap();
    fs::write(parent.join("old"), "x").unwrap();
    times(&parent.join("touched"), 2000, 0);
    times(&parent.join("old"), 500, 0);
    copy(&parent, &child);
    times(&child.join("touched"), 3000, 7);
    times(&child.join("old"), 600, 7);
    fs::write(child.join("new"), "x").unwrap();
    let options = Options {
        clamp_mtime: Some(1000),
        ..Options::default()
    };
    let tar = layer_in(Some(&parent), &child, &Everything, &options);
    let mut reader = &*tar;
    let mut entries = plywood_store::layer::read::Reader::new(&mut reader, &Limits::default());
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().unwrap() {
        found.push((
            entry.path.display().to_string(),
            entry.mtime.seconds,
            entry.mtime.nanoseconds,
        ));
    }
    assert_eq!(found, [("new".to_owned(), 1000, 0), ("old".to_owned(), 600, 7)]);
}

#[test]
fn root_very_deep_trees_come_back() {
    let dir = folder();
    let tree = dir.path().join("tree");
    let mut path = tree.clone();
    for _ in 0..300 {
        path.push("dd");
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("file"), "bottom").unwrap();
    fs::write(tree.join("dd/z"), "after the deep one").unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
    let again = dir.path().join("again");
    fs::create_dir(&again).unwrap();
    apply_to(&again, &layer(None, &tree));
    assert_eq!(digest(&tree), digest(&again));
}

#[test]
fn root_the_umask_and_default_acls_do_not_show() {
    let dir = folder();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("d")).unwrap();
    File::create(tree.join("d/f")).unwrap().write_all(b"x").unwrap();
    fs::set_permissions(tree.join("d/f"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
    let tar = layer(None, &tree);
    let again = dir.path().join("again");
    fs::create_dir(&again).unwrap();
    xattr(&again, b"system.posix_acl_default", &acl(7));
    apply_to(&again, &tar);
    rustix::fs::lremovexattr(&again, "system.posix_acl_default").unwrap();
    fs::set_permissions(&again, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(digest(&tree), digest(&again));
}

/// A tar of plain entries: name, type flag, link target.
fn tar_of(entries: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, flag, link) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.as_old_mut().linkflag = [*flag];
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(0);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
    }
    tar.extend([0; 1024]);
    tar
}

/// A tree with files in folders, and a link to one of them.
fn lower(dir: &TempDir, name: &str) -> PathBuf {
    let root = dir.path().join(name);
    apply_to_new(
        &root,
        &[
            ("d", b'5', ""),
            ("d/old", b'0', ""),
            ("a", b'5', ""),
            ("a/link", b'2', "../d"),
        ],
    );
    root
}

fn apply_to_new(root: &Path, entries: &[(&str, u8, &str)]) {
    fs::create_dir(root).unwrap();
    apply_to(root, &tar_of(entries));
}

#[test]
fn root_a_folder_reached_through_a_link_keeps_its_time_when_the_link_goes() {
    let dir = folder();
    for (name, replaced) in [
        ("by a file", &[("a", b'0', "")][..]),
        ("by a folder", &[("a/link", b'5', ""), ("a/link/x", b'0', "")]),
        ("by a link to another", &[("a/link", b'2', ".")]),
    ] {
        let root = lower(&dir, name);
        let through: &[_] = &[("a/link/new", b'0', "")];
        apply_to(&root, &tar_of(&[through, replaced].concat()));
        assert!(root.join("d/new").exists());
        assert_eq!(fs::metadata(root.join("d")).unwrap().mtime(), 1, "{name}");
    }
}

#[test]
fn root_a_whiteout_after_what_lies_in_folders_of_nobodys_hides_none_of_it() {
    let dir = folder();
    let gone: &[_] = &[(".wh.d", b'0', "")];
    for (name, made) in [
        ("missing", ("d/m/n/new", b'0', "")),
        ("through a link", ("a/link/new", b'0', "")),
    ] {
        let root = lower(&dir, name);
        apply_to(&root, &tar_of(&[&[made], gone].concat()));
        assert!(root.join(made.0.replace("a/link", "d")).exists(), "{name}");
        assert!(!root.join("d/old").exists(), "{name}");
    }
}

#[test]
fn root_a_whiteout_in_a_folder_does_not_keep_the_folder() {
    let dir = folder();
    let (inner, outer) = (("d/.wh.old", b'0', ""), (".wh.d", b'0', ""));
    for (name, marks) in [("inner first", [inner, outer]), ("outer first", [outer, inner])] {
        let root = lower(&dir, name);
        apply_to(&root, &tar_of(&marks));
        assert!(!root.join("d").exists(), "{name}");
    }
}

/// So many long names that ext4 gives the folder an index of two levels, and what is left of it.
/// `PLYWOOD_TEST_NAMES=100000` takes a minute.
#[test]
fn root_a_folder_of_very_many_names_comes_back_and_goes() {
    let names = environment::number("PLYWOOD_TEST_NAMES").unwrap_or(10_000);
    let (child, built) = (folder(), folder());
    fs::create_dir(child.path().join("many")).unwrap();
    let name = |number: u32| format!("many/{number:0>200}");
    for number in 0..names {
        File::create(child.path().join(name(number))).unwrap();
    }
    apply_to(built.path(), &layer(None, child.path()));
    assert_eq!(digest(built.path()), digest(child.path()));
    for number in 1..names {
        fs::remove_file(child.path().join(name(number))).unwrap();
    }
    let removal = layer(Some(built.path()), child.path());
    apply_to(built.path(), &removal);
    assert_eq!(digest(built.path()), digest(child.path()));
}
