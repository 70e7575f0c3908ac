//! The binary on a thin pool: what `--explain` prints is true, and a kill at any moment loses nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic as tests do"
)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Plywood, busybox_tar};

/// The uuid of the root that is made by hand.
const BY_HAND: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

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

/// The commands that a verb says it is doing.
fn explained(plywood: &Plywood, args: &[&str]) -> Vec<String> {
    let output = plywood.run([&["--explain"], args].concat());
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{args:?}\n{text}");
    text.lines()
        .filter_map(|line| line.strip_prefix("+ ").map(str::to_owned))
        .collect()
}

/// Types the commands of one verb, for another root. What a container does inside itself needs tools that
/// its image lacks: of that part only the command itself is run, in the same tree.
fn type_them(commands: &[String], plywood: &Plywood, uuid: &str, by_hand: &Path) {
    let mut script = String::new();
    let mut inside = None;
    for command in commands {
        if command.starts_with("unshare --fork") {
            inside = Some(String::new());
        }
        match &mut inside {
            None if command.starts_with("rmdir ./") => {}
            None => {
                script.push_str(command);
                script.push('\n');
            }
            Some(tree) => {
                if let Some((path, _)) = command
                    .strip_prefix("cd ")
                    .and_then(|rest| rest.split_once(" && pivot_root"))
                {
                    *tree = path.to_owned();
                }
                if let Some((_, words)) = command
                    .split_once("--inh-caps=-all ")
                    .filter(|_| command.starts_with("exec "))
                {
                    script.push_str(&format!("chroot {tree} {words}\n"));
                    inside = None;
                }
            }
        }
    }
    assert!(
        inside.is_none(),
        "the container's command was not found in {commands:?}"
    );
    let root = plywood.root();
    let script = script
        .replace(root.to_str().expect("UTF-8"), by_hand.to_str().expect("UTF-8"))
        .replace(uuid, BY_HAND)
        .replace(
            &format!("plywood-{}-", &uuid[..8]),
            &format!("plywood-{}-", &BY_HAND[..8]),
        );
    let file = by_hand.with_extension("sh");
    std::fs::write(&file, script).expect("a script");
    shell(&format!("unshare --mount sh -ex {}", file.display()));
}

/// A table line without the numbers of the devices below, which differ.
fn table(device: &str) -> Vec<String> {
    let line = shell(&format!("dmsetup table {device}"));
    line.split_ascii_whitespace()
        .filter(|word| !word.contains(':'))
        .map(str::to_owned)
        .collect()
}

/// Every name under a folder with its attributes and content.
fn tree(folder: &str, with_times: bool) -> String {
    let times = if with_times { " %T@" } else { "" };
    shell(&format!(
        "cd {folder}; find . -mindepth 1 -printf '%P %y %m %U %G %l{times}\\n' | sort; find . -type f | sort | xargs sha256sum"
    ))
}

#[test]
fn dm_explained_steps_typed_by_hand_come_to_the_same() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let base = base.to_str().expect("UTF-8");
    let by_hand = plywood.beside("by-hand");

    let import = explained(&plywood, &["import", base, "base"]);
    let meta = std::fs::read_to_string(plywood.root().join("meta.json")).expect("meta.json");
    let meta: serde_json::Value = serde_json::from_str(&meta).expect("JSON");
    let uuid = meta["body"]["uuid"].as_str().expect("the root's uuid").to_owned();
    type_them(&import, &plywood, &uuid, &by_hand);
    let run = [
        "run",
        "--name",
        "c",
        "--net",
        "none",
        "base",
        "sh",
        "-c",
        "echo new > /new; rm /bin/yes; mkdir /opt",
    ];
    type_them(&explained(&plywood, &run), &plywood, &uuid, &by_hand);
    type_them(
        &explained(&plywood, &["commit", "c", "image"]),
        &plywood,
        &uuid,
        &by_hand,
    );

    let (ours, theirs) = (format!("plywood-{}", &uuid[..8]), format!("plywood-{}", &BY_HAND[..8]));
    assert_eq!(table(&format!("{ours}-pool")), table(&format!("{theirs}-pool")));
    let transaction = |pool: &str| shell(&format!("dmsetup status {pool}-pool | cut -d' ' -f4"));
    assert_eq!(transaction(&ours), transaction(&theirs));
    for (name, with_times) in [("base", true), ("image", false)] {
        let image = plywood.json(["inspect", name]);
        let layers = image[0]["layers"].as_array().expect("layers");
        let id = &layers.last().expect("a layer")["thin_id"];
        let (a, b) = (plywood.beside("a"), plywood.beside("b"));
        let (a, b) = (a.display().to_string(), b.display().to_string());
        shell(&format!("mkdir -p {a} {b}"));
        plywood.ok(["mount", name, &a]);
        shell(&format!(
            "dmsetup create {theirs}-thin-{id} --readonly --table '0 20971520 thin /dev/mapper/{theirs}-pool {id}'; mount -o ro /dev/mapper/{theirs}-thin-{id} {b}"
        ));
        assert_eq!(
            table(&format!("{ours}-thin-{id}")),
            table(&format!("{theirs}-thin-{id}"))
        );
        let (ours, by_hand) = (tree(&a, with_times), tree(&b, with_times));
        let only = |one: &str, other: &str| -> Vec<String> {
            let other: std::collections::BTreeSet<&str> = other.lines().collect();
            one.lines()
                .filter(|line| !other.contains(line))
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(only(&ours, &by_hand), only(&by_hand, &ours), "{name}: ours and by hand");
        shell(&format!("umount {b}; dmsetup remove {theirs}-thin-{id}"));
        plywood.ok(["umount", name]);
    }
    shell(&format!("dmsetup remove {theirs}-pool"));
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
    for round in 0..24 {
        let verb = verbs[round % verbs.len()];
        let mut child = plywood
            .command(verb)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("plywood starts");
        std::thread::sleep(Duration::from_millis(15 * (round as u64 + 1)));
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
fn dm_several_at_a_time_all_succeed() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let base = base.to_str().expect("UTF-8");
    // The first ones make the pool and the golden volume together.
    let names = ["a", "b", "c", "d"];
    let together = |args: &dyn Fn(&'static str) -> Vec<&'static str>| {
        let children: Vec<_> = names
            .iter()
            .map(|name| {
                plywood
                    .command(args(name))
                    .stdout(Stdio::null())
                    .spawn()
                    .expect("plywood starts")
            })
            .collect();
        for mut child in children {
            assert!(child.wait().expect("its end").success());
        }
    };
    let base: &'static str = Box::leak(base.to_owned().into_boxed_str());
    together(&|name| vec!["import", base, name]);
    together(&|name| vec!["run", "--name", name, name, "sh", "-c", "echo x > /x"]);
    together(&|name| vec!["commit", name, "same"]);
    together(&|name| vec!["rm", name]);
    assert_eq!(plywood.ok(["run", "--rm", "same", "cat", "/x"]), "x");
    plywood.sound();
}
