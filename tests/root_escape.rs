//! How an image tries to get out, and what must then be as it was: a tree beside
//! it, the kernel's switches, the host's mounts, device-mapper's tables.
//!
//! Each test begins with the number of its attack in `docs/attacks.md`. Races take
//! `PLYWOOD_TEST_ROUNDS` rounds; `make attacks` plays them long.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

#[path = "common/boxed.rs"]
mod boxed;
#[path = "common/environment.rs"]
mod environment;
#[path = "common/oracle.rs"]
mod oracle;
#[path = "common/probe.rs"]
mod probe;
#[path = "common/sentinel.rs"]
mod sentinel;

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use boxed::{Image, run_and, shell, spec};
use oracle::Oracle;
use plywood::exec::seccomp::Seccomp;
use plywood::exec::spec::{Bind, Spec};
use probe::Gate;
use rustix::fs::{CWD, RenameFlags, renameat_with};

#[test]
fn root_e03_links_over_mount_points_are_refused() {
    links_are_refused("proc");
    links_are_refused("sys");
}

#[test]
fn root_e05_nothing_is_made_where_a_link_named_dev_leads() {
    links_are_refused("dev");
}

fn links_are_refused(name: &str) {
    let (image, oracle) = (Image::new(), Oracle::new());
    let at = image.root().join(name);
    fs::remove_dir(&at).unwrap();
    for to in [
        image.sentinel.path(),
        Path::new("/tmp"),
        Path::new("tmp"),
        Path::new("../sentinel"),
        Path::new("/proc/self/cwd"),
    ] {
        symlink(to, &at).unwrap();
        let error = image.refused(&shell("echo ran"));
        assert!(error.contains(&format!("/{name}")), "{error}");
        fs::remove_file(&at).unwrap();
    }
    fs::write(&at, "a file").unwrap();
    image.refused(&shell("echo ran"));
    oracle.check(name);
}

#[test]
fn root_e03_links_lead_nowhere_but_into_the_image() {
    let (image, oracle) = (Image::new(), Oracle::new());
    let sentinel = image.sentinel.path();
    let kept = sentinel.join("secret");
    // /etc/hosts -> /…/sentinel/secret, /data -> ../../sentinel: inside, these are other places.
    symlink(&kept, image.root().join("etc/hosts")).unwrap();
    symlink(
        "../../../../../../..".to_owned() + sentinel.to_str().unwrap(),
        image.root().join("data"),
    )
    .unwrap();
    symlink(sentinel, image.root().join("work")).unwrap();
    symlink("loop", image.root().join("loop")).unwrap();
    let source = image.beside("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("given"), "x").unwrap();
    let out = image.sh_with(
        "cat /data/sub/given; echo bad > /work/made; pwd; echo evil >> /etc/hosts",
        |spec| {
            spec.binds = vec![Bind {
                source,
                target: "/data/sub".into(),
                read_only: true,
                map_ids: false,
            }];
            spec.working_dir = "/work".to_owned();
        },
    );
    assert!(out.starts_with('x'), "{out}");
    image.sentinel.check("links");
    image.refused(&Spec {
        working_dir: "/loop/x".to_owned(),
        ..shell("true")
    });
    image.refused(&Spec {
        tmpfs: vec!["/etc/passwd".to_owned()],
        ..shell("true")
    });
    oracle.check("links");
}

/// Swaps two names, over and over, while `during` runs.
fn swapping(one: &Path, other: &Path, during: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // There and back: in the end each is what it was.
                for _ in 0..2 {
                    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
                    std::thread::yield_now();
                }
            }
        });
        // Ends the other thread where `during` panics.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&over);
        during();
    });
}

/// Runs `spec` many times while `one` and `other` change places: each run goes well or is refused, and what lies
/// outside stays as it was.
fn race(image: &Image, one: &Path, other: &Path, spec: &Spec) {
    let rounds = environment::rounds(15);
    let oracle = Oracle::new();
    let mut refused = 0;
    swapping(one, other, || {
        for round in 0..rounds {
            let ended = image.run(spec);
            assert!(matches!(ended.code(), 0 | 125), "round {round}: {ended:?}");
            let came_through = |word| ended.stdout.contains(word);
            assert!(
                !came_through("changed") && !came_through("seen"),
                "round {round}: {ended:?}"
            );
            refused += usize::from(ended.code() == 125);
            if round % 100 == 0 {
                image.sentinel.check("a race");
            }
        }
    });
    image.sentinel.check("a race");
    oracle.check("a race");
    println!("{rounds} rounds, {refused} refused");
}

