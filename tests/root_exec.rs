//! What a run is and keeps, on a root filesystem of nothing but busybox.
//!
//! Needs root and Debian's `busybox-static`. Each test builds its own root
//! filesystem in a temporary folder and runs [`plywood::exec::run`] on it, the
//! command's streams being pipes. How an image tries to get out of it is in
//! `root_escape`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

#[path = "common/boxed.rs"]
mod boxed;
#[path = "common/sentinel.rs"]
mod sentinel;
#[path = "common/wait.rs"]
mod wait;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use boxed::{Image, run_and, run_in, shell, spec};
use plywood::exec::capability::Capabilities;
use plywood::exec::seccomp::Seccomp;
use plywood::exec::spec::{Bind, Network, Spec};
use plywood::exec::{self, Attendant, Streams, Surroundings};

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

#[test]
fn root_a_failed_start_hook_keeps_the_command_from_running() {
    let image = Image::new();
    let ended = run_and(&image.root(), &shell("echo ran; touch /ran"), b"", |_| {
        Err(plywood::error::Error::invalid("no").into())
    });
    assert_eq!((ended.code(), ended.stdout.as_str()), (125, ""));
    assert!(!image.root().join("ran").exists());
}

#[test]
fn root_the_start_hook_is_told_a_live_process() {
    let image = Image::new();
    let mut seen = None;
    let ended = run_and(&image.root(), &shell("exit 3"), b"", |pid| {
        seen = exec::state::start_ticks(pid).map(|ticks| (pid, ticks));
        Ok(())
    });
    assert_eq!(ended.code(), 3);
    let (pid, ticks) = seen.expect("it was alive");
    assert_ne!(exec::state::start_ticks(pid), Some(ticks), "it is gone now");
}

#[test]
fn root_environment_and_working_directory_are_as_asked() {
    let image = Image::new();
    let out = image.sh_with("env; pwd", |spec| {
        spec.env.push("GREETING=a = b".to_owned());
        spec.working_dir = "/srv/new folder".to_owned();
    });
    let lines: Vec<&str> = out.lines().collect();
    for line in [
        format!("PATH={}", exec::DEFAULT_PATH).as_str(),
        "GREETING=a = b",
        "HOME=/root",
    ] {
        assert!(lines.contains(&line), "{line}: {out}");
    }
    assert!(out.ends_with("\n/srv/new folder\n"), "{out}");
    assert!(
        image.root().join("srv/new folder").is_dir(),
        "a working directory stays"
    );
}

#[test]
fn root_users_come_from_the_image() {
    let image = Image::new();
    let ids = |user: &str| image.sh_with("id -u; id -g; id -G; echo $HOME", |spec| spec.user = user.to_owned());
    assert_eq!(ids(""), "0\n0\n0\n/root\n");
    assert_eq!(ids("ops"), "1000\n1001\n1001 27\n/home/ops\n");
    assert_eq!(ids("ops:sudo"), "1000\n27\n27\n/home/ops\n");
    assert_eq!(ids("4242"), "4242\n0\n0\n/\n");
    let missing = image.refused(&Spec {
        user: "nobody".to_owned(),
        ..shell("true")
    });
    assert!(missing.contains("nobody"), "{missing}");
}

#[test]
fn root_a_hostile_passwd_neither_hangs_nor_reaches_out() {
    let image = Image::new();
    let passwd = image.root().join("etc/passwd");
    let as_ops = || Spec {
        user: "ops".to_owned(),
        ..shell("true")
    };
    fs::remove_file(&passwd).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &passwd,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(image.refused(&as_ops()).contains("no regular file"));
    fs::remove_file(&passwd).unwrap();
    fs::write(&passwd, "x".repeat((1 << 20) + 1)).unwrap();
    assert!(image.refused(&as_ops()).contains("longer"));
    // The host's own file has this user; the image's link must not lead there.
    fs::remove_file(&passwd).unwrap();
    fs::write(image.beside("passwd"), "ops:x:0:0::/:\n").unwrap();
    symlink(image.beside("passwd"), &passwd).unwrap();
    assert!(image.refused(&as_ops()).contains("find the user"));
}

