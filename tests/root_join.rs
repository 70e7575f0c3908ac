//! `exec` and `nsenter`: beside what runs already.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::process::{Command, Stdio};

use common::{Plywood, wait, with_base, words};

/// A store with a container `one` that runs.
fn running() -> Plywood {
    let plywood = with_base();
    let script = "echo here > /tmp/mark; touch /run/up; exec sleep 1000";
    plywood.ok([
        "run",
        "-d",
        "--name",
        "one",
        "-e",
        "A=of the run",
        "-w",
        "/tmp",
        "--pids-limit",
        "50",
        "base",
        "sh",
        "-c",
        script,
    ]);
    wait::until("it is up", || plywood.ok(["exec", "one", "ls", "/run"]) == "up");
    plywood
}

#[test]
fn root_exec_is_in_the_container() {
    let plywood = running();
    let exec = |words: &[&str]| plywood.ok([&["exec"], words].concat());
    assert_eq!(exec(&["one", "cat", "mark"]), "here");
    assert_eq!(exec(&["one", "sh", "-c", "echo $A $B"]), "of the run");
    assert_eq!(
        exec(&["-e", "B=more", "one", "sh", "-c", "echo $A $B"]),
        "of the run more"
    );
    assert_eq!(exec(&["-w", "/etc", "one", "pwd"]), "/etc");
    assert_eq!(exec(&["-u", "ops", "one", "id", "-u"]), "1000");
    let namespaces = "for n in mnt pid uts ipc net; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done";
    let links = exec(&["one", "sh", "-c", namespaces]);
    let links: Vec<&str> = links.lines().collect();
    assert!(links.chunks(2).all(|pair| pair[0] == pair[1]), "{links:?}");
    let programs = exec(&["one", "ps"]);
    assert!(
        programs.contains("sleep 1000") && !programs.contains("plywood"),
        "{programs}"
    );
}

#[test]
fn root_exec_is_confined_as_the_container_is() {
    let plywood = running();
    let status = |pid: &str| {
        let words = ["Cap", "NoNewPrivs", "Seccomp:"];
        let text = plywood.ok(["exec", "one", "cat", &format!("/proc/{pid}/status")]);
        let lines = text
            .lines()
            .filter(|line| words.iter().any(|word| line.starts_with(word)));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(status("self"), status("1"));
    let limits = |pid: &str| plywood.ok(["exec", "one", "cat", &format!("/proc/{pid}/limits")]);
    assert_eq!(limits("self"), limits("1"));
    let groups = |pid: &str| plywood.ok(["exec", "one", "cat", &format!("/proc/{pid}/cgroup")]);
    assert_eq!(groups("self"), groups("1"));
    let descriptors = plywood.ok(["exec", "one", "ls", "/proc/self/fd"]);
    assert_eq!(descriptors.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

#[test]
fn root_exec_gives_the_commands_code_and_passes_streams() {
    let plywood = running();
    plywood.fails(7, ["exec", "one", "sh", "-c", "exit 7"]);
    plywood.fails(143, ["exec", "one", "sh", "-c", "kill -TERM $$"]);
    plywood.fails(127, ["exec", "one", "no-such-command"]);
    plywood.fails(126, ["exec", "one", "/etc"]);
    plywood.fails(125, ["exec", "-u", "nobody-known", "one", "true"]);
    plywood.fails(125, ["exec", "-w", "/nowhere", "one", "true"]);
    assert!(plywood.fails(125, ["exec", "two", "true"]).contains("no container two"));
    assert_eq!(plywood.fed(["exec", "-i", "one", "cat"], b"both ways"), "both ways");
    assert_eq!(plywood.fed(["exec", "one", "cat"], b""), "");
    // Nothing of these is left, and the container goes on.
    let programs = plywood.ok(["exec", "one", "ps"]);
    assert!(
        programs.contains("sleep 1000") && !programs.contains("cat"),
        "{programs}"
    );
    plywood.ok(["kill", "one"]);
    assert!(plywood.fails(125, ["exec", "one", "true"]).contains("does not run"));
}

#[test]
fn root_exec_has_a_terminal_of_the_containers() {
    let plywood = running();
    let exec = plywood.command(["exec", "-it", "one", "sh", "-c", "stty size; tty; exit 6"]);
    let words = words(&exec);
    let script = format!("stty rows 33 cols 77; {}; echo code $?", words);
    let mut script = Command::new("script")
        .args(["-qec", &script, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let person = script.stdin.take();
    let output = script.wait_with_output().unwrap();
    drop(person);
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(text.ends_with("33 77\n/dev/pts/0\ncode 6\n"), "{text}");
}

#[test]
fn root_exec_ends_with_the_container() {
    let plywood = running();
    let mut beside = plywood.command(["exec", "one", "sleep", "1000"]).spawn().unwrap();
    wait::until("the command beside the container's", || {
        plywood.ok(["exec", "one", "ps"]).contains("{exe} sleep")
            || plywood.ok(["exec", "one", "ps"]).matches("sleep").count() >= 2
    });
    plywood.ok(["rm", "-f", "one"]);
    assert_eq!(beside.wait().unwrap().code(), Some(137));
    plywood.sound();
}

#[test]
fn root_nsenter_runs_the_hosts_program_in_the_containers_network() {
    let plywood = running();
    let pid = plywood.json(["inspect", "one"])[0]["pid"].as_u64().unwrap();
    let link = |kind: &str| {
        std::fs::read_link(format!("/proc/{pid}/ns/{kind}"))
            .unwrap()
            .display()
            .to_string()
    };
    assert_eq!(
        plywood.ok(["nsenter", "one", "readlink", "/proc/self/ns/net"]),
        link("net")
    );
    assert_eq!(
        plywood.ok(["nsenter", "one", "--uts", "readlink", "/proc/self/ns/uts"]),
        link("uts")
    );
    assert_ne!(
        plywood.ok(["nsenter", "one", "--uts", "readlink", "/proc/self/ns/net"]),
        link("net")
    );
    // Its files are the host's.
    assert_ne!(
        plywood.ok(["nsenter", "one", "readlink", "/proc/self/ns/mnt"]),
        link("mnt")
    );
    plywood.fails(3, ["nsenter", "one", "sh", "-c", "exit 3"]);
    plywood.fails(127, ["nsenter", "one", "no-such-command"]);
    let explained = plywood.run(["--explain", "nsenter", "one", "--net", "true"]);
    let explained = String::from_utf8_lossy(&explained.stderr).into_owned();
    assert!(
        explained.contains(&format!("nsenter --target {pid} --net -- true")),
        "{explained}"
    );
}
