//! Containers that go on by themselves: `run -d`, and the verbs on what runs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::killed::{kill_monitor, monitor_of};
use common::{Plywood, killed, wait, with_base, words};

/// Ends at TERM with 9, and says so.
const ENDS_WELL: &str = "trap 'echo ended; exit 9' TERM; echo ready; while :; do sleep 0.1; done";

fn state_of(plywood: &Plywood, name: &str) -> (String, Option<i64>) {
    let containers = plywood.json(["ps", "-a"]);
    let found = containers.as_array().unwrap().iter().find(|one| one["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no {name} in {containers}"));
    (found["state"].as_str().unwrap().to_owned(), found["exit_code"].as_i64())
}

#[test]
fn root_a_detached_container_goes_on_and_is_stopped() {
    let plywood = with_base();
    let id = plywood.ok(["run", "-d", "--name", "one", "base", "sh", "-c", ENDS_WELL]);
    assert_eq!(id.len(), 64);
    assert_eq!(state_of(&plywood, "one").0, "running");
    plywood.await_log("one", "ready");
    assert!(plywood.fails(1, ["rm", "one"]).contains("is running"));
    assert_eq!(plywood.ok(["stop", "one"]), "one");
    assert_eq!(state_of(&plywood, "one"), ("exited".to_owned(), Some(9)));
    assert_eq!(plywood.ok(["logs", "one"]), "ready\nended");
    assert_eq!(plywood.ok(["logs", "-n", "1", "one"]), "ended");
    assert_eq!(plywood.ok(["logs", "-n", "0", "one"]), "");
    assert!(plywood.ok(["logs", "-t", "one"]).starts_with("20"));
    assert_eq!(plywood.ok(["wait", "one"]), "9");
    // Stopping what has ended is no failure; a signal for it is.
    plywood.ok(["stop", "one"]);
    assert!(plywood.fails(1, ["kill", "one"]).contains("does not run"));
    // Again, and what it writes is added.
    assert_eq!(plywood.ok(["start", "one"]), "one");
    plywood.await_log("one", "ended\nready");
    plywood.ok(["kill", "one"]);
    assert_eq!(state_of(&plywood, "one"), ("exited".to_owned(), Some(137)));
    plywood.ok(["rm", "one"]);
    assert!(plywood.fails(1, ["logs", "one"]).contains("no container one"));
    assert_eq!(std::fs::read_dir(plywood.root().join("logs")).unwrap().count(), 0);
    plywood.sound();
}

#[test]
fn root_a_container_that_ignores_its_stop_signal_is_killed() {
    let plywood = with_base();
    plywood.ok(["run", "-d", "--name", "deaf", "base", "sleep", "1000"]);
    plywood.ok(["stop", "-t", "0", "deaf"]);
    assert_eq!(state_of(&plywood, "deaf"), ("exited".to_owned(), Some(137)));
    let script = "trap 'exit 4' USR2; echo ready; while :; do sleep 0.1; done";
    plywood.ok([
        "run",
        "-d",
        "--name",
        "own",
        "--stop-signal",
        "USR2",
        "base",
        "sh",
        "-c",
        script,
    ]);
    plywood.await_log("own", "ready");
    plywood.ok(["stop", "own"]);
    assert_eq!(state_of(&plywood, "own"), ("exited".to_owned(), Some(4)));
}

#[test]
fn root_a_failed_detached_run_is_told_at_once_and_leaves_nothing() {
    let plywood = with_base();
    let error = plywood.fails(127, ["run", "-d", "--rm", "base", "no-such-command"]);
    assert!(error.contains("no-such-command"), "{error}");
    let error = plywood.fails(125, ["run", "-d", "-u", "nobody-known", "base", "true"]);
    assert!(error.contains("nobody-known"), "{error}");
    plywood.fails(125, ["run", "-d", "no-image"]);
    plywood.fails(125, ["run", "-d", "--detach-keys", "ctrl-", "base", "true"]);
    plywood.fails(2, ["kill", "-s", "WAVE", "x"]);
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
}

#[test]
fn root_a_detached_container_with_rm_goes_when_it_ends() {
    let plywood = with_base();
    plywood.ok([
        "run",
        "-d",
        "--rm",
        "--name",
        "short",
        "base",
        "sh",
        "-c",
        "sleep 0.2; exit 3",
    ]);
    let waited = plywood.fails(1, ["wait", "short"]);
    assert!(
        waited.contains("was removed when it ended") || waited.contains("no container"),
        "{waited}"
    );
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
}