#[test]
fn root_e11_capabilities_are_dockers_for_root_and_none_for_others() {
    let image = Image::new();
    let caps = |change: fn(&mut Spec)| {
        let out = image.sh_with("grep ^Cap /proc/self/status", change);
        out.lines()
            .map(|line| line.split_whitespace().nth(1).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let (none, docker) = ("0000000000000000", "00000000a80425fb");
    assert_eq!(caps(|_| {}), [none, docker, docker, docker, none]);
    assert_eq!(
        caps(|spec| spec.user = "ops".to_owned()),
        [none, none, none, docker, none]
    );
    let all = caps(|spec| spec.capabilities = Capabilities::chosen(true, &[], &[]).unwrap());
    assert_eq!((all[0].as_str(), all[4].as_str()), (none, none));
    assert_eq!(all[1], all[3]);
    assert_ne!(all[1], docker);
    let few = caps(|spec| {
        spec.capabilities = Capabilities::chosen(false, &["KILL".to_owned()], &["ALL".to_owned()]).unwrap()
    });
    assert_eq!(few[1..4], ["0000000000000020"; 3]);
}

#[test]
fn root_no_new_privileges_is_as_asked() {
    let image = Image::new();
    let said = |change: fn(&mut Spec)| image.sh_with("grep ^NoNewPrivs /proc/self/status", change);
    assert_eq!(said(|_| {}), "NoNewPrivs:\t1\n");
    assert_eq!(said(|spec| spec.no_new_privileges = false), "NoNewPrivs:\t0\n");
}

#[test]
fn root_a_filter_is_there_for_every_user_with_and_without_new_privileges() {
    let image = Image::new();
    let filters = |user: &str, no_new_privileges, seccomp| {
        image.sh_with(
            "grep -E '^(Seccomp|Cap(Prm|Eff))' /proc/self/status; umount /tmp 2>&1 | head -c 40",
            |spec| {
                spec.user = user.to_owned();
                spec.no_new_privileges = no_new_privileges;
                spec.seccomp = seccomp;
            },
        )
    };
    let (docker, none) = ("00000000a80425fb", "0000000000000000");
    for (user, capabilities) in [("", docker), ("ops", none)] {
        for no_new_privileges in [true, false] {
            for (seccomp, said) in [
                (Seccomp::Default, "Seccomp:\t2\nSeccomp_filters:\t1\n"),
                (Seccomp::Unconfined, "Seccomp:\t0\nSeccomp_filters:\t0\n"),
            ] {
                let out = filters(user, no_new_privileges, seccomp);
                assert!(out.contains(said), "{user:?} {no_new_privileges}: {out}");
                // That of the moment before the filter is gone.
                assert!(
                    out.contains(&format!("CapPrm:\t{capabilities}\nCapEff:\t{capabilities}\n")),
                    "{user:?} {no_new_privileges}: {out}"
                );
            }
        }
    }
}

#[test]
fn root_a_filter_of_ones_own_does_what_it_says() {
    let image = Image::new();
    let with = |no_new_privileges, user: &str, json: &str, script: &str| {
        let seccomp = Seccomp::from_docker("own", json.as_bytes(), Capabilities::default()).unwrap();
        image.run(&Spec {
            seccomp,
            no_new_privileges,
            user: user.to_owned(),
            ..shell(script)
        })
    };
    let denying = |rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#);
    let no_folders = denying(r#"{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}"#);
    let killed = denying(r#"{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}"#);
    // What plywood itself does before execve is not the profile's business.
    let few = denying(
        r#"{"names": ["setgroups", "setresgid", "close_range", "sendmsg", "recvmsg", "openat2", "mount", "fchdir"],
            "action": "SCMP_ACT_KILL_PROCESS"}"#,
    );
    for no_new_privileges in [true, false] {
        for user in ["", "ops"] {
            let ended = with(
                no_new_privileges,
                user,
                &no_folders,
                "/bin/busybox mkdir /tmp/x; echo on",
            );
            assert!(ended.stderr.contains("No space left on device"), "{ended:?}");
            assert_eq!(ended.stdout, "on\n");
            assert_eq!(
                with(no_new_privileges, user, &killed, "exec /bin/busybox mkdir /tmp/x").code(),
                159
            );
            let ended = with(no_new_privileges, user, &few, "echo on");
            assert_eq!((ended.code(), ended.stdout.as_str()), (0, "on\n"), "{ended:?}");
        }
    }
}

#[test]
fn root_limits_are_the_containers_own() {
    let image = Image::new();
    let limits = |asked: &[&str]| {
        let ulimits = asked.iter().map(|limit| limit.parse().unwrap()).collect();
        image.run(&Spec {
            ulimits,
            ..shell("ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Sl; ulimit -Hs")
        })
    };
    let ended = limits(&[]);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("1024", "0", "8192"), "{ended:?}");
    assert!(lines[1].parse::<u64>().unwrap() <= 524_288, "{ended:?}");
    let ended = limits(&["nofile=100:200", "core=1024:-1", "stack=1048576"]);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!((lines[0], lines[1], lines[4]), ("100", "200", "1024"), "{ended:?}");
    assert_ne!(lines[2], "0");
    for (limit, said) in [
        ("nofile=4000000000", "limit nofile to 4000000000:4000000000"),
        ("nofile=1", "connect the streams"),
    ] {
        let ended = limits(&[limit]);
        assert_eq!((ended.code(), ended.stdout.as_str()), (125, ""), "{ended:?}");
        assert!(ended.outcome.unwrap_err().to_string().contains(said), "{limit}");
    }
}

#[test]
fn root_who_dies_first_is_as_asked() {
    let image = Image::new();
    let score = |oom_score| image.sh_with("cat /proc/self/oom_score_adj", |spec| spec.oom_score = oom_score);
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!((score(None), score(Some(700))), (own, "700\n".to_owned()));
    // Who may not lower it is told so.
    let privileges = rustix::thread::capabilities(None).unwrap().effective;
    if privileges.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        assert_eq!(score(Some(-300)), "-300\n");
    } else {
        let lowered = Spec {
            oom_score: Some(-300),
            ..shell("true")
        };
        assert!(image.refused(&lowered).contains("the score -300"));
    }
    image.refused(&Spec {
        oom_score: Some(1001),
        ..shell("true")
    });
}

#[test]
fn root_the_kernels_switches_are_out_of_reach() {
    let image = Image::new();
    let host_pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for attempt in [
        "echo x > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /sys/class/net/lo/mtu",
        "mount -t tmpfs x /tmp",
        "mount -o remount,rw /sys",
        "umount /proc/kcore",
        "hostname other",
        "ip link set lo down",
        "touch /proc/irq/x",
    ] {
        let ended = image.run(&shell(&format!("{attempt} 2>/dev/null")));
        assert_ne!(ended.code(), 0, "{attempt}");
    }
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), host_pattern);
    assert_eq!(image.sh("for file in kcore keys timer_list interrupts; do [ ! -e /proc/$file ] || head -c 10 /proc/$file; done; ls /sys/firmware 2>/dev/null; true"), "");
}

