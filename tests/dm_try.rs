//! `plywood try`: a classic snapshot over an exported file, and folding it back.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Plywood, busybox_tar, wait};
use plywood_store::Digest;

struct Exported {
    plywood: Plywood,
    file: PathBuf,
}

impl Exported {
    fn new() -> Self {
        let plywood = Plywood::new("overlay");
        let base = plywood.beside("base.tar");
        busybox_tar(&base);
        plywood.ok(["import", base.to_str().unwrap(), "base"]);
        let file = plywood.beside("base.ext4");
        plywood.ok([
            "export",
            "--format",
            "ext4",
            "--size",
            "256M",
            "-o",
            file.to_str().unwrap(),
            "base",
        ]);
        Self { plywood, file }
    }

    fn path(&self) -> &str {
        self.file.to_str().unwrap()
    }

    fn attempt(&self, options: &[&str], script: &str) -> String {
        let words = [&["try", self.path()], options, &["--", "sh", "-c", script]].concat();
        self.plywood.ok(words)
    }

    fn digest(&self) -> Digest {
        Digest::of(&std::fs::read(&self.file).unwrap())
    }

    /// A file in it, as somebody who mounts it sees it.
    fn content(&self, name: &str) -> Option<String> {
        let point = tempfile::tempdir().unwrap();
        sh(&format!("mount -o loop,ro {} {}", self.path(), point.path().display()));
        let content = std::fs::read_to_string(point.path().join(name)).ok();
        sh(&format!("umount {}", point.path().display()));
        content
    }

    /// No device, and no file beside.
    fn nothing_is_left(&self) {
        let left = sh("dmsetup ls; losetup -a");
        assert!(!left.contains("plywood-try") && !left.contains(self.path()), "{left}");
        let beside = self.file.with_file_name("base.ext4.plywood-cow");
        assert!(!beside.exists(), "{}", beside.display());
    }
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn dm_what_is_tried_is_forgotten_kept_or_merged() {
    let exported = Exported::new();
    let before = exported.digest();
    assert_eq!(exported.attempt(&[], "echo tried > /new; cat /new"), "tried");
    assert_eq!(exported.digest(), before);
    exported.nothing_is_left();

    let cow = exported.plywood.beside("kept.cow");
    let keep = ["--keep", cow.to_str().unwrap()];
    exported.attempt(&keep, "echo one > /new");
    assert_eq!(exported.attempt(&keep, "echo two >> /new; cat /new"), "one\ntwo");
    assert_eq!(exported.digest(), before);
    exported.nothing_is_left();

    let words = [
        "try",
        exported.path(),
        "--merge",
        "--",
        "sh",
        "-c",
        "echo bad > /new; exit 3",
    ];
    let error = exported.plywood.fails(3, words);
    assert!(error.contains("stays as it was"), "{error}");
    assert_eq!(exported.digest(), before);

    exported.attempt(&["--merge"], "echo merged > /new");
    exported.nothing_is_left();
    assert_eq!(exported.content("new").as_deref(), Some("merged\n"));
    sh(&format!("e2fsck -fn {}", exported.path()));
    assert_eq!(exported.attempt(&[], "cat /new"), "merged");
}

#[test]
fn dm_only_what_plywood_exported_is_tried() {
    let exported = Exported::new();
    let copy = exported.plywood.beside("copy.ext4");
    sh(&format!("cp {} {}", exported.path(), copy.display()));
    let try_it = |file: &Path| {
        exported
            .plywood
            .fails(125, ["try", file.to_str().unwrap(), "--", "true"])
    };
    let error = try_it(&copy);
    assert!(
        error.contains("no filesystem that plywood has exported") && error.contains("setfattr"),
        "{error}"
    );
    assert!(try_it(Path::new("/nowhere")).contains("/nowhere"));
    exported
        .plywood
        .fails(2, ["try", exported.path(), "--merge", "--discard", "--", "true"]);
    let short = exported.plywood.beside("short.cow");
    std::fs::write(&short, "x").unwrap();
    let words = ["try", exported.path(), "--keep", short.to_str().unwrap(), "--", "true"];
    assert!(exported.plywood.fails(125, words).contains("1 bytes"));
    let error = exported.plywood.fails(127, ["try", exported.path(), "--", "no-such"]);
    assert!(error.contains("no-such"), "{error}");
    exported.nothing_is_left();
}

#[test]
fn dm_a_try_that_is_killed_is_taken_up_by_the_next() {
    let exported = Exported::new();
    let before = exported.digest();
    let start = |options: &[&str], script: &str, lasts: u64| {
        let words = [&["try", exported.path()], options, &["--", "sh", "-c", script]].concat();
        let mut child = exported.plywood.command(words).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(lasts));
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        ended.is_some()
    };
    assert!(!start(&[], "echo x > /new; sync; sleep 100", 1500));
    // The command dies with it; its mount a moment later.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(exported.attempt(&[], "ls /new 2>/dev/null || echo none"), "none");
    assert_eq!(exported.digest(), before);
    exported.nothing_is_left();

    let write = "dd if=/dev/urandom of=/big bs=1M count=60 2>/dev/null; md5sum < /big > /sum; sync";
    let is_merging = || {
        let mark = sh(&format!(
            "getfattr --only-values -n trusted.plywood.ext4 {}",
            exported.path()
        ));
        mark == "merging"
    };
    let mut merging = 0;
    for round in 0..5 {
        let words = ["try", exported.path(), "--merge", "--", "sh", "-c", write];
        let mut child = exported.plywood.command(words).spawn().unwrap();
        wait::until("it merges, or has", || {
            child.try_wait().unwrap().is_some() || is_merging()
        });
        std::thread::sleep(Duration::from_millis(70 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        merging += u32::from(is_merging());
        // However far it was, the next one finds a whole filesystem.
        let check = "md5sum < /big | cmp - /sum && echo whole";
        assert_eq!(exported.attempt(&[], check), "whole");
    }
    assert!(merging > 0, "no kill came in the middle of a merge");
    sh(&format!("e2fsck -fn {}", exported.path()));
    exported.nothing_is_left();
}
