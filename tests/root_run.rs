//! `run`, `start` and what they do to a container, on the binary.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Plywood, busybox_tar, ready, wait, with_base, words};

fn state_of(plywood: &Plywood, name: &str) -> (String, Option<i64>) {
    let containers = plywood.json(["ps", "-a"]);
    let found = containers
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {containers}"));
    (found["state"].as_str().unwrap().to_owned(), found["exit_code"].as_i64())
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

const WAIT_FOR_TERM: &str = "trap 'echo ended > /ended; exit 9' TERM; echo ready; while :; do sleep 0.1; done";

#[test]
fn root_a_container_stays_and_starts_again_where_it_left_off() {
    let plywood = with_base();
    plywood.fails(
        3,
        [
            "run",
            "--name",
            "one",
            "-e",
            "N=1",
            "base",
            "sh",
            "-c",
            "echo $N >> /count; cat /count; exit 3",
        ],
    );
    assert_eq!(state_of(&plywood, "one"), ("exited".to_owned(), Some(3)));
    let again = plywood.run(["start", "-a", "one"]);
    assert_eq!(
        (again.status.code(), again.stdout.as_slice()),
        (Some(3), &b"1\n1\n"[..])
    );
    plywood.fails(125, ["run", "--name", "one", "base", "true"]);
    plywood.fails(125, ["start", "nothing"]);
    plywood.ok(["rm", "one"]);
    plywood.fails(125, ["start", "one"]);
    plywood.sound();
}

#[test]
fn root_the_images_config_is_the_default() {
    let plywood = with_base();
    assert_eq!(plywood.ok(["run", "--rm", "--hostname", "web", "base"]), "web");
    assert_eq!(
        plywood.ok(["run", "--rm", "--entrypoint", "echo", "base", "a", "b"]),
        "a b"
    );
    assert_eq!(
        plywood.ok([
            "run",
            "--rm",
            "-u",
            "ops",
            "-w",
            "/tmp",
            "base",
            "sh",
            "-c",
            "id -un; pwd"
        ]),
        "ops\n/tmp"
    );
    plywood.fails(125, ["run", "--rm", "--entrypoint", "", "base"]);
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]), "--rm leaves nothing");
    assert_eq!(fs::read_dir(plywood.root().join("locks")).unwrap().count(), 0);
}

#[test]
fn root_signals_reach_the_command() {
    let plywood = with_base();
    let mut child = ready(&plywood, &["run", "--name", "one", "base", "sh", "-c", WAIT_FOR_TERM]);
    assert_eq!(state_of(&plywood, "one"), ("running".to_owned(), None));
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert_eq!(state_of(&plywood, "one"), ("exited".to_owned(), Some(9)));
    assert!(plywood.ok(["diff", "one"]).contains("A /ended"));
}

#[test]
fn root_a_running_container_is_nobody_elses() {
    let plywood = with_base();
    let mut child = ready(&plywood, &["run", "--name", "one", "base", "sh", "-c", WAIT_FOR_TERM]);
    for (code, args) in [(125, ["start", "one"]), (1, ["rm", "one"]), (1, ["diff", "one"])] {
        let error = plywood.fails(code, args);
        assert!(error.contains("one"), "{args:?}: {error}");
    }
    // What a container could see of plywood is not the host's file.
    let exe = fs::read_link(format!("/proc/{}/exe", child.id())).unwrap();
    assert_eq!(exe, Path::new("/"), "a mount of its own");
    // Not even for root, whose capabilities are whole.
    let mode = fs::Permissions::from_mode(0o755);
    let refused = fs::set_permissions(format!("/proc/{}/exe", child.id()), mode).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    plywood.ok(["rm", "-f", "one"]);
    assert!(!child.wait().unwrap().success());
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
}