#[test]
fn root_only_the_given_devices_open() {
    let image = Image::new();
    let host_null = fs::metadata("/dev/null").unwrap();
    image.sh("echo x > /dev/null; head -c 1 /dev/zero | wc -c; head -c 1 /dev/urandom >/dev/null; chmod 600 /dev/null");
    assert_eq!(
        fs::metadata("/dev/null").unwrap().mode(),
        host_null.mode(),
        "the host's device"
    );
    assert_eq!(
        image.sh("ls /dev; stat -c '%t:%T' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty"),
        "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n1:3\n1:5\n1:7\n1:8\n1:9\n5:0\n"
    );
    // A node may be made, and opens nothing: neither in the image nor in any folder that can be written.
    let (major, minor) = (1, 3);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        image.root().join("brought"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(major, minor),
    )
    .unwrap();
    for node in ["/brought", "/tmp/made", "/dev/made", "/dev/shm/made", "/scratch/made"] {
        let script = format!("[ -e {node} ] || mknod -m 666 {node} c {major} {minor} || exit 9; cat {node}");
        let ended = image.run(&Spec {
            tmpfs: vec!["/scratch".to_owned()],
            ..shell(&script)
        });
        assert_eq!(ended.code(), 1, "{node}: {ended:?}");
        assert!(ended.stderr.contains("Permission denied"), "{node}: {ended:?}");
    }
}