/// What a command tries that found its masks gone.
const TRIES: &str = "(echo 44 > /proc/sys/fs/lease-break-time) && echo changed;
    [ ! -s /proc/keys ] || echo seen; exit 0";

#[test]
fn root_e03_targets_that_change_into_links_meanwhile() {
    let image = Image::new();
    let link = image.root().join("link");
    symlink(image.sentinel.path(), &link).unwrap();
    let source = image.beside("source");
    fs::create_dir(&source).unwrap();
    let spec = Spec {
        binds: vec![Bind {
            source,
            target: "/etc/folder/bound".into(),
            read_only: false,
            map_ids: false,
        }],
        tmpfs: vec!["/etc/folder/scratch".to_owned()],
        ..shell(TRIES)
    };
    race(&image, &image.root().join("etc"), &link, &spec);
}

#[test]
fn root_e04_a_shared_volume_in_which_a_target_changes_into_a_link() {
    let image = Image::new();
    let volume = image.beside("volume");
    fs::create_dir_all(volume.join("spot/inner")).unwrap();
    fs::create_dir(volume.join("other")).unwrap();
    for (name, to) in [
        ("to-proc", "/proc/sys"),
        ("to-root", "/"),
        ("to-sentinel", "../../../../../../../../sentinel"),
    ] {
        symlink(to, volume.join(name)).unwrap();
        let spec = Spec {
            binds: vec![Bind {
                source: volume.clone(),
                target: "/volume".into(),
                read_only: false,
                map_ids: false,
            }],
            tmpfs: vec!["/volume/spot/kernel".to_owned()],
            ..shell(TRIES)
        };
        race(&image, &volume.join("spot"), &volume.join(name), &spec);
    }
}

#[test]
fn root_e05_a_dev_that_changes_into_a_link_meanwhile() {
    let image = Image::new();
    for name in ["dev", "proc"] {
        let link = image.root().join(format!("{name}-link"));
        symlink(image.sentinel.path(), &link).unwrap();
        let spec = Spec {
            terminal: true,
            ..shell(TRIES)
        };
        race(&image, &image.root().join(name), &link, &spec);
    }
}

