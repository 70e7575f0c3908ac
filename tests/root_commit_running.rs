//! `commit` of a container that runs: of one moment, and nothing but the moment is taken from the container.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where something is not as it must be"
)]

mod common;
mod torture;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::edits::Dice;
use common::{EDITS, Plywood, busybox_tar, in_guest, rounds, wait};
use torture::killer::Killer;
use torture::stepper::{Victim, step};
use torture::story::Verb;
use torture::{End, number, seed};

/// Writes a line into `a`, then the same into `b`, for ever.
const WRITER: &str = "mkdir /d /e; i=0; while :; do i=$((i+1)); echo $i >> /d/a; echo $i >> /e/b; done";
/// The same, each on the disk before the next is written.
const SYNCING: &str =
    "mkdir /d /e; i=0; while :; do i=$((i+1)); echo $i >> /d/a; sync /d/a; echo $i >> /e/b; sync /e/b; done";

/// A store with the image `base` for each driver that this kernel has.
fn stores() -> Vec<Plywood> {
    // The guest is slow, and overlay the same there.
    vec![store(if in_guest() { "thin" } else { "overlay" })]
}

fn store(driver: &'static str) -> Plywood {
    let plywood = Plywood::new(driver);
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    plywood
}

fn start(plywood: &Plywood, name: &str, script: &str) {
    plywood.ok(["run", "-d", "--name", name, "base", "sh", "-c", script]);
}

/// A file of a running container, seen from outside.
fn inside(plywood: &Plywood, name: &str, path: &str) -> PathBuf {
    let pid = plywood.json(["inspect", name])[0]["pid"].as_u64().unwrap();
    PathBuf::from(format!("/proc/{pid}/root/{path}"))
}

/// Wants the container to write.
#[track_caller]
fn goes_on(file: &Path) {
    let length = || fs::metadata(file).map_or(0, |file| file.len());
    let before = length();
    wait::until(&format!("{} grows", file.display()), || length() > before);
}

/// How many lines a file has, all of them written by the writer.
fn lines(text: &str) -> usize {
    for (at, line) in text.lines().enumerate() {
        assert_eq!(line, (at + 1).to_string());
    }
    text.lines().count()
}

/// The lines of both files in an image's top layer.
fn pair(plywood: &Plywood, image: &str) -> (usize, usize) {
    let file = plywood.beside("layer.tar");
    plywood.ok(["export", "--format", "layer", "-o", file.to_str().unwrap(), image]);
    let mut found = (0, 0);
    let mut tar = tar::Archive::new(fs::File::open(&file).unwrap());
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut text = String::new();
        match path.to_str() {
            Some("d/a") => {
                entry.read_to_string(&mut text).unwrap();
                found.0 = lines(&text);
            }
            Some("e/b") => {
                entry.read_to_string(&mut text).unwrap();
                found.1 = lines(&text);
            }
            _ => {}
        }
    }
    found
}

/// Nothing of a commit is left: no lock, no snapshot, no frozen cgroup.
#[track_caller]
fn nothing_is_left(plywood: &Plywood) {
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(plywood.root().join(folder)).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let locks: Vec<_> = names("locks")
        .into_iter()
        .filter(|name| name.starts_with("still-"))
        .collect();
    assert_eq!(locks, Vec::<String>::new());
    let containers = plywood.json(["ps", "-a"]).as_array().unwrap().len();
    assert_eq!(names("records/snapshots").len(), containers);
    assert_eq!(torture::leaks::frozen(&plywood.root()), Vec::<String>::new());
    plywood.sound();
}

