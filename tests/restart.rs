//! The pool is there again by itself after the machine was restarted, or lost its power.
//!
//! Boots two guests one after the other on the same disk (`tests/guest/boot`).

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::busybox_tar;

/// Ends the guest at once, without writing back anything.
const CUT: &str = "echo o > /proc/sysrq-trigger; sleep 60";

/// A guest's disk, kept from one boot to the next.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        busybox_tar(&folder.path().join("base.tar"));
        Self { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Boots and runs a shell script in which `plywood` is the binary and `$base` the base tar.
    /// Gives whether the script ended well, and what it printed.
    fn guest(&self, script: &str) -> (bool, String) {
        let plywood = Path::new(env!("CARGO_BIN_EXE_plywood"));
        let base = self.folder.path().join("base.tar");
        let root = "--root /srv/plywood-test/root --driver thin";
        let script = format!(
            "set -e; plywood() {{ {} {root} \"$@\"; }}; base={}; {script}",
            plywood.display(),
            base.display()
        );
        let mut boot = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/boot"));
        boot.arg("--disk")
            .arg(self.file())
            .args(["--timeout", "300", "--", "sh", "-c", &script]);
        let output = boot.stdin(Stdio::null()).output().expect("the guest's script");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Boots, wants the script to end well, gives what it printed.
    fn boot(&self, script: &str) -> String {
        let (ended_well, text) = self.guest(script);
        assert!(ended_well, "{text}");
        text
    }
}

#[test]
fn an_image_runs_after_a_restart_of_the_machine() {
    let disk = Disk::new();
    disk.boot("plywood import $base base; plywood run --name c base sh -c 'echo kept > /kept'; plywood commit c image");
    let text = disk.boot("plywood run --rm image cat /kept; plywood start -a c; plywood check --data; plywood images");
    assert!(text.lines().any(|line| line.trim() == "kept"), "{text}");
}

#[test]
fn an_acknowledged_commit_survives_a_power_cut() {
    let disk = Disk::new();
    let (ended_well, text) = disk.guest(&format!(
        "plywood import $base base; plywood run --name c base sh -c 'echo kept > /kept'; plywood commit c image; {CUT}"
    ));
    assert!(!ended_well, "the guest went on: {text}");
    let text = disk.boot("plywood run --rm image cat /kept; plywood check --data");
    assert!(text.lines().any(|line| line.trim() == "kept"), "{text}");
}

#[test]
fn a_power_cut_in_the_middle_leaves_nothing_half_done() {
    let disk = Disk::new();
    disk.boot("plywood import $base base");
    for delay in ["0.1", "0.4", "0.8", "1.5"] {
        let (ended_well, text) = disk.guest(&format!(
            "(plywood run --name c base sh -c 'echo kept > /kept' && plywood commit c image) & sleep {delay}; {CUT}"
        ));
        assert!(!ended_well, "the guest went on: {text}");
        // Either it was not committed, or it is whole; and the image beneath is as it was.
        let text = disk.boot(
            "plywood check --data
             plywood run --rm base sh -c 'test ! -e /kept && echo clean'
             if plywood inspect image >/dev/null 2>&1; then plywood run --rm image cat /kept; fi
             plywood rmi -f image; plywood rm -f c; plywood gc; plywood check --data",
        );
        assert!(text.contains("clean"), "after {delay} s: {text}");
    }
}
