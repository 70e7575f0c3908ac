//! A base layer on a real thin pool: written straight onto its volume, and through a mount. Same image, same tree.

mod common;
#[path = "common/volume.rs"]
mod volume;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::tars::{archive, file, raw};
use common::{Plywood, busybox_tar};
use volume::{everything, ok};

/// Imports an archive, its base layer mounted or not.
fn import(plywood: &Plywood, tar: &Path, words: &[&str], mounted: bool) -> Output {
    let mut command = plywood.command(words);
    command.arg(tar).arg("base");
    if mounted {
        command.env("PLYWOOD_BASE_LAYER", "mounted");
    }
    command.output().expect("plywood starts")
}

#[track_caller]
fn imported(plywood: &Plywood, tar: &Path, mounted: bool) -> String {
    let output = import(plywood, tar, &["-vv", "import"], mounted);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// The image's tree as a tar, and what e2fsck finds wrong in its volume.
fn tree(plywood: &Plywood) -> Vec<u8> {
    let at = plywood.beside("at");
    std::fs::create_dir_all(&at).expect("a folder");
    let at = at.to_str().expect("UTF-8");
    plywood.ok(["mount", "base", at]);
    let device = ok(Command::new("findmnt").args(["--noheadings", "--output", "SOURCE", at]));
    ok(Command::new("e2fsck").arg("-fn").arg(device.trim()));
    plywood.ok(["umount", at]);
    plywood.run(["export", "--format", "rootfs", "-o", "-", "base"]).stdout
}

#[test]
fn dm_both_ways_make_the_same_image() {
    for tar in [everything(), {
        let path = tempfile::NamedTempFile::new().expect("a file");
        busybox_tar(path.path());
        std::fs::read(path.path()).expect("a tar")
    }] {
        let roots = [false, true].map(|mounted| {
            let plywood = Plywood::new("thin");
            let path = plywood.beside("base.tar");
            std::fs::write(&path, &tar).expect("a tar");
            let said = imported(&plywood, &path, mounted);
            assert!(!said.contains("is applied to a mounted volume"), "{said}");
            plywood
        });
        let [direct, mounted] = &roots;
        assert_eq!(tree(direct), tree(mounted));
        for plywood in &roots {
            plywood.sound();
        }
        let id = |plywood: &Plywood| plywood.json(["inspect", "base"]);
        assert_eq!(id(direct)["id"], id(mounted)["id"]);
    }
}

#[test]
fn dm_containers_go_on_with_what_was_written() {
    let committed = [false, true].map(|mounted| {
        let plywood = Plywood::new("thin");
        let path = plywood.beside("base.tar");
        busybox_tar(&path);
        imported(&plywood, &path, mounted);
        for (number, edit) in common::EDITS.iter().enumerate() {
            let name = number.to_string();
            plywood.ok(["run", "--name", &name, "base", "sh", "-c", edit]);
            plywood.ok(["commit", &name, "base"]);
        }
        plywood.sound();
        // Those of one second are in no order of their own.
        let mut ids: Vec<String> = plywood.ok(["images", "-q"]).lines().map(str::to_owned).collect();
        ids.sort();
        ids
    });
    assert_eq!(committed[0], committed[1]);
}

#[test]
fn dm_what_is_unusual_goes_through_a_mount_after_all() {
    let plywood = Plywood::new("thin");
    let path = plywood.beside("odd.tar");
    let odd = archive(&[file("a/b", "in the way"), file("a", "now a file")]);
    std::fs::write(&path, odd).expect("a tar");
    let said = imported(&plywood, &path, false);
    assert!(
        said.contains("is applied to a mounted volume") && said.contains("makes way"),
        "{said}"
    );
    tree(&plywood);
    // Packed, too, and from a pipe.
    ok(Command::new("gzip").arg(&path));
    let packed = std::fs::read(path.with_extension("tar.gz")).expect("a tar");
    plywood.fed(["import", "-", "packed"], &packed);
    plywood.sound();
}

#[test]
fn dm_a_killed_import_leaves_nothing() {
    let plywood = Plywood::new("thin");
    let tar = archive(&[raw(b"large", b'0', b"", 0o644, &vec![7; 64 << 20])]);
    let mut child = plywood
        .command(["import", "-", "base"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("plywood starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(&tar[..tar.len() / 2]).expect("it reads");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    drop(input);
    plywood.ok(["gc"]);
    assert_eq!(plywood.json(["images"]), serde_json::json!([]));
    plywood.fed(["import", "-", "base"], &tar);
    plywood.sound();
}

#[test]
fn dm_an_import_into_a_full_pool_says_so() {
    for watched in [true, false] {
        let plywood = match watched {
            true => Plywood::new("thin"),
            false => Plywood::new("thin").unwatched(),
        };
        plywood.ok([
            "pool",
            "init",
            "--data-size",
            "128M",
            "--limit",
            "128M",
            "--volume-size",
            "512M",
        ]);
        let path = plywood.beside("large.tar");
        let mut dice = common::edits::Dice::new(1);
        let content: Vec<u8> = std::iter::repeat_with(|| u8::try_from(dice.below(255) + 1).unwrap_or(1))
            .take(200 << 20)
            .collect();
        std::fs::write(&path, archive(&[raw(b"large", b'0', b"", 0o644, &content)])).expect("a tar");
        let output = import(&plywood, &path, &["import"], false);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let state = match watched {
            true => "the pool is nearly full",
            false => "is full: ",
        };
        for word in ["cannot import large.tar", state, "plywood pool grow"] {
            assert!(said.contains(word), "watched {watched}, {word}: {said}");
        }
        let small = plywood.beside("small.tar");
        busybox_tar(&small);
        plywood.ok(["import", small.to_str().expect("UTF-8"), "base"]);
        plywood.sound();
    }
}