#[test]
fn root_a_killed_plywood_leaves_a_container_that_starts_again() {
    let plywood = with_base();
    let mut child = ready(
        &plywood,
        &[
            "run",
            "--name",
            "one",
            "base",
            "sh",
            "-c",
            "echo x >> /count; echo ready; [ $(wc -l </count) -gt 1 ] || sleep 1000",
        ],
    );
    signal(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();
    wait::until("it ends", || state_of(&plywood, "one").0 == "exited");
    assert_eq!(state_of(&plywood, "one"), ("exited".to_owned(), Some(137)));
    assert_eq!(plywood.ok(["start", "-a", "one"]), "ready");
    assert_eq!(state_of(&plywood, "one"), ("exited".to_owned(), Some(0)));
    plywood.ok(["rm", "one"]);
    plywood.sound();
}

#[test]
fn root_a_container_that_was_to_be_removed_goes_though_its_plywood_was_killed() {
    let plywood = with_base();
    let script = "echo ready; while :; do sleep 0.1; done";
    let mut child = ready(&plywood, &["run", "--rm", "--name", "one", "base", "sh", "-c", script]);
    signal(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();
    wait::until("it goes", || {
        plywood.ok(["gc"]);
        plywood.json(["ps", "-a"]) == serde_json::json!([])
    });
    nothing_of_a_container_is_left(&plywood);
}

#[test]
fn root_a_half_made_or_half_removed_container_goes_with_the_next_command() {
    let plywood = with_base();
    plywood.ok(["run", "--name", "one", "base", "true"]);
    let id = plywood.json(["ps", "-a"])[0]["id"].as_str().unwrap().to_owned();
    // As a killed `rm` leaves it: it has said what it was about to do, and has begun.
    let store = plywood_store::Store::open(&plywood.root()).unwrap().unwrap();
    drop(
        store
            .intents
            .begin(plywood_store::intent::Plan::Container { id: id.clone() })
            .unwrap(),
    );
    let mut snapshot = store.snapshots.get(&id).unwrap().unwrap();
    snapshot.phase = plywood_store::record::Phase::Deleting;
    let lock = store.exclusive().unwrap();
    store.snapshots.put(&lock, &snapshot).unwrap();
    lock.done().unwrap();
    plywood.sound();
    plywood.ok(["run", "--name", "one", "base", "true"]);
    assert_ne!(plywood.json(["ps", "-a"])[0]["id"], serde_json::json!(id));
    plywood.ok(["rm", "one"]);
    nothing_of_a_container_is_left(&plywood);
}

fn nothing_of_a_container_is_left(plywood: &Plywood) {
    for folder in [
        "locks",
        "intents",
        "records/snapshots",
        "overlay/work",
        "overlay/pending",
    ] {
        assert_eq!(
            fs::read_dir(plywood.root().join(folder)).unwrap().count(),
            0,
            "{folder}"
        );
    }
    plywood.sound();
}

#[test]
fn root_a_person_at_a_terminal_gets_it_back_as_it_was() {
    let plywood = with_base();
    let run = plywood.command(["run", "--rm", "-it", "base", "sh", "-c", "stty size; tty; exit 6"]);
    let script = format!(
        "stty rows 33 cols 77; before=$(stty -g); {}; echo code $?; [ \"$before\" = \"$(stty -g)\" ] && echo same",
        words(&run)
    );
    let mut script = Command::new("script")
        .args(["-qec", &script, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The person stays: an end of input would be typed into the terminal.
    let person = script.stdin.take();
    let output = script.wait_with_output().unwrap();
    drop(person);
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(text.ends_with("33 77\n/dev/pts/0\ncode 6\nsame\n"), "{text}");
}

#[test]
fn root_a_shell_can_be_fed_through_a_pipe() {
    let plywood = with_base();
    let out = plywood.fed(["run", "--rm", "-it", "base", "sh"], b"echo $((6 * 7))\n");
    assert!(out.contains("42"), "{out}");
    assert_eq!(plywood.fed(["run", "--rm", "-i", "base", "wc", "-c"], b"12345"), "5");
}

#[test]
fn root_explained_steps_are_commands() {
    let plywood = with_base();
    let output = plywood.run(["--explain", "run", "--rm", "base", "true"]);
    let text = String::from_utf8_lossy(&output.stderr);
    for command in [
        "unshare --fork --kill-child --pid --mount --uts --ipc --net",
        "pivot_root . .",
        "mount -t proc -o nosuid,nodev,noexec proc /proc",
        "mknod -m 666 ",
        "hostname ",
        "exec env -i PATH=",
        " setpriv --reuid=0",
        "# plywood filters the command's system calls: ",
        " prlimit --core=0:",
        "--inh-caps=-all --no-new-privs true",
    ] {
        assert!(
            text.lines()
                .any(|line| line.starts_with("+ ") && line.contains(command)),
            "no {command:?} in\n{text}"
        );
    }
}

#[test]
fn root_every_two_at_a_time_both_succeed() {
    common::every_two_at_a_time(&with_base(), 1);
}

#[test]
fn root_a_mount_undone_by_hand_is_forgotten() {
    let plywood = with_base();
    let points = plywood.root().join("mounted");
    plywood.ok(["run", "--name", "one", "base", "true"]);
    for name in ["base", "one"] {
        for _ in 0..2 {
            let target = plywood.ok(["mount", name]);
            assert!(Path::new(&target).join("bin/busybox").exists());
            let error = plywood.fails(1, ["mount", name]);
            assert!(error.contains(&target), "{error}");
            nix::mount::umount(target.as_str()).unwrap();
        }
        let error = plywood.fails(1, ["umount", name]);
        assert!(error.contains("is not mounted"), "{error}");
    }
    let target = plywood.ok(["mount", "base"]);
    plywood.ok(["rm", "one"]);
    plywood.ok(["rmi", "base"]);
    nix::mount::umount(target.as_str()).unwrap();
    plywood.ok(["gc"]);
    assert_eq!(plywood.json(["gc", "--dry-run"])["layers"], serde_json::json!([]));
    assert_eq!(plywood.json(["df"])["layers"], serde_json::json!([]), "nothing leaks");
    assert_eq!(fs::read_dir(points).unwrap().count(), 0);
    plywood.sound();
}

#[test]
fn root_a_failed_command_makes_no_root() {
    // Also in the guest, this thread's kernel has no device-mapper; and there is a folder on overlayfs.
    plywood::sys::mount::enter_private_namespace().unwrap();
    let mount = |what: &str, target: &Path, options: Option<&str>| {
        nix::mount::mount(Some(what), target, Some(what), nix::mount::MsFlags::empty(), options).unwrap();
    };
    let mapper = Path::new("/dev/mapper");
    if mapper.exists() {
        mount("tmpfs", mapper, None);
    }
    let folder = tempfile::tempdir().unwrap();
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| folder.path().join(name));
    for path in [&lower, &upper, &work, &merged] {
        fs::create_dir(path).unwrap();
    }
    let [l, u, w] = [&lower, &upper, &work].map(|path| path.display());
    mount(
        "overlay",
        &merged,
        Some(&format!("lowerdir={l},upperdir={u},workdir={w}")),
    );

    for driver in ["thin", "overlay"] {
        let plywood = Plywood::new(driver);
        let base = plywood.beside("base.tar");
        busybox_tar(&base);
        let base = base.to_str().unwrap();
        for (code, args) in [
            (1, vec!["rm", "typo"]),
            (1, vec!["rmi", "typo"]),
            (125, vec!["run", "typo"]),
            (125, vec!["start", "typo"]),
        ] {
            let error = plywood.fails(code, &args);
            assert!(error.contains("typo"), "{args:?}: {error}");
        }
        assert_eq!(plywood.ok(["rm", "-f", "typo"]), "");
        let error = match driver {
            "thin" => plywood.fails(1, ["import", base, "base"]),
            _ => {
                let mut import = Command::new(plywood.command([""]).get_program());
                import.arg("--root").arg(merged.join("root"));
                let output = import
                    .args(["--driver", driver, "import", base, "base"])
                    .output()
                    .unwrap();
                assert_eq!(output.status.code(), Some(1));
                String::from_utf8(output.stderr).unwrap()
            }
        };
        assert!(error.contains("Hint: "), "{error}");
        if driver == "thin" {
            plywood.fails(1, ["pool", "init"]);
            plywood.fails(1, ["pool", "init", "--volume-size", "1M"]);
        }
        assert!(!plywood.root().exists() && fs::read_dir(&merged).unwrap().next().is_none());
    }
}

/// What `check` would not call wrong, but a failed command must not leave.
fn left_overs(plywood: &Plywood) -> serde_json::Value {
    let mut garbage = plywood.json(["gc", "--dry-run"]);
    garbage["intents"] = fs::read_dir(plywood.root().join("intents")).unwrap().count().into();
    garbage
}

#[test]
fn root_a_failed_commit_or_diff_leaves_nothing() {
    let plywood = with_base();
    plywood.ok(["run", "--name", "one", "base", "sh", "-c", "echo x > /x"]);
    plywood.ok([
        "run",
        "--name",
        "bad",
        "base",
        "sh",
        "-c",
        "echo x > /x; echo y > /z; echo > /.wh.x",
    ]);
    let clean = left_overs(&plywood);
    let not_a_date = plywood
        .command(["commit", "one", "image"])
        .env("SOURCE_DATE_EPOCH", "yesterday")
        .output()
        .unwrap();
    assert_eq!(not_a_date.status.code(), Some(1));
    assert!(plywood.fails(1, ["commit", "bad", "image"]).contains(".wh.x"));
    plywood.fails(1, ["diff", "base", "nosuch"]);
    plywood.fails(1, ["diff", "nosuch", "base"]);
    let next = plywood.run(["diff", "base", "base"]);
    assert_eq!((next.status.code(), next.stderr.as_slice()), (Some(0), &b""[..]));
    assert_eq!(left_overs(&plywood), clean);
    assert_eq!(plywood.json(["images"]).as_array().unwrap().len(), 1);
    plywood.sound();
}

#[test]
fn root_a_run_that_never_began_leaves_no_container() {
    let plywood = with_base();
    plywood.fails(125, ["run", "--name", "one", "-v", "/nothere:/x", "base", "true"]);
    plywood.fails(125, ["run", "--name", "one", "-u", "nobody", "base", "true"]);
    plywood.fails(125, ["run", "--name", "one", "-w", "/etc/passwd", "base", "true"]);
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
    plywood.fails(127, ["run", "--name", "one", "base", "nothere"]);
    assert_eq!(state_of(&plywood, "one"), ("exited".to_owned(), Some(127)));
    plywood.sound();
}

#[test]
fn root_umount_tells_for_each_what_became_of_it() {
    let plywood = with_base();
    let error = plywood.fails(1, ["umount", "typo"]);
    assert!(error.contains("typo is not mounted"), "{error}");
    for name in ["one", "two", "three"] {
        plywood.ok(["run", "--name", name, "base", "true"]);
    }
    let points: Vec<_> = ["one", "two", "three"].map(|name| plywood.ok(["mount", name])).into();
    let busy = fs::File::open(Path::new(&points[1]).join("etc/passwd")).unwrap();
    let error = plywood.fails(1, ["umount", "one", "typo", "two", "three"]);
    assert!(
        error.contains("typo is not mounted") && error.contains(&points[1]),
        "{error}"
    );
    let shown = |point: &&String| Path::new(point).join("etc").exists();
    assert_eq!(points.iter().filter(shown).collect::<Vec<_>>(), [&points[1]]);
    drop(busy);
    plywood.ok(["umount", "--all"]);
    plywood.ok(["umount", "--all"]);

    // Neither a mount that fails nor one that comes too late leaves a folder.
    plywood.ok(["mount", "one"]);
    plywood.fails(1, ["mount", "one"]);
    plywood.ok(["umount", "one"]);
    assert_eq!(fs::read_dir(plywood.root().join("mounted")).unwrap().count(), 0);
    let fresh = Plywood::new("overlay");
    assert!(fresh.fails(1, ["umount", "x"]).contains("x is not mounted"));
    fresh.ok(["umount", "--all"]);
    assert!(!fresh.root().exists());
}
