//! What a run is and keeps, on a root filesystem of nothing but busybox.
//!
//! Needs root and Debian's `busybox-static`. Each test builds its own root
//! filesystem in a temporary folder and runs [`plywood::exec::run`] on it, the
//! command's streams being pipes.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use plywood::exec::spec::{Network, Spec};
use plywood::exec::{self, Error, Streams};

/// Programs that the root filesystem has.
const APPLETS: [&str; 26] = [
    "sh", "cat", "echo", "ls", "true", "false", "id", "env", "pwd", "hostname", "stat", "mount", "mknod", "head",
    "touch", "chmod", "grep", "readlink", "kill", "sleep", "tty", "stty", "ip", "umount", "dd", "wc",
];

/// A root filesystem and a sentinel folder beside it that must never change.
struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let folder = tempfile::tempdir().unwrap();
        let image = Self { folder };
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir_all(image.root().join(name)).unwrap();
        }
        fs::copy("/bin/busybox", image.root().join("bin/busybox")).expect("this test needs busybox-static");
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
        fs::create_dir(image.sentinel()).unwrap();
        fs::write(image.sentinel().join("kept"), "as it was").unwrap();
        image
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn sentinel(&self) -> PathBuf {
        self.folder.path().join("sentinel")
    }

    /// Names below the sentinel and what they hold.
    fn sentinel_listing(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.sentinel())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| format!("{} {:?}", path.display(), fs::read(&path).ok()))
            .collect();
        names.sort();
        names
    }

    fn run(&self, spec: &Spec) -> Ended {
        run_in(&self.root(), spec, b"")
    }

    /// Runs a shell script with the default spec and asserts that it went well.
    fn sh(&self, script: &str) -> String {
        let ended = self.run(&shell(script));
        assert_eq!(ended.code(), 0, "{script}: {ended:?}");
        ended.stdout
    }
}

/// What came of a run.
#[derive(Debug)]
struct Ended {
    outcome: Result<i32, Error>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn code(&self) -> i32 {
        match &self.outcome {
            Ok(code) => *code,
            Err(error) => error.exit_code(),
        }
    }
}

fn spec(args: &[&str]) -> Spec {
    Spec {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec![format!("PATH={}", exec::DEFAULT_PATH)],
        working_dir: "/".to_owned(),
        user: String::new(),
        hostname: "box".to_owned(),
        network: Network::None,
        terminal: false,
        stdin: false,
        read_only: false,
        privileged: false,
        binds: Vec::new(),
        tmpfs: Vec::new(),
    }
}

fn shell(script: &str) -> Spec {
    spec(&["sh", "-c", script])
}

fn read_all(from: OwnedFd) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        fs::File::from(from).read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn run_in(root: &Path, spec: &Spec, input: &[u8]) -> Ended {
    run_and(root, spec, input, |_| Ok(()))
}

fn run_and(root: &Path, spec: &Spec, input: &[u8], started: impl FnOnce(u32) -> plywood::error::Result<()>) -> Ended {
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
    let outcome = exec::run(root, spec, streams, started);
    drop((stdin, stdout, stderr));
    writer.join().unwrap();
    Ended {
        outcome,
        stdout: out.join().unwrap(),
        stderr: err.join().unwrap(),
    }
}

#[test]
fn root_exit_codes_are_the_commands_own() {
    let image = Image::new();
    fs::write(image.root().join("plain"), "no program").unwrap();
    fs::write(image.root().join("garbage"), "no program").unwrap();
    fs::set_permissions(image.root().join("garbage"), fs::Permissions::from_mode(0o755)).unwrap();
    for (args, code) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
        (&["no-such-command"], 127),
        (&["/no/such/path"], 127),
        (&["/plain"], 126),
        (&["/garbage"], 126),
        (&["/etc"], 126),
    ] {
        let ended = image.run(&spec(args));
        assert_eq!(ended.code(), code, "{args:?}: {ended:?}");
    }
}

#[test]
fn root_the_container_has_its_own_kernel_view() {
    let image = Image::new();
    assert_eq!(
        image.sh("hostname; echo $$; read name </proc/1/comm; echo $name"),
        "box\n1\nsh\n"
    );
    assert_eq!(
        image.sh("ls /proc/self/fd | wc -l"),
        "4\n",
        "0, 1, 2 and the folder that ls reads"
    );
    for fd in image
        .sh("for fd in 0 1 2; do readlink /proc/1/fd/$fd; done; ls /proc/1/fd; true")
        .lines()
    {
        assert!(
            fd.starts_with("pipe:") || fd == "/dev/null" || ["0", "1", "2"].contains(&fd),
            "{fd}"
        );
    }
    assert_eq!(image.sh("cat /sys/class/net/lo/flags; ls /sys/class/net"), "0x9\nlo\n");
    assert!(image.sh("ip addr show lo").contains("127.0.0.1"));
    assert_eq!(
        image.sh("pwd; readlink /proc/self/cwd; readlink /proc/self/root"),
        "/\n/\n/\n"
    );
    // The host's tree is out of reach: every mount is one of the container's.
    let mounts = image.sh("cat /proc/self/mountinfo");
    for line in mounts.lines() {
        let at = line.split(' ').nth(4).unwrap();
        let known = ["/proc", "/sys", "/dev", "/etc"]
            .iter()
            .any(|known| at.starts_with(known));
        assert!(at == "/" || known, "{line}");
        assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");
    }
}