#[test]
fn root_e04_what_an_image_has_in_dev_is_not_what_its_container_has() {
    let (image, oracle) = (Image::new(), Oracle::new());
    let dev = image.root().join("dev");
    for (name, to) in [
        ("null", "/proc/sysrq-trigger"),
        ("console", "/proc/sys/kernel/core_pattern"),
        ("ptmx", "/proc/sys/kernel/core_pattern"),
        ("shm", "/proc"),
        (".plywood", "/proc"),
    ] {
        symlink(to, dev.join(name)).unwrap();
    }
    fs::create_dir(dev.join("pts")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", dev.join("pts/0")).unwrap();
    let script = "stat -c %F:%t:%T /dev/null /dev/console /dev/shm; cat /proc/keys; echo x > /dev/null";
    let ended = image.run(&Spec {
        terminal: true,
        ..shell(script)
    });
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!(
        ended.stdout.replace('\r', ""),
        "character special file:1:3\ncharacter special file:88:0\ndirectory:0:0\n"
    );
    oracle.check("/dev");
    assert_eq!(
        fs::read_link(dev.join("null")).unwrap(),
        Path::new("/proc/sysrq-trigger")
    );
}

#[test]
fn root_e06_no_descriptor_leads_out() {
    let (image, oracle) = (Image::new(), Oracle::new());
    // Not closed by any execve.
    let leaked = fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    for number in (0..14).chain([63]) {
        let ended = image.run(&Spec {
            working_dir: format!("/proc/self/fd/{number}"),
            ..shell("pwd; ls /sentinel /../sentinel ../sentinel 2>/dev/null; exit 0")
        });
        match &ended.outcome {
            Ok(0) => assert!(
                ended.stdout.starts_with('/') && ended.stdout.lines().count() == 1,
                "{ended:?}"
            ),
            _ => assert_eq!(ended.code(), 125, "{ended:?}"),
        }
    }
    for folder in [
        "/proc/self/cwd",
        "/proc/1/root/..",
        "/proc/self/task/1/cwd",
        "/proc/1/cwd/../..",
    ] {
        let spec = Spec {
            working_dir: folder.to_owned(),
            ..shell("pwd; ls -d /proc/1/root/sentinel 2>/dev/null; exit 0")
        };
        let ended = image.run(&spec);
        assert!(
            ended.code() == 125 || ended.stdout.lines().count() == 1,
            "{folder}: {ended:?}"
        );
    }
    for line in image
        .sh("for fd in /proc/1/fd/*; do readlink $fd; done; exit 0")
        .lines()
    {
        assert!(line.starts_with("pipe:") || line == "/dev/null", "{line}");
    }
    image.sentinel.check("a working directory");
    oracle.check("a working directory");
    drop(leaked);
}

#[test]
fn root_e07_no_namespace_no_mount_no_release_agent() {
    let (image, oracle) = (Image::new(), Oracle::new());
    let attempts = [
        "unshare -U true",
        "unshare -Urm mount -t tmpfs x /tmp",
        "unshare -m true",
        "unshare -p true",
        "mount -t cgroup -o rdma cgroup /tmp",
        "mount -t cgroup2 cgroup /tmp",
        "nsenter -t 1 -m true",
        "mount -o remount,rw /sys",
        "mount --bind /tmp /bin",
        "umount /proc/kcore",
    ];
    for no_new_privileges in [true, false] {
        let script = attempts.map(|attempt| format!("if {attempt} 2>/dev/null; then echo '{attempt}'; fi;"));
        let done = image.sh_with(&script.concat(), |spec| spec.no_new_privileges = no_new_privileges);
        assert_eq!(done, "", "that went through");
    }
    // The filter alone would do, and so would the capabilities alone, but for a user namespace.
    let no_filter = image.sh_with("mount -t cgroup2 cgroup /tmp 2>/dev/null || echo refused", |spec| {
        spec.seccomp = Seccomp::Unconfined;
    });
    assert_eq!(no_filter, "refused\n");
    oracle.check("namespaces");
}

#[test]
fn root_e10_what_is_taken_away_afterwards_is_what_was_made() {
    let (image, oracle) = (Image::new(), Oracle::new());
    let source = image.beside("source");
    fs::create_dir(&source).unwrap();
    // The image has neither: plywood makes /made/folder to mount on, and removes it after the run. An empty folder
    // of that name is where the command's link leads then.
    let sentinel = image.sentinel.path().to_owned();
    for to in [sentinel.clone(), PathBuf::from("../sentinel"), PathBuf::from("/tmp")] {
        let script = format!("mv /made /gone && ln -s {} /made", to.display());
        image.sh_with(&script, |spec| {
            spec.binds = vec![Bind {
                source: source.clone(),
                target: "/made/folder".into(),
                read_only: false,
                map_ids: false,
            }];
        });
        image.sentinel.check("a link in place of a mount's folder");
        fs::remove_file(image.root().join("made")).unwrap();
        fs::remove_dir_all(image.root().join("gone")).unwrap();
    }
    assert!(
        sentinel.join("folder").is_dir(),
        "the sentinel has what could be taken for it"
    );
    oracle.check("mount targets");
}

#[test]
fn root_e12_no_socket_of_the_host_can_be_reached() {
    let image = Image::new();
    let name = format!("plywood-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    assert!(fs::read_to_string("/proc/net/unix").unwrap().contains(&name));
    assert_eq!(
        image.sh("grep -c @ /proc/net/unix; cat /proc/net/unix | wc -l"),
        "0\n1\n"
    );
}

#[test]
#[cfg(target_arch = "x86_64")]
fn root_e14_sockets_that_reach_past_a_namespace_cannot_be_had() {
    let (image, oracle) = (Image::new(), Oracle::new());
    let program = image.root().join("probe");
    let ask = |gate, number, arguments, change: &dyn Fn(&mut Spec)| {
        probe::write(&program, gate, number, arguments, b"");
        let mut spec = spec(&["/probe"]);
        change(&mut spec);
        image.run(&spec).code()
    };
    const SOCKET: u32 = 41;
    const SEQPACKET: u64 = 5;
    let alg = [38, SEQPACKET, 0];
    let has_one_gate = fs::read_to_string("/proc/cpuinfo").unwrap().contains("User Mode Linux");
    for user in ["", "ops"] {
        for no_new_privileges in [true, false] {
            let change = |spec: &mut Spec| {
                spec.user = user.to_owned();
                spec.no_new_privileges = no_new_privileges;
            };
            assert_eq!(ask(Gate::Syscall, SOCKET, [1, 1, 0], &change), 0, "a plain one can");
            assert_eq!(ask(Gate::Syscall, SOCKET, alg, &change), 1, "AF_ALG");
            assert_eq!(
                ask(Gate::Syscall, SOCKET, [38 | 1 << 32, SEQPACKET, 0], &change),
                1,
                "AF_ALG"
            );
            assert_eq!(ask(Gate::Syscall, SOCKET, [40, 1, 0], &change), 1, "AF_VSOCK");
            // x32, where a kernel has it.
            assert_eq!(ask(Gate::Syscall, SOCKET | 1 << 30, alg, &change), 38);
            // i386's socket, and the socketcall before it, are death by SIGSYS. User Mode Linux has one gate only, and
            // takes this for another way to the same numbers: here keyctl's.
            if has_one_gate {
                assert_eq!(ask(Gate::Int80, 250, [0, 0, 0], &change), 1);
            } else {
                assert_eq!(ask(Gate::Int80, 102, [1, 0x40_0000, 0], &change), 159);
                assert_eq!(ask(Gate::Int80, 359, alg, &change), 159);
            }
            // io_uring_setup, userfaultfd, keyctl: EPERM. clone3: ENOSYS.
            for (number, expected) in [(425, 1), (323, 1), (250, 1), (435, 38)] {
                assert_eq!(
                    ask(Gate::Syscall, number, [0, 0, 0], &change),
                    expected,
                    "call {number}"
                );
            }
        }
    }
    let unconfined = |spec: &mut Spec| spec.seccomp = Seccomp::Unconfined;
    assert_ne!(ask(Gate::Syscall, 425, [0, 0, 0], &unconfined), 1, "the filter it was");
    oracle.check("sockets");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn root_set_user_id_programs_give_rights_only_where_they_may() {
    let image = Image::new();
    let program = image.root().join("probe");
    const SETUID: u32 = 105;
    probe::write(&program, Gate::Syscall, SETUID, [0, 0, 0], b"");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    for (no_new_privileges, expected) in [(true, 1), (false, 0)] {
        let spec = Spec {
            user: "ops".to_owned(),
            no_new_privileges,
            ..spec(&["/probe"])
        };
        assert_eq!(image.run(&spec).code(), expected);
    }
}

#[test]
fn root_e16_no_cgroup_can_be_written() {
    let (image, oracle) = (Image::new(), Oracle::new());
    let script = "for file in $(find /sys/fs/cgroup -name 'cgroup.procs' -o -name tasks -o -name release_agent); do
        (echo 1 > $file) 2>/dev/null && echo $file; done; mkdir /sys/fs/cgroup/x 2>/dev/null && echo made; exit 0";
    for privileges in [true, false] {
        assert_eq!(image.sh_with(script, |spec| spec.no_new_privileges = privileges), "");
    }
    // It is the root of all that it sees: nothing tells where it is.
    let lines = image.sh("cat /proc/self/cgroup; grep -c cgroup /proc/self/mountinfo");
    let (groups, mounts) = lines.trim_end().rsplit_once('\n').unwrap();
    assert!(groups.lines().all(|line| line.ends_with(":/")), "{lines}");
    assert_ne!(mounts, "0");
    oracle.check("cgroups");
}

#[test]
fn root_e17_the_waiting_child_holds_nothing_of_the_host() {
    let (image, oracle) = (Image::new(), Oracle::new());
    let identity = |path: PathBuf| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let root = identity(image.root()).unwrap();
    let outside = ["/", "/proc", "/dev", "/sys"].map(|path| identity(path.into()).unwrap());
    let beside = [image.beside("."), image.sentinel.path().to_owned()].map(|path| identity(path).unwrap());
    let mut seen = 0;
    let ended = run_and(&image.root(), &shell("true"), b"", |pid| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        assert_eq!(identity(process.join("root")).unwrap(), root);
        assert_eq!(identity(process.join("cwd")).unwrap(), root);
        for entry in fs::read_dir(process.join("fd")).unwrap() {
            let held = identity(entry.unwrap().path()).unwrap();
            assert!(!outside.contains(&held) && !beside.contains(&held));
            seen += 1;
        }
        Ok(())
    });
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert!(seen >= 4, "streams and channel: {seen}");
    oracle.check("the child");
}
