//! `--explain` is true: what it prints, typed into a shell, makes the same again on a second pool.
//!
//! The lines of `import`, `run` and `commit` are typed one by one at a terminal, in the order in
//! which they were printed, each after the one before it has ended well. A line that starts a
//! shell (`unshare … sh`) is answered by that shell from the next line on; `exec` ends it. Then
//! both pools must hold the same volumes, made in the same transactions, with the same tables and
//! the same trees.
//!
//! What is not typed as it was printed:
//! - the root folder, and the eight digits in the pool's name and uuid, are another's: the first
//!   pool is still there;
//! - `exit` after each command, where the process of the first one ended with its namespace.
//!
//! After `pivot_root` a shell has the image's programs only, where plywood needs none: the image
//! brings busybox, and `setpriv`, `prlimit`, `unshare`, `env` and `chroot` as a Debian's does. (With the `mount` of
//! util-linux all is the same but for an empty folder, /run/mount, which that makes for itself.)

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::Plywood;
use common::explain::{EDIT, Shell, Tree, base_tar, explained, output, path};

/// The second pool's eight digits.
const SECOND: &str = "b0b0b0b0";
#[test]
fn dm_what_explain_prints_makes_the_same_pool_again() {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    base_tar(&base);
    let base = base.to_str().expect("UTF-8");
    let shared = plywood.beside("shared");
    std::fs::create_dir(&shared).expect("a folder");
    let bind = format!("{}:/usr/share/data:ro", shared.display());
    let run = [
        "run", "--net", "none", "--name", "c", "-v", &bind, "--tmpfs", "/scratch", "-e", "A=it's", "base",
    ];
    let commands = [
        explained(&plywood, &["import", base, "base"]),
        explained(&plywood, &[&run[..], &["sh", "-c", EDIT]].concat()),
        explained(&plywood, &["commit", "c", "image"]),
    ];

    let first = digits(&commands);
    let second = Second {
        root: plywood.beside("second"),
    };
    let commands = commands.map(|lines| {
        let there = |line: String| {
            line.replace(&path(&plywood.root()), &path(&second.root))
                .replace(&first, SECOND)
        };
        lines.into_iter().map(there).collect::<Vec<_>>()
    });
    let mut shell = Shell::start();
    for lines in &commands {
        for line in lines {
            shell.types(line);
        }
        shell.types("exit");
    }

    let (one, other) = (format!("plywood-{first}-pool"), format!("plywood-{SECOND}-pool"));
    assert_eq!(pool_table(&one), pool_table(&other));
    assert_eq!(transaction_id(&one), transaction_id(&other));
    assert_eq!(volumes(&one), volumes(&other));
    assert_eq!(volumes(&one).lines().count(), 4, "golden, base, container, image");
    for name in ["base", "c", "image"] {
        let (device, ours, ours_tree) = mounted_by_plywood(&plywood, name, &one);
        let device = device.replace(&first, SECOND);
        let (theirs, theirs_tree) = mounted_by_hand(&plywood, &commands, &device, &other);
        assert_eq!(ours, theirs, "the table of {name}");
        ours_tree.assert_like(&theirs_tree, name);
    }
    drop(second);
    let left = output("losetup", &["--all"]);
    assert!(!left.contains("/second/"), "loop devices stay: {left}");
}

/// The eight digits in the names of a pool's devices.
fn digits(commands: &[Vec<String>]) -> String {
    let first = "dmsetup create plywood-";
    let line = commands.iter().flatten().find_map(|line| line.strip_prefix(first));
    line.expect("a pool is made")[..8].to_owned()
}

/// A pool's table; which loop devices were free is nobody's doing.
fn pool_table(pool: &str) -> String {
    let table = output("dmsetup", &["table", pool]);
    let words = table.split_whitespace();
    words
        .map(|word| if word.starts_with("7:") { "LOOP" } else { word })
        .collect::<Vec<_>>()
        .join(" ")
}

fn transaction_id(pool: &str) -> String {
    let status = output("dmsetup", &["status", pool]);
    status.split_whitespace().nth(3).expect("a transaction id").to_owned()
}

/// What a pool's metadata says of its volumes: thin ids, when they were made, and when snapshots were taken.
fn volumes(pool: &str) -> String {
    let table = output("dmsetup", &["table", pool]);
    let metadata = table.split_whitespace().nth(3).expect("the metadata's device");
    let metadata = metadata.replace("7:", "/dev/loop");
    output("dmsetup", &["message", pool, "0", "reserve_metadata_snap"]);
    let fields = "DEV,TRANSACTION,CREATE_TIME,SNAP_TIME";
    let volumes = output(
        "thin_ls",
        &["--metadata-snap", "--no-headers", "--format", fields, &metadata],
    );
    output("dmsetup", &["message", pool, "0", "release_metadata_snap"]);
    volumes
}

/// A volume's table with its pool's name, and what its tree is.
fn look_at(device: &str, pool: &str, root: &Path) -> (String, Tree) {
    let number = output(
        "dmsetup",
        &["info", "--columns", "--noheadings", "--options", "major,minor", pool],
    );
    let table = output("dmsetup", &["table", device]).replace(number.trim(), "POOL");
    (table, Tree::of(root))
}

/// The volume's name, and what plywood itself activates.
fn mounted_by_plywood(plywood: &Plywood, name: &str, pool: &str) -> (String, String, Tree) {
    let target = plywood.beside("by-plywood");
    std::fs::create_dir_all(&target).expect("a folder");
    plywood.ok(["mount", name, &path(&target)]);
    let device = output("findmnt", &["--noheadings", "--output", "SOURCE", &path(&target)]);
    let device = device.trim().trim_start_matches("/dev/mapper/").to_owned();
    let (table, tree) = look_at(&device, pool, &target);
    plywood.ok(["umount", &path(&target)]);
    (device, table, tree)
}

/// The volume as the printed line activates it.
fn mounted_by_hand(plywood: &Plywood, commands: &[Vec<String>], device: &str, pool: &str) -> (String, Tree) {
    let line = format!("dmsetup create {device} ");
    let line = commands.iter().flatten().find(|printed| printed.starts_with(&line));
    output("sh", &["-ec", line.expect("the volume was activated once")]);
    let target = path(&plywood.beside("by-hand"));
    std::fs::create_dir_all(&target).expect("a folder");
    output("mount", &["-o", "ro", &format!("/dev/mapper/{device}"), &target]);
    let seen = look_at(device, pool, Path::new(&target));
    output("umount", &[&target]);
    output("dmsetup", &["remove", device]);
    seen
}

/// What the shell makes: taken out of the kernel at the end, well or badly.
struct Second {
    root: PathBuf,
}

impl Drop for Second {
    fn drop(&mut self) {
        let listed = Command::new("dmsetup").arg("ls").output().expect("dmsetup starts");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mut names: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| name.starts_with(&format!("plywood-{SECOND}-")))
            .collect();
        // Volumes before their pool.
        names.sort_by_key(|name| name.ends_with("-pool"));
        for name in names {
            let _ = Command::new("dmsetup").args(["remove", "--retry", name]).status();
        }
    }
}