#[test]
fn root_a_commit_of_a_running_container_is_of_one_moment() {
    let rounds = rounds(4);
    for plywood in stores() {
        for (name, script) in [("writer", WRITER), ("syncing", SYNCING)] {
            start(&plywood, name, script);
            let file = inside(&plywood, name, "d/a");
            let mut before = 0;
            for round in 0..rounds {
                goes_on(&file);
                let image = format!("{name}:{round}");
                plywood.ok(["commit", name, &image]);
                goes_on(&file);
                let (a, b) = pair(&plywood, &image);
                assert!(
                    a == b || a == b + 1,
                    "{} {image}: {a} lines, then {b}",
                    plywood.driver()
                );
                assert!(a > before, "{} {image}: {a} lines after {before}", plywood.driver());
                before = a;
            }
            // All that it ever wrote is in it.
            plywood.ok(["kill", name]);
            let kept = plywood.beside("kept");
            plywood.ok(["cp", &format!("{name}:/d/a"), kept.to_str().unwrap()]);
            assert!(lines(&fs::read_to_string(&kept).unwrap()) > before);
            plywood.ok(["commit", "--diff", "verify", name, "ended"]);
            assert!(pair(&plywood, "ended").0 > before);
            nothing_is_left(&plywood);
        }
        if plywood.driver() == "thin" {
            torture::leaks::volumes_are_clean(&plywood);
        }
    }
}

#[test]
fn root_a_running_container_commits_what_one_that_has_ended_does() {
    for plywood in stores() {
        // The second has nothing that plywood mounts on: it makes that, and takes it away again.
        let bare = plywood.beside("bare.tar");
        bare_tar(&bare);
        plywood.ok(["import", bare.to_str().unwrap(), "bare"]);
        for (image, edit) in [("base", EDITS[0]), ("bare", "echo x > /bin/x && ln /bin/x /bin/y")] {
            let script = format!("({edit}) && mkdir /bin/ready && exec busybox sleep 1000");
            plywood.ok(["run", "-d", "--name", "one", image, "sh", "-c", &script]);
            let ready = inside(&plywood, "one", "bin/ready");
            wait::until("the edits", || ready.exists());
            let mut ids = Vec::new();
            for args in [
                &["--diff", "verify"][..],
                &["--diff", "walk"],
                &["--pause"],
                &["--pause=true"],
                &["--pause=false"],
                &["-p=false", "--diff", "verify"],
            ] {
                ids.push(plywood.ok([&["commit"], args, &["one", "image"]].concat()));
            }
            plywood.fails(2, ["commit", "--pause=maybe", "one", "image"]);
            plywood.ok(["kill", "one"]);
            ids.push(plywood.ok(["commit", "--diff", "verify", "one", "ended"]));
            assert!(
                ids.iter().all(|id| *id == ids[0]),
                "{} {image}: {ids:?}",
                plywood.driver()
            );
            plywood.ok(["rm", "one"]);
            nothing_is_left(&plywood);
        }
    }
}

#[test]
fn root_a_running_container_with_users_of_its_own_is_committed_where_that_can_be() {
    for plywood in stores() {
        let script = format!("({}) && mkdir /bin/ready && exec sleep 1000", EDITS[0]);
        plywood.ok([
            "run", "-d", "--name", "one", "--userns", "auto", "base", "sh", "-c", &script,
        ]);
        let ready = inside(&plywood, "one", "bin/ready");
        wait::until("the edits", || ready.exists());
        let running = match plywood.driver() {
            "thin" => Some(plywood.ok(["commit", "one", "image"])),
            _ => {
                let error = plywood.fails(1, ["commit", "one", "image"]);
                assert!(error.contains("container one has users of its own"), "{error}");
                None
            }
        };
        plywood.ok(["kill", "one"]);
        let ended = plywood.ok(["commit", "one", "image"]);
        assert_eq!(running.unwrap_or_else(|| ended.clone()), ended);
        plywood.ok(["rm", "one"]);
        nothing_is_left(&plywood);
    }
}

/// A root filesystem of one program.
fn bare_tar(path: &Path) {
    let busybox = fs::read("/bin/busybox").unwrap();
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    for name in ["bin/busybox", "bin/sh", "bin/mkdir", "bin/ln"] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o755);
        header.set_size(busybox.len() as u64);
        header.set_mtime(1_500_000_000);
        tar.append_data(&mut header, name, busybox.as_slice()).unwrap();
    }
    tar.finish().unwrap();
}

