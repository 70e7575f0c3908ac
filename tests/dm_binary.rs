//! The binary on a thin pool: a kill at any moment loses nothing, and several at a time all succeed.

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Plywood, busybox_tar, number};

fn shell(script: &str) -> String {
    let output = Command::new("sh")
        .arg("-ec")
        .arg(script)
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    assert!(
        output.status.success(),
        "{script}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn dm_a_kill_at_any_moment_loses_nothing() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let base = base.to_str().expect("UTF-8");
    plywood.ok(["import", base, "first"]);
    plywood.ok(["run", "--name", "c", "first", "sh", "-c", "echo precious > /precious"]);
    plywood.ok(["commit", "c", "precious"]);
    let verbs: [&[&str]; 4] = [
        &["import", "-c", "LABEL a=b", base, "second"],
        &["commit", "-m", "again", "c", "again"],
        &["run", "--rm", "precious", "sh", "-c", "echo more > /more"],
        &["rmi", "again", "second"],
    ];
    let step = number("PLYWOOD_TEST_STEP").unwrap_or(15);
    for round in 0..24 {
        let verb = verbs[round % verbs.len()];
        let mut child = plywood
            .command(verb)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("plywood starts");
        std::thread::sleep(Duration::from_millis(step * (round as u64 + 1)));
        child.kill().expect("the kill");
        child.wait().expect("its end");
        let seen = plywood.ok(["run", "--rm", "precious", "cat", "/precious"]);
        assert_eq!(seen, "precious", "after {verb:?} in round {round}");
    }
    plywood.ok(["gc"]);
    plywood.sound();
    assert_eq!(
        shell("dmsetup ls | grep -c -- -thin- || true"),
        "0",
        "no volume stays active"
    );
    plywood.ok(["pool", "detach"]);
    plywood.ok(["pool", "check"]);
}

#[test]
fn dm_a_pool_that_a_killed_command_has_half_made_is_made_again() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
    let device = shell("dmsetup info -c --noheadings --separator ' ' -o name,uuid | grep pool");
    let (name, uuid) = device.split_once(' ').expect("a name and a uuid");
    // Before a table was loaded, and before it was resumed.
    for load in [String::new(), format!("dmsetup load {name} --table '0 8 error'")] {
        plywood.ok(["pool", "detach"]);
        shell(&format!("dmsetup create {name} --uuid {uuid} --notable; {load}"));
        plywood.sound();
        assert_eq!(
            plywood.ok(["run", "--rm", "base", "readlink", "/usr/share/link"]),
            "doc/b"
        );
    }
}

#[test]
fn dm_several_at_a_time_all_succeed() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let base = base.to_str().expect("UTF-8");
    let together = |args: &dyn Fn(&'static str) -> Vec<&'static str>| {
        let commands = ["a", "b", "c", "d"].map(args);
        plywood.together(&commands.each_ref().map(Vec::as_slice));
    };
    // The first ones make the pool and the golden volume together.
    let imports = ["a", "b", "c", "d"].map(|name| ["import", base, name]);
    plywood.together(&imports.each_ref().map(<[_; 3]>::as_slice));
    together(&|name| vec!["run", "--name", name, name, "sh", "-c", "echo x > /x"]);
    together(&|name| vec!["commit", name, "same"]);
    together(&|name| vec!["rm", name]);
    assert_eq!(plywood.ok(["run", "--rm", "same", "cat", "/x"]), "x");
    plywood.sound();
}

#[test]
fn dm_every_two_at_a_time_both_succeed() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().expect("UTF-8"), "base"]);
    common::every_two_at_a_time(&plywood, 2);
    assert_eq!(shell("dmsetup ls | grep -c -- -thin- || true"), "0");
}

#[test]
fn dm_a_committed_tree_has_the_times_of_its_layer() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let archive = plywood.beside("image.tar");
    let (base, archive) = (base.to_str().expect("UTF-8"), archive.to_str().expect("UTF-8"));
    plywood.ok(["import", base, "first"]);
    // The clock is later than SOURCE_DATE_EPOCH, to which the layer's times are clamped.
    let edit =
        "mkdir -p /srv/a; echo new > /srv/a/file; ln /srv/a/file /srv/link; ln -s file /srv/a/symlink; rm /bin/sh";
    plywood.ok(["run", "--name", "c", "first", "/bin/busybox", "sh", "-c", edit]);
    plywood.ok(["commit", "c", "second"]);
    let tree = || {
        let exported = plywood.beside("tree.tar");
        plywood.ok([
            "export",
            "--format",
            "rootfs",
            "-o",
            exported.to_str().expect("UTF-8"),
            "second",
        ]);
        std::fs::read(exported).expect("a tar")
    };
    let committed = tree();
    plywood.ok(["export", "--format", "oci-archive", "-o", archive, "second"]);
    plywood.ok(["rm", "c"]);
    plywood.ok(["rmi", "second", "first"]);
    plywood.ok(["gc"]);
    plywood.ok(["import", archive]);
    assert!(tree() == committed, "imported, the tree is another one");
    plywood.sound();
}
