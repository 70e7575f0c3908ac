//! `--explain` put to the proof: its lines typed one by one at a terminal, and trees to compare.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use plywood_store::Digest;
use plywood_store::layer::tree;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions};

use super::{Plywood, busybox_tar};

/// Longer than any line takes, in a guest on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Ends what a line printed; the line's status comes after it.
const MARK: &str = "-- status ";

/// One layer's edits. Times are given, or they would be those of the first and the second run.
pub const EDIT: &str = "echo hello > /etc/motd; rm /usr/share/doc/b; mkdir -m 750 /srv; echo \"5%\" > /srv/odd; \
    ln -s /etc/motd /srv/link; mknod /srv/null c 1 3; chown 1000:1000 /srv/odd; cp /etc/hostname /srv/name.tmp; \
    rm /srv/name.tmp; touch -h -d @1600000000 /srv/* /etc/motd /etc /srv /usr/share/doc";

/// A base system in which a shell can go on after `pivot_root`.
pub fn base_tar(archive: &Path) {
    busybox_tar(archive);
    let tools = [
        "/usr/bin/env",
        "/usr/bin/prlimit",
        "/usr/bin/setpriv",
        "/usr/bin/unshare",
        "/usr/sbin/chroot",
    ];
    append_programs(archive, &tools.map(Path::new));
}

/// Adds programs of the host's, each under its own path, with the libraries that they need.
pub fn append_programs(archive: &Path, programs: &[&Path]) {
    let below_root = |path: &Path| path.strip_prefix("/").expect("an absolute path").to_owned();
    let mut members: BTreeSet<PathBuf> = programs.iter().map(|program| below_root(program)).collect();
    for program in programs {
        let needed = output("ldd", &[&path(program)]);
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
pub fn explained(plywood: &Plywood, args: &[&str]) -> Vec<String> {
    let output = plywood.run([&["--explain"], args].concat());
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{args:?}: {}\n{said}", output.status);
    said.lines()
        .filter_map(|line| line.strip_prefix("+ "))
        .map(str::to_owned)
        .collect()
}

/// What a program says, once it has ended well.
#[track_caller]
pub fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A tree: all of it in one digest, and what a person can read where two differ.
#[derive(Debug)]
pub struct Tree {
    digest: Digest,
    names: BTreeSet<String>,
}

impl Tree {
    /// The tree under a folder.
    pub fn of(root: &Path) -> Self {
        let shown = "%P %y %m %U:%G %n %T@ %l\n";
        let names = output("find", &[&path(root), "-mindepth", "1", "-printf", shown]);
        let root = File::open(root).expect("a mounted tree");
        Self {
            digest: tree::digest(&root.as_fd()).expect("a tree"),
            names: names.lines().map(str::to_owned).collect(),
        }
    }

    /// Wants the two alike, and says where they are not.
    #[track_caller]
    pub fn assert_like(&self, other: &Self, name: &str) {
        let differ: Vec<_> = self.names.symmetric_difference(&other.names).collect();
        assert!(differ.is_empty(), "{name}, ours and theirs: {differ:#?}");
        assert_eq!(self.digest, other.digest, "contents and attributes of {name}");
    }
}

/// A path as an argument.
pub fn path(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// A shell at a terminal. A pipe would not do: `sh` reads ahead, and the shell that a line starts
/// would miss the next lines. From a terminal everyone reads one line at a time.
#[derive(Debug)]
pub struct Shell {
    child: Child,
    terminal: File,
    output: Receiver<String>,
    /// All that was typed and printed, for whoever reads the failure.
    transcript: String,
}

impl Shell {
    /// bash, at a new terminal.
    pub fn start() -> Self {
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
    pub fn types(&mut self, line: &str) {
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
