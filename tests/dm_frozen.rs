//! Why the pool's watch does not freeze filesystems: what the kernel does with a frozen one. In the guest.
//!
//! The table in docs/reliability.md is of these experiments. Where one of them ends otherwise, the kernel has
//! changed its mind, and so may we.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something is not as it must be, and shows its figures"
)]

mod common;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Plywood, busybox_tar, wait};

/// A script's output, and whether it succeeded.
fn shell(script: &str) -> (String, bool) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (text, output.status.success())
}

fn must(script: &str) -> String {
    let (text, succeeded) = shell(script);
    assert!(succeeded, "{script}: {text}");
    text
}

#[test]
fn dm_freezing_a_filesystem_writes_what_it_should_hold_back() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    let used = || plywood.json(["pool", "status"])["data"]["used"].as_u64().unwrap();
    let settings = must("sysctl vm.dirty_ratio vm.dirty_background_ratio vm.dirty_writeback_centisecs | tr -d ' '");
    must("sysctl -q vm.dirty_ratio=80 vm.dirty_background_ratio=60 vm.dirty_writeback_centisecs=0");
    let script = "dd if=/dev/urandom of=/big bs=1M count=96 2>/dev/null; echo ready; sleep 1000";
    plywood.ok(["run", "-d", "--name", "one", "base", "sh", "-c", script]);
    plywood.await_log("one", "ready");
    let pid = plywood.json(["ps"])[0]["pid"].as_u64().unwrap();
    let before = used();
    let begun = Instant::now();
    must(&format!("fsfreeze --freeze /proc/{pid}/root"));
    let elapsed = begun.elapsed();
    let frozen = used();
    must(&format!("fsfreeze --unfreeze /proc/{pid}/root"));
    must(&format!("sysctl -q {}", settings.replace('\n', " ")));
    println!("{before} bytes of the pool, {frozen} once it was frozen, {elapsed:?} later");
    assert!(frozen - before >= 64 << 20, "{before} {frozen}");
    plywood.ok(["kill", "one"]);
    plywood.sound();
}

/// A filesystem on a device-mapper device, mounted and frozen in a namespace of its own.
struct Frozen {
    folder: tempfile::TempDir,
    device: String,
    user: Child,
}

impl Frozen {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        let disk = disk.display();
        let device = must(&format!(
            "truncate -s 64M {disk}; mkfs.ext4 -q {disk}; losetup --find --show {disk}"
        ));
        must(&format!("dmsetup create frozen --table '0 131072 linear {device} 0'"));
        std::fs::create_dir(folder.path().join("mnt")).unwrap();
        let at = folder.path().join("mnt");
        let script = format!(
            "mount /dev/mapper/frozen {at}; fsfreeze --freeze {at}; touch {folder}/ready; exec sleep 1000",
            at = at.display(),
            folder = folder.path().display()
        );
        let user = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-ec", &script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        wait::until("it is frozen", || folder.path().join("ready").exists());
        Self { folder, device, user }
    }

    fn mount(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.user.kill();
        let _ = self.user.wait();
        // A test may have removed it by itself.
        shell(&format!(
            "dmsetup remove --retry frozen || true; losetup --detach {}",
            self.device
        ));
    }
}

#[test]
fn dm_who_writes_into_a_frozen_filesystem_cannot_be_ended() {
    let frozen = Frozen::new();
    let user = frozen.user.id();
    let mut writer = Command::new("nsenter")
        .args(["--mount", "--target", &user.to_string(), "touch"])
        .arg(frozen.mount().join("file"))
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", writer.id());
    let waits = || std::fs::read_to_string(&status).unwrap().contains("State:\tD");
    wait::until("the writer waits", || {
        waits() && std::fs::read_to_string(&status).unwrap().contains("touch")
    });
    writer.kill().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(writer.try_wait().unwrap().is_none() && waits());
    must(&format!(
        "fsfreeze --unfreeze /proc/{user}/root{}",
        frozen.mount().display()
    ));
    wait::until("the writer ends", || {
        !std::path::Path::new(&status).exists() || !waits()
    });
    writer.wait().unwrap();
}

#[test]
fn dm_a_frozen_filesystem_outlives_its_mounts() {
    let mut frozen = Frozen::new();
    frozen.user.kill().unwrap();
    frozen.user.wait().unwrap();
    wait::until("the mounts go", || {
        !shell("grep -q mapper/frozen /proc/[0-9]*/mountinfo 2>/dev/null").1
    });
    assert!(!shell("dmsetup remove frozen").1, "it is in use, by nobody");
    assert!(!shell("dmsetup suspend frozen").1, "nor can it be snapshotted");
    let at = frozen.mount();
    let at = at.display();
    must(&format!(
        "mount /dev/mapper/frozen {at}; fsfreeze --unfreeze {at}; umount {at}"
    ));
    must("dmsetup remove --retry frozen");
}