/// Kills commits: after each so many system calls, or where nobody can count those, at random moments.
#[test]
fn root_a_killed_commit_leaves_no_container_frozen() {
    let stride = number("PLYWOOD_TORTURE_STRIDE").unwrap_or(53);
    let counts = !in_guest();
    let mut dice = Dice::new(seed());
    for plywood in stores() {
        start(&plywood, "one", WRITER);
        let file = inside(&plywood, "one", "d/a");
        goes_on(&file);
        let (mut killer, verb) = (Killer::new(&plywood), Verb::plain(&["commit", "one", "image"]));
        let (mut kills, mut frozen) = (0, 0);
        let first = 1 + dice.below(usize::try_from(stride).unwrap()) as u64;
        for nth in (first..).step_by(usize::try_from(stride).unwrap()) {
            let commit = plywood.command(&verb.args);
            let is_over = if counts {
                let stepped = step(&commit, nth, Victim::All, &plywood.beside("output"));
                kills += u64::from(stepped.struck.is_some());
                stepped.struck.is_none()
            } else {
                kills += u64::from(killer.strike(commit, &verb, &mut dice) == End::Killed);
                kills >= rounds(6)
            };
            frozen += usize::from(!torture::leaks::frozen(&plywood.root()).is_empty());
            // Whichever command comes next.
            let next = [
                &["gc"][..],
                &["diff", "base", "base"],
                &["exec", "one", "true"],
                &["run", "--rm", "base", "true"],
            ];
            plywood.ok(next[dice.below(next.len())]);
            assert_eq!(
                torture::leaks::frozen(&plywood.root()),
                Vec::<String>::new(),
                "kill {kills}"
            );
            goes_on(&file);
            if is_over {
                break;
            }
        }
        println!(
            "torture: {}, {kills} commits killed, {frozen} containers frozen then",
            plywood.driver()
        );
        assert!(kills > 5);
        plywood.ok(["commit", "one", "image"]);
        let (a, b) = pair(&plywood, "image");
        assert!(a == b || a == b + 1, "{a} lines, then {b}");
        plywood.ok(["rm", "-f", "one"]);
        plywood.ok(["gc"]);
        nothing_is_left(&plywood);
    }
}

#[test]
fn root_a_signal_ends_a_commit_and_thaws_the_container() {
    for plywood in stores() {
        start(
            &plywood,
            "one",
            "dd if=/dev/urandom of=/big bs=1M count=32 2>/dev/null; mkdir /d; while :; do echo >> /d/a; done",
        );
        let file = inside(&plywood, "one", "d/a");
        goes_on(&file);
        for after in [0, 5, 10, 20, 40, 80, 160] {
            let mut commit = plywood.command(["commit", "one", "image"]);
            let mut commit = commit.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(after));
            let pid = rustix::process::Pid::from_child(&commit);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            commit.wait().unwrap();
            // Without another command.
            assert_eq!(
                torture::leaks::frozen(&plywood.root()),
                Vec::<String>::new(),
                "after {after} ms"
            );
            goes_on(&file);
        }
        plywood.ok(["rm", "-f", "one"]);
        plywood.ok(["gc"]);
        nothing_is_left(&plywood);
    }
}

