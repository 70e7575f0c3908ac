//! A root filesystem of nothing but busybox, and runs in it.

#![allow(dead_code, reason = "each test crate has a copy of its own and uses a part of it")]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use plywood::exec::spec::Spec;
use plywood::exec::{self, Attendant, Error, Streams, Surroundings};

use crate::sentinel::Sentinel;

/// Programs that the root filesystem has.
const APPLETS: [&str; 34] = [
    "sh", "cat", "echo", "ls", "true", "false", "id", "env", "pwd", "hostname", "stat", "mount", "mknod", "head",
    "touch", "chmod", "grep", "readlink", "kill", "sleep", "tty", "stty", "ip", "umount", "dd", "wc", "unshare",
    "nsenter", "chroot", "mkdir", "mv", "rm", "ln", "find",
];

/// A root filesystem and a sentinel folder beside it that must never change.
pub struct Image {
    folder: tempfile::TempDir,
    pub sentinel: Sentinel,
}

impl Image {
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let folder = tempfile::tempdir().unwrap();
        let sentinel = Sentinel::new(&folder.path().join("sentinel"));
        let image = Self { folder, sentinel };
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir_all(image.root().join(name)).unwrap();
        }
        // By another process: what another test's thread forks meanwhile would hold a file of ours open for
        // writing, and such a program cannot be run.
        let copied = std::process::Command::new("cp")
            .arg("/bin/busybox")
            .arg(image.root().join("bin"))
            .status();
        assert!(copied.unwrap().success(), "this test needs busybox-static");
        for name in APPLETS {
            symlink("busybox", image.root().join("bin").join(name)).unwrap();
        }
        fs::write(
            image.root().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nops:x:1000:1001::/home/ops:/bin/sh\n",
        )
        .unwrap();
        fs::write(
            image.root().join("etc/group"),
            "root:x:0:\nops:x:1001:\nsudo:x:27:ops\n",
        )
        .unwrap();
        image
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// A path beside the root filesystem.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `spec`, which must be refused before the command, and the sentinel stay as it was.
    #[track_caller]
    pub fn refused(&self, spec: &Spec) -> String {
        let ended = self.run(spec);
        self.sentinel.check(&format!("{ended:?}"));
        assert_eq!(ended.code(), 125, "{ended:?}");
        assert_eq!(ended.stdout, "", "the command ran");
        ended.outcome.unwrap_err().to_string()
    }

    pub fn run(&self, spec: &Spec) -> Ended {
        run_in(&self.root(), spec, b"")
    }

    /// Runs a shell script with the default spec and asserts that it went well.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.sh_with(script, |_| {})
    }

    /// The same with a changed spec.
    #[track_caller]
    pub fn sh_with(&self, script: &str, change: impl FnOnce(&mut Spec)) -> String {
        let mut spec = shell(script);
        change(&mut spec);
        let ended = self.run(&spec);
        assert_eq!(ended.code(), 0, "{script}: {ended:?}");
        ended.stdout
    }

    /// Every name below the root: what it is, its times, its content.
    pub fn listing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut folders = vec![self.root()];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(&folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .chain([folder.clone()])
            {
                let meta = path.symlink_metadata().unwrap();
                if meta.is_dir() && path != folder {
                    folders.push(path);
                    continue;
                }
                let content = if meta.is_file() {
                    fs::read(&path).unwrap().len()
                } else {
                    0
                };
                lines.push(format!(
                    "{} {:o} {} {} {}.{}",
                    path.display(),
                    meta.mode(),
                    meta.uid(),
                    content,
                    meta.mtime(),
                    meta.mtime_nsec()
                ));
            }
        }
        lines.sort();
        lines
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Ended {
    pub outcome: Result<i32, Error>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> i32 {
        match &self.outcome {
            Ok(code) => *code,
            Err(error) => error.exit_code(),
        }
    }
}

pub fn spec(args: &[&str]) -> Spec {
    Spec::new(args.iter().map(|arg| (*arg).to_owned()).collect(), "box")
}

pub fn shell(script: &str) -> Spec {
    spec(&["sh", "-c", script])
}

fn read_all(from: OwnedFd) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        fs::File::from(from).read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

pub fn run_in(root: &Path, spec: &Spec, input: &[u8]) -> Ended {
    run_and(root, spec, input, |_| Ok(()))
}

pub fn run_and(root: &Path, spec: &Spec, input: &[u8], started: impl FnOnce(u32) -> exec::Result<()>) -> Ended {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (stdin, to_stdin) = pipe();
    let (from_stdout, stdout) = pipe();
    let (from_stderr, stderr) = pipe();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(fs::File::from(to_stdin).write_all(&input)));
    let (out, err) = (read_all(from_stdout), read_all(from_stderr));
    let streams = Streams {
        stdin: stdin.as_fd(),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
    };
    let outcome = exec::run(
        root,
        spec,
        Surroundings::default(),
        Attendant::Caller(streams),
        |pid, _| started(pid),
    );
    drop((stdin, stdout, stderr));
    writer.join().unwrap();
    Ended {
        outcome,
        stdout: out.join().unwrap(),
        stderr: err.join().unwrap(),
    }
}