#[test]
fn root_hosts_files_are_shown_and_leave_no_trace() {
    let image = Image::new();
    fs::write(image.root().join("etc/hostname"), "the image's\n").unwrap();
    fs::create_dir(image.root().join("run")).unwrap();
    // As systemd's resolver leaves it: a link to a file that is not there.
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        image.root().join("etc/resolv.conf"),
    )
    .unwrap();
    for name in ["proc", "sys"] {
        fs::remove_dir(image.root().join(name)).unwrap();
    }
    let before = image.listing();
    let out = image.sh_with("cat /etc/hostname /etc/hosts; echo -; cat /etc/resolv.conf", |spec| {
        spec.network = Network::Host
    });
    let (hosts, resolver) = out.split_once("-\n").unwrap();
    assert!(hosts.starts_with("box\n") && hosts.contains("box\n"), "{out}");
    assert_eq!(resolver, fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    assert_eq!(image.listing(), before);
    // What the command does there stays.
    image.sh("echo x > /etc/mine");
    assert_eq!(fs::read_to_string(image.root().join("etc/mine")).unwrap(), "x\n");
}

#[test]
fn root_binds_and_tmpfs_are_mounted() {
    let image = Image::new();
    let source = image.beside("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "host\n").unwrap();
    let bind = |source: &Path, target: &str, read_only| Bind {
        source: source.to_owned(),
        target: target.into(),
        read_only,
        map_ids: false,
    };
    let before = image.listing();
    let out = image.sh_with("cat /a/b/file /one; echo new > /a/b/new; echo no > /ro/no || echo refused; touch /a/scratch/x && ls /a/scratch", |spec| {
        spec.tmpfs = vec!["/a/scratch".to_owned(), "/a".to_owned()];
        spec.binds = vec![bind(&source, "/a/b", false), bind(&source, "/ro", true), bind(&source.join("file"), "/one", true)];
    });
    assert_eq!(out, "host\nhost\nrefused\nx\n");
    assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "new\n");
    assert_eq!(image.listing(), before, "mount targets are gone again");
    for target in ["/proc", "/proc/self", "/sys/kernel"] {
        image.refused(&Spec {
            binds: vec![bind(&source, target, false)],
            ..shell("true")
        });
    }
    let missing = image.refused(&Spec {
        binds: vec![bind(&source.join("none"), "/x", false)],
        ..shell("true")
    });
    assert!(missing.contains("source/none"), "{missing}");
}

#[test]
fn root_a_read_only_root_is_read_only() {
    let image = Image::new();
    let read_only = |script: &str| {
        image.run(&Spec {
            read_only: true,
            tmpfs: vec!["/tmp".to_owned()],
            ..shell(script)
        })
    };
    assert_eq!(read_only("touch /x 2>/dev/null").code(), 1);
    assert_eq!(read_only("touch /tmp/x /dev/shm/x").code(), 0);
    assert_eq!(read_only("mount -o remount,rw / 2>/dev/null").code(), 1);
    assert_eq!(image.sh("touch /x; ls /x"), "/x\n");
}

#[test]
fn root_standard_input_is_passed_on_only_when_asked() {
    let image = Image::new();
    let with = |stdin| {
        run_in(
            &image.root(),
            &Spec {
                stdin,
                ..spec(&["cat"])
            },
            b"hello",
        )
        .stdout
    };
    assert_eq!(with(true), "hello");
    assert_eq!(with(false), "");
    let big = vec![b'x'; 1 << 20];
    assert_eq!(
        run_in(
            &image.root(),
            &Spec {
                stdin: true,
                ..spec(&["wc", "-c"])
            },
            &big
        )
        .stdout
        .trim(),
        "1048576"
    );
}

