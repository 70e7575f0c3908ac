//! Containers that begin and end, in every way, again and again: nothing of them stays. Each run is on the bridge, in a
//! network namespace of the test's own.
//!
//! `PLYWOOD_TEST_ROUNDS=1000 tests/run root_cycles` plays it in full; docs/torture.md has what came of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where something is not as it must be"
)]

mod common;
mod torture;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Instant;

use common::edits::Dice;
use common::{Plywood, busybox_tar, in_guest, own_network, rounds, translates, wait};
use rustix::process::{Pid, Signal, kill_process};
use torture::{enter_private_namespace, leaks, seed};

/// So many rounds between two looks at everything.
const LOOK: u64 = 50;
/// Ends when it is asked to.
const POLITE: &str = "trap 'exit 7' TERM; while :; do sleep 1000 & wait $!; done";

/// The ways.
const WAYS: usize = 10;

fn round(plywood: &Plywood, way: usize) {
    let run = |args: &[&str]| plywood.ok([&["run", "--name", "one"], args].concat());
    match way {
        0 => drop(run(&["--rm", "base", "true"])),
        1 => drop(run(&[
            "--rm",
            "-m",
            "64m",
            "--tmpfs",
            "/tmp",
            "base",
            "sh",
            "-c",
            "echo x > /tmp/x; echo y > /y",
        ])),
        2 => {
            run(&["-d", "base", "sh", "-c", POLITE]);
            plywood.ok(["stop", "one"]);
            plywood.ok(["rm", "one"]);
        }
        3 => {
            run(&["-d", "--rm", "base", "sleep", "1000"]);
            plywood.ok(["kill", "one"]);
        }
        4 => {
            run(&["-d", "-v", "data:/mnt", "base", "sleep", "1000"]);
            plywood.ok(["exec", "one", "sh", "-c", "echo x > /mnt/x"]);
            plywood.ok(["rm", "-f", "one"]);
            plywood.ok(["volume", "rm", "data"]);
        }
        5 => {
            plywood.fails(127, ["run", "--rm", "--name", "one", "base", "/no/such/command"]);
        }
        6 => {
            run(&["base", "sh", "-c", "echo x >> /x"]);
            plywood.ok(["start", "-a", "one"]);
            plywood.ok(["rm", "one"]);
        }
        7 => {
            run(&["-d", "base", "sleep", "1000"]);
            plywood.ok(["commit", "one", "image"]);
            plywood.ok(["rm", "-f", "one"]);
            plywood.ok(["rmi", "image"]);
        }
        8 => {
            // Its plywood is killed, not asked.
            let mut child = plywood
                .command(["run", "--rm", "--name", "one", "base", "sleep", "1000"])
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            wait::until("it runs", || plywood.json(["ps"]) != serde_json::json!([]));
            kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
            child.wait().unwrap();
        }
        _ => {
            run(&["-d", "base", "sh", "-c", POLITE]);
            let other = ["run", "--rm", "--net", "container:one", "base", "true"];
            plywood.ok(other);
            plywood.ok(["cp", "one:/etc/passwd", plywood.beside("passwd").to_str().unwrap()]);
            plywood.ok(["stop", "one"]);
            plywood.ok(["rm", "one"]);
        }
    }
}

/// What this kernel has that runs could leave, besides what [`leaks::census`] knows. A network namespace without
/// processes is kept by a mount, which is seen here, or by a descriptor of one of [`leaks::users`].
fn machine() -> BTreeSet<String> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut add = |tool: &str, args: &[&str]| {
        let output = Command::new(tool).args(args).output().expect(tool);
        // A bridge is up while a link of it is, and has an address of its own then.
        let passing = |word: &&str| {
            ["UP", "DOWN", "UNKNOWN", "linkdown"].contains(word) || word.starts_with('<') || word.starts_with("fe80:")
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        found.extend(text.lines().map(|line| {
            let words: Vec<&str> = line.split_whitespace().filter(|word| !passing(word)).collect();
            format!("{tool}: {}", words.join(" "))
        }));
    };
    add("ip", &["-brief", "link"]);
    add("ip", &["-brief", "address"]);
    add("ip", &["netns"]);
    add("ip", &["route"]);
    if translates() {
        add("nft", &["list", "ruleset"]);
    }
    let own = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    found.extend(
        own.lines()
            .map(|line| line.split(' ').skip(2).collect::<Vec<_>>().join(" ")),
    );
    found
}

/// Nothing but the store is left, and the bridge.
fn nothing_stays(plywood: &Plywood, before: &BTreeSet<String>, rounds: u64) {
    // A monitor clears up when its container has ended, and then ends.
    wait::until("the last ones end", || leaks::users(&plywood.root()).is_empty());
    plywood.ok(["gc"]);
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
    let left = leaks::census(plywood);
    assert!(
        left.is_empty(),
        "after {rounds} rounds this is left:\n{}",
        left.join("\n")
    );
    // The kernel takes a namespace's links away in its own time.
    let mut now = machine();
    wait::until("the links go", || {
        now = machine();
        now.difference(before).next().is_none() || now.len() <= before.len()
    });
    let more: Vec<_> = now.difference(before).collect();
    assert!(more.is_empty(), "after {rounds} rounds: {more:#?}");
}

fn cycles(plywood: &Plywood) {
    own_network();
    enter_private_namespace();
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    let mut dice = Dice::new(seed());
    // The first run makes what stays for all of them: the bridge, its rules.
    round(plywood, 0);
    let before = machine();
    let rounds = rounds(20);
    let begun = Instant::now();
    for number in 1..=rounds {
        // Each way in the short slice too.
        let way = if number <= WAYS as u64 {
            usize::try_from(number - 1).unwrap()
        } else {
            dice.below(WAYS)
        };
        round(plywood, way);
        // What went by itself may still be going.
        wait::until("it goes", || {
            plywood.ok(["gc"]);
            plywood.json(["ps", "-a"]) == serde_json::json!([])
        });
        if number % LOOK == 0 || number == rounds {
            nothing_stays(plywood, &before, number);
            println!("{number} rounds, {} s", begun.elapsed().as_secs());
        }
    }
    plywood.sound();
    println!(
        "torture: {}, {rounds} containers begun and ended in {WAYS} ways",
        plywood.driver()
    );
}

#[test]
fn root_a_thousand_containers_leave_nothing() {
    let driver = if in_guest() { "thin" } else { "overlay" };
    let plywood = Plywood::new(driver).with_network();
    cycles(&plywood);
}
