//! Limits of memory, processors and processes: on cgroup v1 here, on v2 in the guest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Plywood, ready, wait, with_base};

/// A buffer of this many bytes, filled.
fn fill(size: &str) -> String {
    format!("dd if=/dev/zero of=/dev/null bs={size} count=1 2>/dev/null")
}

/// The folders of plywood's cgroups of this store.
fn cgroups(plywood: &Plywood) -> Vec<PathBuf> {
    let meta = fs::read_to_string(plywood.root().join("meta.json")).unwrap();
    let (_, rest) = meta.split_once("\"uuid\"").unwrap();
    let uuid = rest.split('"').nth(1).unwrap();
    let name = plywood::exec::cgroup::name(uuid, "");
    let trees = fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let folders = trees
        .chain([PathBuf::from("/sys/fs/cgroup")])
        .filter(|path| path.is_dir());
    let mut found: Vec<_> = folders
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&name))
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn root_memory_limit_kills_and_the_kill_is_told() {
    let plywood = with_base();
    // The command itself.
    let told = plywood.fails(
        137,
        [
            "run",
            "--rm",
            "-m",
            "64m",
            "base",
            "dd",
            "if=/dev/zero",
            "of=/dev/null",
            "bs=128M",
        ],
    );
    assert!(told.contains("killed: out of memory, limit 64 MiB"), "{told}");
    assert!(!told.contains("a process of"), "{told}");
    // A child of it, which goes on.
    let script = format!("{}; echo $? >&2; exit 4", fill("128M"));
    let told = plywood.fails(4, ["run", "--rm", "--memory", "64m", "base", "sh", "-c", &script]);
    assert!(told.contains("137\n"), "{told}");
    assert!(
        told.contains("a process of the container was killed: out of memory, limit 64 MiB"),
        "{told}"
    );
    // Enough is enough.
    let script = fill("16M");
    let output = plywood.run(["run", "--rm", "-m", "64m", "base", "sh", "-c", &script]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(cgroups(&plywood), Vec::<PathBuf>::new());
}

#[test]
fn root_processes_are_limited() {
    let plywood = with_base();
    let bomb = "n=0; while [ $n -lt 40 ]; do sleep 5 & n=$((n + 1)); done";
    let output = plywood.run(["run", "--rm", "--pids-limit", "10", "base", "sh", "-c", bomb]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("fork"), "{told}");
    let output = plywood.run(["run", "--rm", "--pids-limit", "-1", "base", "sh", "-c", bomb]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(cgroups(&plywood), Vec::<PathBuf>::new());
}

#[test]
fn root_the_kernel_has_the_limits_that_were_asked_for() {
    let plywood = with_base();
    let read = |file: &str| {
        let paths = cgroups(&plywood);
        let file = paths.iter().map(|path| path.join(file)).find(|path| path.exists());
        fs::read_to_string(file?).ok().map(|text| text.trim().to_owned())
    };
    let words = [
        "run",
        "--rm",
        "-i",
        "-m",
        "64m",
        "--memory-swap",
        "96m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "33",
        "base",
        "sh",
        "-c",
        "echo ready; cat",
    ];
    let mut command = plywood.command(words);
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let is_v1 = read("memory.limit_in_bytes").is_some();
    let expected: &[(&str, &str)] = if is_v1 {
        &[
            ("memory.limit_in_bytes", "67108864"),
            ("memory.memsw.limit_in_bytes", "100663296"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.cfs_period_us", "100000"),
            ("pids.max", "33"),
        ]
    } else {
        &[
            ("memory.max", "67108864"),
            ("memory.swap.max", "33554432"),
            ("cpu.max", "50000 100000"),
            ("pids.max", "33"),
        ]
    };
    for (file, value) in expected {
        assert_eq!(read(file).as_deref(), Some(*value), "{file}");
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(cgroups(&plywood), Vec::<PathBuf>::new());
}

#[test]
fn root_limits_that_cannot_be_are_refused_and_leave_nothing() {
    let plywood = with_base();
    for (options, told) in [
        (&["-m", "1m"][..], "6 MiB"),
        (&["-m", "64m", "--memory-swap", "32m"], "memory and swap together"),
        (&["--memory-swap", "64m"], "without a limit of memory"),
        (&["--cpus", "0.001"], "0.01"),
        (&["--cpus", "9999"], "this machine has"),
    ] {
        let words = [&["run", "--rm"], options, &["base", "true"]].concat();
        let error = plywood.fails(125, words);
        assert!(error.contains(told), "{error}");
    }
    for options in [
        ["-m", "lots"],
        ["--cpus", "-1"],
        ["--pids-limit", "few"],
        ["--memory-swap", "-2"],
    ] {
        plywood.fails(2, [&["run"], &options[..], &["base", "true"]].concat());
    }
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
    assert_eq!(cgroups(&plywood), Vec::<PathBuf>::new());
}

#[test]
fn root_a_killed_plywoods_cgroup_is_swept_by_the_next_command() {
    let plywood = with_base();
    let mut killed = ready(&plywood, &["run", "base", "sh", "-c", "echo ready; sleep 1000"]);
    assert!(!cgroups(&plywood).is_empty());
    killed.kill().unwrap();
    killed.wait().unwrap();
    // Its command dies with it, in its own time.
    let is_inside = |cgroup: &PathBuf| fs::read(cgroup.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty());
    wait::until("its command dies", || !cgroups(&plywood).iter().any(is_inside));
    plywood.ok(["run", "--rm", "base", "true"]);
    assert_eq!(cgroups(&plywood), Vec::<PathBuf>::new());
}