#[test]
fn root_commits_of_a_running_container_beside_all_else() {
    for plywood in stores() {
        start(&plywood, "one", WRITER);
        let file = inside(&plywood, "one", "d/a");
        goes_on(&file);
        let out = plywood.beside("out");
        let out = out.to_str().unwrap();
        plywood.together(&[
            &["commit", "one", "a"],
            &["commit", "one", "b"],
            &["commit", "--pause", "one", "c"],
            &["exec", "one", "cat", "/etc/hostname"],
            &["exec", "one", "sh", "-c", "echo more > /more"],
            &["cp", "one:/etc/hostname", out],
            &["cp", "/bin/busybox", "one:/tmp/busybox"],
            &["diff", "base", "base"],
            &["df"],
        ]);
        for image in ["a", "b", "c"] {
            let (a, b) = pair(&plywood, image);
            assert!(a == b || a == b + 1, "{image}: {a} lines, then {b}");
        }
        goes_on(&file);
        // Removed under the commit's hands: one of the two is first.
        plywood.ok(["exec", "one", "dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=24"]);
        let mut commit = plywood
            .command(["commit", "one", "d"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(20));
        plywood.ok(["rm", "-f", "one"]);
        let mut error = String::new();
        commit.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        if !commit.wait().unwrap().success() {
            assert!(error.contains("container one"), "{error}");
        }
        plywood.ok(["gc"]);
        nothing_is_left(&plywood);
    }
}

#[test]
fn root_a_container_may_end_while_it_is_committed() {
    let mut dice = Dice::new(seed());
    for plywood in stores() {
        let (mut done, mut refused) = (0, 0);
        for round in 0..rounds(12) {
            let image = format!("image:{round}");
            let script = "echo x > /x; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done";
            let passing: &[&str] = if round % 2 == 0 { &["--rm"] } else { &[] };
            plywood.ok([&["run", "-d", "--name", "one"], passing, &["base", "sh", "-c", script]].concat());
            std::thread::sleep(Duration::from_millis(dice.below(40) as u64));
            let output = plywood.run(["commit", "one", &image]);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            match output.status.code() {
                Some(0) => done += 1,
                Some(1) if error.contains("container one") => refused += 1,
                code => panic!("{code:?}: {error}"),
            }
            plywood.run(["wait", "one"]);
            match passing {
                [] => drop(plywood.ok(["rm", "one"])),
                _ => wait::until("it goes", || plywood.json(["ps", "-a"]) == serde_json::json!([])),
            }
        }
        println!("{}: {done} committed, {refused} refused", plywood.driver());
        plywood.ok(["gc"]);
        nothing_is_left(&plywood);
    }
}

#[test]
fn root_a_commit_that_finds_no_room_leaves_the_container_running() {
    plywood::sys::mount::enter_private_namespace().unwrap();
    let plywood = Plywood::new("overlay");
    let root = plywood.root();
    fs::create_dir(&root).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("small"), &root, Some("tmpfs"), flags, Some("size=48m")).unwrap();
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    start(
        &plywood,
        "one",
        "dd if=/dev/urandom of=/big bs=1M count=26 2>/dev/null; mkdir /d; while :; do echo > /d/a; echo x > /d/a; done",
    );
    let file = inside(&plywood, "one", "d");
    wait::until("the file", || file.exists());
    let error = plywood.fails(1, ["commit", "one", "image"]);
    assert!(error.contains("no room for the new layer"), "{error}");
    assert_eq!(plywood.json(["ps"])[0]["state"], "running");
    nothing_is_left(&plywood);
    plywood.ok(["rm", "-f", "one"]);
    plywood.ok(["gc"]);
    nix::mount::umount(&root).unwrap();
}

#[test]
fn root_the_steps_of_a_commit_are_explained() {
    for plywood in stores() {
        start(&plywood, "one", "exec sleep 1000");
        let output = plywood.run(["--explain", "commit", "one", "image"]);
        let steps = String::from_utf8_lossy(&output.stderr).into_owned();
        let at = |word: &str| steps.find(word).unwrap_or_else(|| panic!("{word}: {steps}"));
        let frozen = if steps.contains("FROZEN") {
            ["FROZEN", "THAWED"]
        } else {
            ["echo 1 > ", "echo 0 > "]
        };
        let between = if plywood.driver() == "thin" {
            "create_snap"
        } else {
            "writes what differs"
        };
        assert!(at("sync -f /proc/") < at(frozen[0]), "{steps}");
        assert!(at(frozen[0]) < at(between) && at(between) < at(frozen[1]), "{steps}");
        let quiet = plywood.run(["--explain", "commit", "--pause=false", "one", "image"]);
        assert!(!String::from_utf8_lossy(&quiet.stderr).contains("freez"));
        plywood.ok(["rm", "-f", "one"]);
    }
}