#[test]
fn root_a_terminal_is_the_containers_own() {
    let image = Image::new();
    let terminal = |stdin, script: &str, input: &[u8]| {
        let spec = Spec {
            terminal: true,
            stdin,
            ..shell(script)
        };
        let ended = run_in(&image.root(), &spec, input);
        (ended.code(), ended.stdout.replace('\r', ""))
    };
    assert_eq!(
        terminal(false, "tty; stat -c %t:%T /dev/console; exit 7", b""),
        (7, "/dev/pts/0\n88:0\n".to_owned())
    );
    assert_eq!(
        terminal(
            false,
            "head -c 300000 /dev/zero | wc -c; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo </dev/tty yes",
            b""
        ),
        (0, "300000\nyes\n".to_owned())
    );
    // All that was written arrives, though the command is dead by then.
    let (code, out) = terminal(false, "dd if=/dev/zero bs=1000 count=200 2>/dev/null", b"");
    assert_eq!((code, out.len()), (0, 200_000));
    let (code, out) = terminal(
        true,
        "stty -echo; while read line; do echo got $line; done; exit 5",
        b"one\ntwo\n",
    );
    assert_eq!(code, 5, "{out}");
    assert!(out.ends_with("got one\ngot two\n"), "{out}");
    // A shell that is fed from a pipe ends with the pipe.
    let ended = run_in(
        &image.root(),
        &Spec {
            terminal: true,
            stdin: true,
            ..spec(&["sh"])
        },
        b"echo $((40+2))\nexit 4\n",
    );
    assert_eq!(ended.code(), 4, "{ended:?}");
    assert!(ended.stdout.contains("42\r\n"), "{ended:?}");
    let ended = run_in(
        &image.root(),
        &Spec {
            terminal: true,
            stdin: true,
            ..spec(&["sh"])
        },
        b"sleep 1\necho $((40+2))",
    );
    assert_eq!(ended.code(), 0, "{ended:?}");
}

#[test]
fn root_a_run_leaves_nothing_of_itself() {
    let image = Image::new();
    let facts = || {
        (
            fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
            fs::read_link("/proc/self/ns/pid_for_children").unwrap(),
        )
    };
    image.sh("true");
    let before = facts();
    std::thread::scope(|threads| {
        for number in 0..6 {
            // Each its own: a root filesystem is one container's.
            threads.spawn(move || {
                let ended = Image::new().run(&shell(&format!("sleep 0.1; exit {number}")));
                assert_eq!(ended.code(), number, "{ended:?}");
            });
        }
    });
    assert_eq!(image.run(&shell("sleep 1000 & exit 2")).code(), 2);
    image.refused(&Spec {
        user: "nobody".to_owned(),
        ..shell("true")
    });
    assert_eq!(facts(), before);
}

/// Not a test by itself: the process that the next test kills.
#[test]
fn root_runs_for_another_test() {
    let Some(root) = std::env::var_os("PLYWOOD_TEST_VICTIM") else {
        return;
    };
    let _ = exec::run(
        Path::new(&root),
        &shell("sleep 1000 & exec sleep 1000"),
        Surroundings::default(),
        Attendant::Caller(Streams::own()),
        |pid, _| {
            fs::write(Path::new(&root).join("pid"), pid.to_string()).unwrap();
            Ok(())
        },
    );
}

#[test]
fn root_a_killed_plywood_takes_its_container_along() {
    let image = Image::new();
    let mut plywood = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "root_runs_for_another_test"])
        .env("PLYWOOD_TEST_VICTIM", image.root())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid: u32 = wait::until_ok("the container's process", || {
        fs::read_to_string(image.root().join("pid")).unwrap_or_default().parse()
    });
    wait::until("its command", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
    });
    plywood.kill().unwrap();
    plywood.wait().unwrap();
    wait::until("its end", || exec::state::start_ticks(pid).is_none());
    let root = image.root();
    let holders = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("mountinfo")).ok());
    assert_eq!(
        holders.filter(|mounts| mounts.contains(root.to_str().unwrap())).count(),
        0,
        "a mount is left"
    );
}
