//! The experiments of the article that plywood grew from, one by one: what a person
//! does by hand to see that a container is one. Those about the network are in
//! `root_network`, the one about memory in `root_limits`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs;
use std::process::Command;

use common::{Plywood, with_base};

/// Runs a script in a new container.
fn sh(plywood: &Plywood, script: &str) -> String {
    plywood.ok(["run", "--rm", "base", "sh", "-c", script])
}

/// What a program of the host's says.
fn host(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn root_experiment_shared_memory_is_not_seen_across_ipc_namespaces() {
    let plywood = with_base();
    let made = host("ipcmk", &["--shmem", "4096"]);
    let id = made.rsplit(' ').next().unwrap().trim();
    let outside = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    // The first line is the heading.
    let inside = sh(&plywood, "tail -n +2 /proc/sysvipc/shm");
    host("ipcrm", &["--shmem-id", id]);
    assert!(outside.split_whitespace().any(|word| word == id), "{id} in {outside}");
    assert_eq!(inside, "");
}

#[test]
fn root_experiment_a_umount_inside_is_not_seen_outside() {
    let plywood = with_base();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let words = ["run", "--rm", "--cap-add", "SYS_ADMIN", "base", "sh", "-c"];
    let script = "umount /dev/shm && ! grep -q ' /dev/shm ' /proc/mounts && mount -t tmpfs none /mnt; grep -c ' /mnt ' /proc/mounts";
    assert_eq!(
        plywood.ok([&words[..], &[&format!("mkdir /mnt; {script}")]].concat()),
        "1"
    );
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

#[test]
fn root_experiment_the_command_is_process_1() {
    let plywood = with_base();
    assert_eq!(sh(&plywood, "echo $$"), "1");
}

#[test]
fn root_experiment_ps_shows_only_the_containers_own() {
    let plywood = with_base();
    let programs = sh(&plywood, "ps -o pid,args");
    let lines: Vec<&str> = programs.lines().collect();
    // The heading, the shell or what became of it, ps.
    assert!((2..=3).contains(&lines.len()), "{programs}");
    assert!(!programs.contains("plywood"), "{programs}");
}

#[test]
fn root_experiment_a_hostname_set_inside_is_not_seen_outside() {
    let plywood = with_base();
    let before = rustix::system::uname().nodename().to_owned();
    let words = [
        "run",
        "--rm",
        "--cap-add",
        "SYS_ADMIN",
        "base",
        "sh",
        "-c",
        "hostname inside && hostname",
    ];
    assert_eq!(plywood.ok(words), "inside");
    assert_eq!(
        plywood.ok(["run", "--rm", "--hostname", "given", "base", "hostname"]),
        "given"
    );
    assert_eq!(rustix::system::uname().nodename(), before.as_c_str());
}

#[test]
fn root_experiment_pivot_root_shows_only_the_image() {
    let plywood = with_base();
    assert_eq!(
        sh(&plywood, "ls /").split_whitespace().collect::<Vec<_>>(),
        [
            "bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "var"
        ]
    );
    // Above the root there is the root.
    assert_eq!(sh(&plywood, "ls /../../.."), sh(&plywood, "ls /"));
    // No mount leads to the host's tree: the store's folder is in none of them.
    let mounts = sh(&plywood, "awk '{print $5}' /proc/self/mountinfo");
    let root = plywood.root();
    assert!(!mounts.contains(root.to_str().unwrap()), "{mounts}");
}
