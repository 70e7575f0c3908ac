//! `--userns auto` where the machine has other settings: in the guest, whose settings are nobody's.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Plywood, busybox_tar, with_base};

/// A file of the guest's with another content, until dropped.
struct Changed(&'static str, Option<String>);

impl Changed {
    fn to(path: &'static str, content: &str) -> Self {
        let before = fs::read_to_string(path).ok();
        fs::write(path, content).unwrap();
        Self(path, before)
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _ = match &self.1 {
            Some(before) => fs::write(self.0, before),
            None => fs::remove_file(self.0),
        };
    }
}

fn nothing_is_left(plywood: &Plywood) {
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
    assert_eq!(fs::read_dir(plywood.root().join("mnt/overlay")).unwrap().count(), 0);
    plywood.sound();
}

#[test]
fn dm_userns_numbers_are_those_of_subuid_and_end_with_them() {
    let plywood = with_base();
    let both = "ops:100000:65536\ncontainers:200000:131072\n";
    let (_users, groups) = (Changed::to("/etc/subuid", both), Changed::to("/etc/subgid", both));
    let first = |name: &str| {
        let map = plywood.ok([
            "run",
            "--name",
            name,
            "--userns",
            "auto",
            "base",
            "cat",
            "/proc/self/uid_map",
        ]);
        map.split_whitespace().nth(1).unwrap().to_owned()
    };
    let mut firsts = [first("a"), first("b")];
    let freed = firsts[0].clone();
    firsts.sort();
    assert_eq!(firsts, ["200000", "265536"]);
    let told = plywood.fails(125, ["run", "--name", "c", "--userns", "auto", "base", "true"]);
    assert!(
        told.contains("65536 user and group numbers") && told.contains("/etc/subuid"),
        "{told}"
    );
    plywood.ok(["rm", "a"]);
    assert_eq!(first("c"), freed);
    plywood.ok(["rm", "b", "c"]);
    // Users without groups are not enough.
    drop(groups);
    plywood.fails(125, ["run", "--userns", "auto", "base", "true"]);
    nothing_is_left(&plywood);
}

#[test]
fn dm_userns_a_kernel_that_allows_none_is_told() {
    let plywood = with_base();
    let none = Changed::to("/proc/sys/user/max_user_namespaces", "0");
    let told = plywood.fails(125, ["run", "--userns", "auto", "base", "true"]);
    assert!(told.contains("max_user_namespaces"), "{told}");
    plywood.ok(["run", "--rm", "base", "true"]);
    drop(none);
    plywood.ok(["run", "--rm", "--userns", "auto", "base", "true"]);
    nothing_is_left(&plywood);
}

#[test]
fn dm_userns_a_filesystem_that_cannot_show_other_owners_is_told() {
    let place = Path::new("/run/plywood-test-tmpfs");
    fs::create_dir_all(place).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "x"])
        .arg(place)
        .status()
        .unwrap();
    assert!(mount.success());
    {
        let plywood = Plywood::new_in(place, "overlay");
        let base = plywood.beside("base.tar");
        busybox_tar(&base);
        plywood.ok(["import", base.to_str().unwrap(), "base"]);
        // Linux 6.1 has no idmapped mounts of tmpfs.
        let told = plywood.fails(125, ["run", "--userns", "auto", "base", "true"]);
        assert!(
            told.contains("cannot show other owners") && told.contains("ext4"),
            "{told}"
        );
        nothing_is_left(&plywood);
        let elsewhere = with_base();
        let bind = format!("{}:/mnt2:idmap", place.display());
        let told = elsewhere.fails(125, ["run", "--userns", "auto", "-v", &bind, "base", "true"]);
        assert!(told.contains(":idmap"), "{told}");
        nothing_is_left(&elsewhere);
    }
    assert!(Command::new("umount").arg(place).status().unwrap().success());
}