#[test]
fn root_attach_passes_both_ways_and_gives_the_code() {
    let plywood = with_base();
    let script = "echo ready; while read line; do echo \"got $line\"; echo \"not $line\" >&2; done; exit 5";
    plywood.ok(["run", "-d", "-i", "--name", "talk", "base", "sh", "-c", script]);
    plywood.await_log("talk", "ready");
    let mut attached = plywood
        .command(["attach", "talk"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    attached.stdin.take().unwrap().write_all(b"one\ntwo\n").unwrap();
    let output = attached.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "got one\ngot two\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "not one\nnot two\n");
    assert_eq!(plywood.ok(["logs", "talk"]), "ready\ngot one\ngot two");
    assert!(plywood.fails(125, ["attach", "talk"]).contains("does not run"));
}

#[test]
fn root_logs_follow_until_the_end_and_keep_every_byte() {
    let plywood = with_base();
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i + 1)); done; printf 'no newline \\377'";
    plywood.ok(["run", "-d", "--name", "long", "base", "sh", "-c", script]);
    let followed = plywood.run(["logs", "-f", "long"]);
    assert!(followed.status.success());
    let expected: String = (0..2000).map(|number| format!("line {number}\n")).collect();
    assert_eq!(followed.stdout, [expected.as_bytes(), b"no newline \xff"].concat());
}

#[test]
fn root_a_person_leaves_a_container_and_comes_back() {
    let plywood = with_base();
    let run = plywood.command(["run", "-it", "--name", "room", "base", "sh"]);
    let words = words(&run);
    let mut script = Command::new("script")
        .args([
            "-qec",
            &format!("{}; echo code $?; stty -a | grep -o ' echo '", words),
            "/dev/null",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut person = script.stdin.take().unwrap();
    person.write_all(b"x=here; echo in $((40 + 2))\n").unwrap();
    wait::until("the shell answers", || {
        let log = plywood.run(["logs", "room"]).stdout;
        log.windows(5).any(|bytes| bytes == b"in 42")
    });
    person.write_all(b"\x10\x11").unwrap();
    let mut seen = String::new();
    script.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    assert!(script.wait().unwrap().success());
    assert!(
        seen.contains("the container goes on") && seen.contains("code 0") && seen.contains(" echo "),
        "{seen}"
    );
    drop(person);
    assert_eq!(state_of(&plywood, "room").0, "running");
    let again = plywood.fed_and_code(["attach", "room"], b"echo still $x; exit 6\n");
    assert_eq!(again.0, Some(6));
    assert!(again.1.contains("still here"), "{}", again.1);
}

#[test]
fn root_a_killed_monitor_takes_its_container_with_it() {
    let plywood = with_base();
    let id = plywood.ok(["run", "-d", "--name", "one", "base", "sleep", "1000"]);
    let has_socket = || {
        let mut sockets = std::fs::read_dir("/run/plywood").unwrap();
        sockets.any(|socket| socket.unwrap().path().to_str().unwrap().ends_with(&id[..12]))
    };
    assert!(has_socket());
    kill_monitor(&plywood, "one");
    assert_eq!(state_of(&plywood, "one"), ("exited".to_owned(), Some(137)));
    plywood.ok(["gc"]);
    assert!(!has_socket(), "the next command clears up");
    plywood.ok(["start", "one"]);
    plywood.ok(["rm", "-f", "one"]);
    plywood.sound();
}

#[test]
fn root_what_a_killed_run_had_made_to_mount_on_is_in_no_layer() {
    let plywood = with_base();
    killed::what_it_had_made_to_mount_on_is_in_no_layer(&plywood, "one", &[]);
    plywood.sound();
}

/// Processor time that a process has used, in hundredths of a second.
fn ticks(pid: rustix::process::Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
fn root_a_terminal_that_nobody_has_open_is_not_polled_all_the_time() {
    let plywood = with_base();
    let script = "echo closing; exec 0<&- 1>&- 2>&-; sleep 4; exec >/dev/tty; echo again; sleep 1000";
    plywood.ok(["run", "-dt", "--name", "one", "base", "sh", "-c", script]);
    plywood.await_log("one", "closing");
    let monitor = monitor_of(&plywood, "one");
    std::thread::sleep(Duration::from_millis(500));
    let before = ticks(monitor);
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks(monitor) - before;
    assert!(used < 40, "{used} hundredths of 2 seconds");
    plywood.await_log("one", "again");
    plywood.ok(["kill", "one"]);
    plywood.sound();
}
