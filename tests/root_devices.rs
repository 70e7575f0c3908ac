//! The device cgroup, `--device`, and limits of disks: on cgroup v1 here, on v2 in the guest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Plywood, nodes, ready, with_base};

/// A container that can mount, so that it reaches nodes on a mount with devices.
const MOUNTS: [&str; 6] = [
    "run",
    "--rm",
    "--cap-add",
    "SYS_ADMIN",
    "--security-opt",
    "seccomp=unconfined",
];

/// A loop device over a file of 16 MiB, which goes with this.
struct Loop {
    node: String,
    numbers: (u64, u64),
}

impl Loop {
    fn new(plywood: &Plywood) -> Self {
        let file = plywood.beside("disk");
        fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
        let output = Command::new("losetup")
            .args(["-f", "--show"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let node = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let device = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(&node).unwrap());
        let numbers = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        Self { node, numbers }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.node]).status();
    }
}

/// Makes nodes of a disk, of /dev/mem and of /dev/zero on a tmpfs with devices, and opens them.
fn open_nodes(disk: &Loop) -> String {
    let (major, minor) = disk.numbers;
    format!(
        "mount -t tmpfs -o dev x /mnt2 || exit 9; mknod /mnt2/disk b {major} {minor}; mknod /mnt2/mem c 1 1; mknod /mnt2/zero c 1 5;
        for node in disk mem zero; do head -c 1 /mnt2/$node > /dev/null && echo $node; done; true"
    )
}

