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
//! brings busybox, and `setpriv`, `env` and `chroot` as a Debian's does. (With the `mount` of
//! util-linux all is the same but for an empty folder, /run/mount, which that makes for itself.)

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{Plywood, busybox_tar};
use plywood_store::Digest;
use plywood_store::layer::tree;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions};

/// The second pool's eight digits.
const SECOND: &str = "b0b0b0b0";
/// Longer than any line takes, in a guest on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Ends what a line printed; the line's status comes after it.
const MARK: &str = "-- status ";

/// One layer's edits. Times are given, or they would be those of the first and the second run.
const EDIT: &str = "echo hello > /etc/motd; rm /usr/share/doc/b; mkdir -m 750 /srv; echo \"5%\" > /srv/odd; \
    ln -s /etc/motd /srv/link; mknod /srv/null c 1 3; chown 1000:1000 /srv/odd; cp /etc/hostname /srv/name.tmp; \
    rm /srv/name.tmp; touch -h -d @1600000000 /srv/* /etc/motd /etc /srv /usr/share/doc";

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
        let differ: Vec<_> = ours_tree.names.symmetric_difference(&theirs_tree.names).collect();
        assert!(differ.is_empty(), "{name}, ours and theirs: {differ:#?}");
        assert_eq!(
            ours_tree.digest, theirs_tree.digest,
            "contents and attributes of {name}"
        );
    }
    drop(second);
    let left = output("losetup", &["--all"]);
    assert!(!left.contains("/second/"), "loop devices stay: {left}");
}

/// A base system in which a shell can go on after `pivot_root`.
fn base_tar(archive: &Path) {
    busybox_tar(archive);
    let tools = ["usr/bin/env", "usr/bin/setpriv", "usr/sbin/chroot"];
    let mut members: BTreeSet<PathBuf> = tools.iter().map(PathBuf::from).collect();
    for tool in tools {
        let needed = output("ldd", &[&format!("/{tool}")]);
        let needed = needed.split_whitespace().filter_map(|word| word.strip_prefix('/'));
        members.extend(needed.map(PathBuf::from));
    }
    // Their folders too: whoever unpacks must not choose these folders' times.
    for member in members.clone() {
        let folders = member.ancestors().skip(1).map(Path::to_owned);
        members.extend(folders.filter(|folder| folder != Path::new("")));
    }
    let appended = Command::new("tar")
        .args([
            "--append",
            "--dereference",
            "--no-recursion",
            "--mtime=@1500000000",
            "-C",
            "/",
            "-f",
        ])
        .arg(archive)
        .args(&members)
        .status()
        .expect("tar starts");
    assert!(appended.success());
}

/// The lines that a command explains, once it has ended well.
#[track_caller]
fn explained(plywood: &Plywood, args: &[&str]) -> Vec<String> {
    let output = plywood.run([&["--explain"], args].concat());
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{args:?}: {}\n{said}", output.status);
    said.lines()
        .filter_map(|line| line.strip_prefix("+ "))
        .map(str::to_owned)
        .collect()
}

/// The eight digits in the names of a pool's devices.
fn digits(commands: &[Vec<String>]) -> String {
    let first = "dmsetup create plywood-";
    let line = commands.iter().flatten().find_map(|line| line.strip_prefix(first));
    line.expect("a pool is made")[..8].to_owned()
}

fn path(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

#[track_caller]
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
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

/// A tree: all of it in one digest, and what a person can read where two differ.
struct Tree {
    digest: Digest,
    names: BTreeSet<String>,
}

/// A volume's table with its pool's name, and what its tree is.
fn look_at(device: &str, pool: &str, root: &Path) -> (String, Tree) {
    let number = output(
        "dmsetup",
        &["info", "--columns", "--noheadings", "--options", "major,minor", pool],
    );
    let table = output("dmsetup", &["table", device]).replace(number.trim(), "POOL");
    let shown = "%P %y %m %U:%G %n %T@ %l\n";
    let names = output("find", &[&path(root), "-mindepth", "1", "-printf", shown]);
    let root = File::open(root).expect("a mounted tree");
    let tree = Tree {
        digest: tree::digest(root.as_fd()).expect("a tree"),
        names: names.lines().map(str::to_owned).collect(),
    };
    (table, tree)
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

/// A shell at a terminal. A pipe would not do: `sh` reads ahead, and the shell that a line starts
/// would miss the next lines. From a terminal everyone reads one line at a time.
struct Shell {
    child: Child,
    terminal: File,
    output: Receiver<String>,
    /// All that was typed and printed, for whoever reads the failure.
    transcript: String,
}

impl Shell {
    fn start() -> Self {
        let (terminal, stdin) = terminal().expect("a terminal");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let child = Command::new("bash")
            .stdin(stdin)
            .stdout(writer.try_clone().expect("a pipe's end"))
            .stderr(writer)
            .spawn()
            .expect("bash starts");
        let (send, output) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            terminal,
            output,
            transcript: String::new(),
        }
    }

    /// Types a line and wants it to end well, or to start a shell.
    #[track_caller]
    fn types(&mut self, line: &str) {
        self.transcript += &format!("+ {line}\n");
        writeln!(self.terminal, "{line}\necho '{MARK}'$?").expect("the shell reads");
        loop {
            let Ok(said) = self.output.recv_timeout(PATIENCE) else {
                panic!("no end of the last line:\n{}", self.transcript);
            };
            match said.split_once(MARK) {
                Some((_, "0")) => return,
                Some((_, status)) => panic!("the last line ends with {status}:\n{}", self.transcript),
                None => self.transcript += &format!("{said}\n"),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal that does not repeat what is typed: its two ends.
fn terminal() -> rustix::io::Result<(File, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    let mut settings = rustix::termios::tcgetattr(&slave)?;
    settings.local_modes -= LocalModes::ECHO;
    rustix::termios::tcsetattr(&slave, OptionalActions::Now, &settings)?;
    Ok((master.into(), slave))
}
