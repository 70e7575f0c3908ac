//! No command waits on udev: one story in front of no udevd, one that works, one that is stopped, and a socket
//! behind which nobody is. In the guest, which has no udevd of its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where something is not as it must be, and shows its figures"
)]

mod common;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Plywood, busybox_tar, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A command that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const UDEVD: &str = "/lib/systemd/systemd-udevd";
/// Where libdevmapper looks whether it has to wait for udevd.
const CONTROL: &str = "/run/udev/control";

/// A udevd of the test's own. It ends with it, and nothing of it stays.
struct Udevd(Child);

impl Udevd {
    fn start() -> Self {
        let mut udevd = Command::new(UDEVD)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait::until("udevd listens", || {
            assert!(udevd.try_wait().unwrap().is_none(), "udevd has ended");
            Path::new(CONTROL).exists()
        });
        Self(udevd)
    }

    fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Udevd {
    fn drop(&mut self) {
        // A stopped one takes no other.
        self.send(Signal::SIGKILL);
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all("/run/udev");
    }
}

/// Runs it as somebody would for whom udev counts, and wants it to succeed in time; gives its output.
#[track_caller]
fn soon(plywood: &Plywood, args: &[&str]) -> String {
    let mut command = plywood.command(args);
    // The guest says so to the tools of device-mapper, which wait otherwise.
    command.env_remove("DM_DISABLE_UDEV");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{args:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Everything that makes, changes and removes devices.
fn story(what: &str) {
    let plywood = Plywood::new("thin");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let begun = Instant::now();
    let run = |args: &[&str]| soon(&plywood, args);
    run(&["import", base.to_str().unwrap(), "base"]);
    run(&["run", "--name", "one", "base", "sh", "-c", "echo one > /one"]);
    run(&["commit", "one", "committed"]);
    run(&["run", "--cow", "--name", "two", "base", "sh", "-c", "echo two > /two"]);
    run(&["merge", "two"]);
    assert_eq!(run(&["run", "--rm", "base", "cat", "/two"]), "two", "{what}");
    assert_eq!(run(&["run", "--rm", "committed", "cat", "/one"]), "one", "{what}");
    run(&["pool", "grow", "--data-size", "120G"]);
    run(&["rm", "one", "two"]);
    run(&["rmi", "base", "committed"]);
    run(&["gc"]);
    run(&["check", "--data"]);
    assert_eq!(run(&["pool", "detach"]), "");
    println!("{what}: {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!(left(), "", "{what}");
}

/// What is in the kernel and in /dev of anybody's, once udevd has looked at it too.
fn left() -> String {
    let listed = || {
        let devices = text("dmsetup", &["ls"]);
        let loops = text("losetup", &["--all"]);
        let nodes = std::fs::read_dir("/dev/mapper").unwrap().flatten();
        let nodes: Vec<_> = nodes
            .map(|node| node.file_name())
            .filter(|name| name != "control")
            .collect();
        let cookies = text("ipcs", &["--semaphores"]);
        let cookies: Vec<_> = cookies.lines().filter(|line| line.starts_with("0x")).collect();
        match (devices.trim(), loops.trim(), nodes.as_slice(), cookies.as_slice()) {
            ("" | "No devices found", "", [], []) => String::new(),
            left => format!("{left:?}"),
        }
    };
    // The kernel lets go of a loop device when udevd has closed it.
    wait::what_stays(Duration::from_secs(5), listed)
}

fn text(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn dm_nothing_waits_on_udev_where_there_is_none() {
    assert!(!Path::new(CONTROL).exists());
    story("no udevd");
}

#[test]
fn dm_nothing_waits_on_udev_that_works() {
    let udevd = Udevd::start();
    story("udevd at work");
    drop(udevd);
    assert_eq!(left(), "");
}

#[test]
fn dm_nothing_waits_on_udev_that_is_stopped() {
    let udevd = Udevd::start();
    udevd.send(Signal::SIGSTOP);
    story("udevd stopped");
    drop(udevd);
    assert_eq!(left(), "");
}

#[test]
fn dm_nothing_waits_behind_a_socket_that_nobody_answers() {
    std::fs::create_dir_all("/run/udev").unwrap();
    let silent = UnixListener::bind(CONTROL).unwrap();
    story("nobody behind the socket");
    drop(silent);
    std::fs::remove_dir_all("/run/udev").unwrap();
}