#[test]
fn root_devices_that_are_not_on_the_list_cannot_be_opened_wherever_their_node_is() {
    let plywood = with_base();
    let disk = Loop::new(&plywood);
    let script = open_nodes(&disk);
    let tmpfs = ["--tmpfs", "/mnt2"];
    let opened = |options: &[&str]| {
        let output = plywood.run([&MOUNTS, &tmpfs[..], options, &["base", "sh", "-c", &script]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (yes, no) = opened(&[]);
    assert_eq!(yes, "zero\n", "{no}");
    // The cgroup's answer, and not that of a mount without devices.
    assert_eq!(no.matches("Operation not permitted").count(), 2, "{no}");
    let (yes, no) = opened(&["--device", &disk.node]);
    assert_eq!(yes, "disk\nzero\n", "{no}");
    // Privileged, there is no list.
    let (yes, _) = opened(&["--privileged"]);
    assert!(yes.starts_with("disk\n") && yes.ends_with("zero\n"), "{yes}");
    // A command more has the same.
    let mut running = ready(
        &plywood,
        &[
            &MOUNTS,
            &tmpfs[..],
            &["--name", "one", "base", "sh", "-c", "echo ready; exec sleep 1000"],
        ]
        .concat(),
    );
    assert_eq!(plywood.ok(["exec", "one", "sh", "-c", &script]), "zero");
    plywood.ok(["kill", "one"]);
    running.wait().unwrap();
}

#[test]
fn root_devices_of_every_container_and_terminals_work() {
    let plywood = with_base();
    let script = "for node in null zero full random urandom; do head -c 1 /dev/$node > /dev/null || echo no $node; done;
        echo x > /dev/null; echo x > /dev/tty; tty; mknod /tmp/disk b 8 0 && echo made; head -c 1 /tmp/disk || echo closed";
    let told = plywood.ok(["run", "--rm", "-t", "base", "sh", "-c", script]);
    assert!(
        told.starts_with("x\r\n/dev/pts/0\r\nmade\r\n") && told.ends_with("closed"),
        "{told}"
    );
}

#[test]
fn root_only_a_privileged_container_opens_device_nodes_of_its_own() {
    nodes::only_a_privileged_container_opens_its_own(&with_base());
}

#[test]
fn root_device_of_the_hosts_is_given_with_what_may_be_done() {
    let plywood = with_base();
    let disk = Loop::new(&plywood);
    let (major, minor) = disk.numbers;
    let run = |options: &[&str], script: &str| {
        plywood.ok([&["run", "--rm"], options, &["base", "sh", "-c", script]].concat())
    };
    let numbers = |path: &str| format!("stat -c '%t:%T' {path}");
    let hexadecimal = format!("{major:x}:{minor:x}");
    assert_eq!(run(&["--device", &disk.node], &numbers(&disk.node)), hexadecimal);
    let whole = format!("{}:/dev/disk", disk.node);
    let writes = "printf plywood > /dev/disk && head -c 7 /dev/disk";
    assert_eq!(run(&["--device", &whole], writes), "plywood");
    let reads = format!("{}:/media/disk:r", disk.node);
    let script = "head -c 7 /media/disk; printf x > /media/disk || echo no";
    assert_eq!(run(&["--device", &reads], script), "plywoodno");
    // Another user's, as the host's node has it; and the container's root's, where its users are others.
    assert_eq!(
        run(&["--device", &whole, "-u", "ops"], "head -c 1 /dev/disk || echo no"),
        "no"
    );
    assert_eq!(run(&["--device", &whole, "--userns", "auto"], writes), "plywood");
    // One that every container has changes nothing.
    assert_eq!(run(&["--device", "/dev/null"], "echo x > /dev/null; echo ok"), "ok");
    // It is no change of the container's, and it is looked up anew at each start.
    plywood.ok([
        "run",
        "--name",
        "one",
        "--device",
        &reads,
        "base",
        "test",
        "-b",
        "/media/disk",
    ]);
    assert_eq!(plywood.ok(["diff", "one"]), "");
    plywood.ok(["start", "-a", "one"]);
    drop(disk);
    for (options, told) in [
        ("/dev/no-such", "/dev/no-such"),
        ("/etc/passwd", "it is none"),
        ("null", "SRC"),
        ("/dev/null:x", "r, w and m"),
        ("/dev/null:/dev/x:", "r, w and m"),
        ("/dev/zero:/proc/x", "/proc/x"),
        ("/dev/zero:/dev/x/", "/dev/x"),
    ] {
        if options == "/dev/zero:/dev/x/" {
            plywood.ok(["run", "--rm", "--device", options, "base", "test", "-c", "/dev/x"]);
            continue;
        }
        let error = plywood.fails(125, ["run", "--device", options, "base", "true"]);
        assert!(error.contains(told), "{options}: {error}");
    }
    plywood.ok(["rm", "one"]);
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
}

/// Whether this kernel's cgroups have this file of a disk's limits.
fn has(files: [&str; 2]) -> bool {
    let trees = fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let group = std::path::PathBuf::from("/sys/fs/cgroup").join(format!("devices-test-{}", std::process::id()));
    let unified = fs::create_dir(&group).is_ok() && group.join(files[1]).exists();
    let _ = fs::remove_dir(&group);
    unified || trees.into_iter().any(|tree| tree.join(files[0]).exists())
}

#[test]
fn root_disks_are_limited_or_it_is_an_error() {
    let plywood = with_base();
    let disk = Loop::new(&plywood);
    let given = ["--device", disk.node.as_str()];
    let took = |options: &[&str], script: &str| {
        let begun = Instant::now();
        plywood.ok([&["run", "--rm"], &given[..], options, &["base", "sh", "-ec", script]].concat());
        begun.elapsed()
    };
    let write = format!(
        "dd if=/dev/zero of={} bs=64k count=48 oflag=direct 2>/dev/null",
        disk.node
    );
    let read = format!(
        "dd if={} of=/dev/null bs=64k count=48 iflag=direct 2>/dev/null",
        disk.node
    );
    if !has(["blkio.throttle.write_bps_device", "io.max"]) {
        let told = plywood.fails(
            125,
            [
                "run",
                "--device-write-bps",
                &format!("{}:1M", disk.node),
                "base",
                "true",
            ],
        );
        assert!(told.contains("limit disks"), "{told}");
        return;
    }
    // 3 MiB, 48 times: three seconds at 1 MiB or 16 times a second.
    let (bytes, times) = (format!("{}:1M", disk.node), format!("{}:16", disk.node));
    let least = Duration::from_millis(2300);
    for (option, rate, script) in [
        ("--device-write-bps", &bytes, &write),
        ("--device-read-bps", &bytes, &read),
        ("--device-write-iops", &times, &write),
        ("--device-read-iops", &times, &read),
    ] {
        let free = took(&[], script);
        let limited = took(&[option, rate], script);
        assert!(limited >= least, "{option} {rate}: {limited:?}");
        assert!(limited > free, "{option}: {limited:?}, and {free:?} without");
    }
}

#[test]
fn root_limits_of_disks_that_cannot_be_are_refused_and_leave_nothing() {
    let plywood = with_base();
    for (options, told) in [
        (["--device-read-bps", "/dev/null:1M"], "it is no disk"),
        (["--device-write-iops", "/dev/no-such:5"], "/dev/no-such"),
        (["--device-read-iops", "/etc/passwd:5"], "it is no disk"),
    ] {
        let error = plywood.fails(125, [&["run"], &options[..], &["base", "true"]].concat());
        assert!(error.contains(told), "{error}");
    }
    for options in [
        ["--device-read-bps", "/dev/sda"],
        ["--device-read-bps", "/dev/sda:0"],
        ["--device-write-bps", "/dev/sda:fast"],
        ["--device-read-iops", "/dev/sda:1M"],
        ["--blkio-weight", "9"],
        ["--blkio-weight", "1001"],
    ] {
        plywood.fails(2, [&["run"], &options[..], &["base", "true"]].concat());
    }
    if !has(["blkio.weight", "io.weight"]) {
        let told = plywood.fails(125, ["run", "--blkio-weight", "500", "base", "true"]);
        assert!(told.contains("weight"), "{told}");
    }
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
}

#[test]
fn root_devices_a_killed_plywoods_list_is_swept() {
    let plywood = with_base();
    for milliseconds in 0..20 {
        let mut command = plywood.command(["run", "--rm", "--device", "/dev/zero:/dev/z", "base", "true"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds * 4));
        let _ = child.kill();
        child.wait().unwrap();
    }
    plywood.ok(["run", "--rm", "base", "true"]);
    let meta = fs::read_to_string(plywood.root().join("meta.json")).unwrap();
    let (_, rest) = meta.split_once("\"uuid\"").unwrap();
    let uuid = rest.split('"').nth(1).unwrap();
    let left = plywood::exec::cgroup::Cgroup::names(uuid).unwrap();
    assert_eq!(left, Vec::<String>::new());
}
