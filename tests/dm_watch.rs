//! The pool under a writer: it is never full, and nothing is lost where it would have been.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{Plywood, busybox_tar};

/// A pool that cannot grow by itself.
fn small_pool() -> Plywood {
    let plywood = Plywood::new("thin");
    let size = ["--data-size", "192M", "--limit", "192M", "--volume-size", "1G"];
    plywood.ok([&["pool", "init"], &size[..]].concat());
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    plywood
}

/// Something that is synced, and then more than there is room for.
const FILL: &str = "echo precious > /precious; sync; dd if=/dev/urandom of=/big bs=1M count=400 2>/dev/null; echo full";

fn ends_before_the_pool_is_full(options: &[&str]) {
    let plywood = small_pool();
    let words = [&["run", "--name", "one"], options, &["base", "sh", "-c", FILL]].concat();
    let error = plywood.fails(125, words);
    for part in [
        "container one was ended",
        "nearly full",
        "are left",
        "grows by itself to 192 MiB",
        "pool grow",
        "plywood start one",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let status = plywood.json(["pool", "status"]);
    assert_eq!(status["state"], "rw", "{status}");
    // Nothing is lost, not even what had not been synced: the filesystem is whole.
    plywood.sound();
    assert_eq!(
        plywood.fails(125, ["start", "-a", "one"]).lines().count(),
        3,
        "no room to begin, and why none is made"
    );
    plywood.ok(["pool", "grow", "--data-size", "2G"]);
    assert_eq!(plywood.ok(["start", "-a", "one"]), "full");
    plywood.ok(["commit", "one", "committed"]);
    let seen = plywood.ok(["run", "--rm", "committed", "sh", "-c", "cat /precious; stat -c %s /big"]);
    assert_eq!(seen, "precious\n419430400");
    plywood.ok(["rm", "one"]);
    plywood.sound();
}

#[test]
fn dm_a_container_is_ended_before_its_pool_is_full() {
    ends_before_the_pool_is_full(&[]);
}

#[test]
fn dm_a_cow_container_is_ended_before_its_pool_is_full() {
    ends_before_the_pool_is_full(&["--cow"]);
}

#[test]
fn dm_an_import_ends_before_the_pool_is_full() {
    let plywood = small_pool();
    let tar = plywood.beside("large.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&tar).unwrap());
    let bytes: Vec<u8> = (0..1_u64 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect();
    for number in 0..400 {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, format!("f{number}"), &bytes[..])
            .unwrap();
    }
    builder.finish().unwrap();
    let error = plywood.fails(1, ["import", tar.to_str().unwrap(), "large"]);
    assert!(error.contains("nearly full") && error.contains("pool grow"), "{error}");
    assert_eq!(plywood.json(["pool", "status"])["state"], "rw");
    plywood.sound();
    assert_eq!(plywood.ok(["run", "--rm", "base", "echo", "works"]), "works");
    plywood.ok(["pool", "grow", "--data-size", "2G"]);
    plywood.ok(["import", tar.to_str().unwrap(), "large"]);
    plywood.sound();
}

#[test]
fn dm_a_merge_stops_before_the_pool_is_full_and_goes_on() {
    let plywood = small_pool();
    let script = "dd if=/dev/urandom of=/big bs=1M count=90 2>/dev/null; md5sum < /big > /sum";
    plywood.ok(["run", "--cow", "--name", "one", "base", "sh", "-c", script]);
    let error = plywood.fails(1, ["merge", "one"]);
    assert!(error.contains("nearly full") && error.contains("pool grow"), "{error}");
    assert_eq!(plywood.json(["pool", "status"])["state"], "rw");
    plywood.ok(["pool", "grow", "--data-size", "1G"]);
    plywood.ok(["merge", "one"]);
    let check = "md5sum < /big | cmp - /sum && echo same";
    assert_eq!(plywood.ok(["run", "--rm", "base", "sh", "-c", check]), "same");
    plywood.sound();
}

/// The same pool, which grows by itself.
fn growing_pool(limit: &[&str]) -> Plywood {
    let plywood = Plywood::new("thin");
    let size = ["--data-size", "192M", "--volume-size", "1G"];
    plywood.ok([&["pool", "init"], &size[..], limit].concat());
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    plywood
}

fn data_total(plywood: &Plywood) -> u64 {
    plywood.json(["pool", "status"])["data"]["total"].as_u64().unwrap()
}

#[test]
fn dm_a_container_ends_well_because_the_pool_grew() {
    for (options, limit) in [(&[][..], &[][..]), (&["--cow"], &["--limit", "2G"])] {
        let plywood = growing_pool(limit);
        let words = [&["run", "--name", "one"], options, &["base", "sh", "-c", FILL]].concat();
        assert_eq!(plywood.ok(words), "full");
        let total = data_total(&plywood);
        assert!((400 << 20..=2 << 30).contains(&total), "{total}");
        assert_eq!(plywood.json(["pool", "status"])["state"], "rw");
        let size = plywood.root().join("pool/data").metadata().unwrap().len();
        assert_eq!(size, total);
        plywood.sound();
        plywood.ok(["pool", "detach"]);
        assert_eq!(plywood.ok(["start", "-a", "one"]), "full");
        // It has grown since, maybe. Making the same pool again is a success still.
        let total = data_total(&plywood);
        plywood.ok([&["pool", "init", "--data-size", "192M"], limit].concat());
        assert_eq!(data_total(&plywood), total);
        plywood.ok(["rm", "one"]);
        plywood.sound();
    }
}

#[test]
fn dm_a_pool_grows_to_its_limit_and_no_further() {
    let plywood = growing_pool(&["--limit", "320M"]);
    let error = plywood.fails(125, ["run", "--name", "one", "base", "sh", "-c", FILL]);
    for part in [
        "container one was ended",
        "of 320.00 MiB are left",
        "has 320 MiB, and grows by itself to 320 MiB",
        "pool grow",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(data_total(&plywood), 320 << 20);
    plywood.sound();
    plywood.ok(["pool", "grow", "--limit", "2G"]);
    assert_eq!(plywood.ok(["start", "-a", "one"]), "full");
    assert!(data_total(&plywood) > 320 << 20);
    plywood.ok(["rm", "one"]);
    plywood.sound();
}

#[test]
fn dm_two_containers_grow_one_pool() {
    let plywood = growing_pool(&[]);
    let fill = |name| ["run", "--name", name, "base", "sh", "-c", FILL];
    plywood.together(&[&fill("one"), &fill("two")]);
    assert!(data_total(&plywood) > 800 << 20);
    plywood.ok(["rm", "one", "two"]);
    plywood.sound();
}

/// A disk of its own, mounted.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new(mib: u64) -> Self {
        let disk = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let (file, at) = (disk.folder.path().join("file"), disk.path());
        std::fs::create_dir(&at).unwrap();
        let script = format!(
            "truncate -s {mib}M {file}; mkfs.ext4 -q -m 0 {file}; mount -o loop {file} {at}",
            file = file.display(),
            at = at.display()
        );
        assert!(Command::new("sh").args(["-ec", &script]).status().unwrap().success());
        disk
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// Bytes that are left, and that there are.
    fn bytes(&self) -> (u64, u64) {
        rustix::fs::sync();
        let disk = rustix::fs::statvfs(self.path()).unwrap();
        (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
fn dm_a_pool_never_grows_into_the_last_tenth_of_its_disk() {
    let disk = Disk::new(480);
    let plywood = Plywood::new_in(&disk.path(), "thin");
    plywood.ok(["pool", "init", "--data-size", "128M", "--volume-size", "1G"]);
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    let error = plywood.fails(125, ["run", "--name", "one", "base", "sh", "-c", FILL]);
    for part in ["container one was ended", "whose last tenth stays free", "pool grow"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(data_total(&plywood) > 256 << 20, "it has grown");
    let (free, total) = disk.bytes();
    assert!(free >= total / 10, "{free} of {total} bytes are left");
    plywood.sound();
    plywood.ok(["rm", "one"]);
    plywood.sound();
    // With its pool.
    plywood.ok(["pool", "detach"]);
}
