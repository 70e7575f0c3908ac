//! `--userns auto`: the container's users are a range of the host's, and files keep the image's owners. On overlay
//! here and in the guest, on thin in the guest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Stdio;

use common::{Plywood, busybox_tar, heard, in_guest, own_network, ready, wait};

const AUTO: [&str; 4] = ["run", "--rm", "--userns", "auto"];

/// A store with the image `base`, for each driver that this kernel has.
fn stores() -> Vec<Plywood> {
    let drivers = ["overlay", "thin"].into_iter();
    let has = |driver: &&str| *driver == "overlay" || in_guest();
    drivers.filter(has).map(store).collect()
}

fn store(driver: &'static str) -> Plywood {
    let plywood = Plywood::new(driver);
    if driver == "thin" {
        plywood.ok(["pool", "init", "--data-size", "1G", "--volume-size", "256M"]);
    }
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok(["import", base.to_str().unwrap(), "base"]);
    plywood
}

/// What a command says in a container with users of its own.
#[track_caller]
fn inside(plywood: &Plywood, options: &[&str], script: &str) -> String {
    plywood.ok([&AUTO, options, &["base", "sh", "-c", script]].concat())
}

fn range(plywood: &Plywood, name: &str) -> (u32, u32) {
    let shown = &plywood.json(["inspect", name])[0]["ids"];
    let number = |field: &str| u32::try_from(shown[field].as_u64().unwrap()).unwrap();
    (number("first"), number("count"))
}

fn pid(plywood: &Plywood, name: &str) -> u64 {
    plywood.json(["inspect", name])[0]["pid"].as_u64().unwrap()
}

#[test]
fn root_userns_root_inside_is_nobody_outside_and_files_keep_the_images_owners() {
    for plywood in stores() {
        let script = "set -e; cat /proc/self/uid_map /proc/self/gid_map; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; id -u;
            echo x > /etc/new; mkdir -p /srv2; chown 1000:1000 /srv2; echo more >> /etc/passwd; [ -e /usr/share/papers ] || mv /usr/share/doc /usr/share/papers;
            stat -c %u:%g /etc/new /bin/busybox /home /dev/null /dev/shm /dev/mqueue /dev/pts /etc/hostname";
        let told = plywood.ok(["run", "--name", "one", "--userns", "auto", "base", "sh", "-c", script]);
        let (first, count) = range(&plywood, "one");
        assert!(first > 65535 && count == 65536);
        let words: Vec<&str> = told.split_whitespace().collect();
        let map = ["0", &first.to_string(), "65536"];
        assert_eq!(words[..6], [map, map].concat());
        // Docker's fourteen, as without.
        let plain = plywood.ok([
            "run",
            "--rm",
            "base",
            "grep",
            "-E",
            "^(Cap|NoNew|Seccomp:)",
            "/proc/self/status",
        ]);
        assert!(told.contains(&plain), "{told}\n{plain}");
        assert!(told.ends_with(&"0:0\n".repeat(8).trim_end()), "{told}");
        // On the disk, in a layer, and for a container with the host's users they are the image's.
        plywood.ok(["commit", "one", "two"]);
        let listed = "stat -c %u:%g:%n /etc/new /srv2 /etc/passwd /usr/share/papers/a";
        let owners = "0:0:/etc/new\n1000:1000:/srv2\n0:0:/etc/passwd\n0:0:/usr/share/papers/a";
        assert_eq!(plywood.ok(["run", "--rm", "two", "sh", "-c", listed]), owners);
        assert_eq!(
            plywood.ok(["run", "--rm", "--userns", "auto", "two", "sh", "-c", listed]),
            owners
        );
        let tar = plywood.beside("out.tar");
        plywood.ok(["export", "--format", "rootfs", "-o", tar.to_str().unwrap(), "two"]);
        for entry in tar::Archive::new(fs::File::open(&tar).unwrap()).entries().unwrap() {
            let entry = entry.unwrap();
            let id = entry.header().uid().unwrap();
            assert!(matches!(id, 0 | 1000), "{:?} is of {id}", entry.path());
        }
        // Once more, with the same numbers.
        let again = plywood.ok(["start", "-a", "one"]);
        assert!(again.contains(&first.to_string()), "{again}");
        plywood.sound();
    }
}

#[test]
fn root_userns_the_same_changes_are_the_same_layer_with_and_without() {
    for plywood in stores() {
        let edit = "set -e; mkdir -p /srv/a; chown 7:8 /srv/a; rm /usr/share/doc/b; ln /usr/share/doc/a /srv/twin; echo x >> /srv/twin;
            mkfifo /srv/fifo; chmod 4755 /bin/busybox; touch -d '2001-02-03 04:05:06' /srv/a /srv/fifo /srv /usr/share/doc /usr/share/doc/a";
        let layer = |options: &[&str], name: &str| {
            plywood.ok([&["run", "--name", name], options, &["base", "sh", "-c", edit]].concat());
            plywood.json(["commit", name, name])["diff_id"].clone()
        };
        assert_eq!(
            layer(&["--userns", "auto"], "with"),
            layer(&["--userns", "host"], "without")
        );
    }
}

#[test]
fn root_userns_a_running_container_is_entered_copied_and_started_again() {
    for plywood in stores() {
        let script = "mkdir -p /srv/site/deep; echo page > /srv/site/deep/page; chown -R 1000:1000 /srv/site; chmod 750 /srv/site; touch /ready; exec sleep 1000";
        plywood.ok([
            "run", "-d", "--name", "one", "--userns", "auto", "base", "sh", "-c", script,
        ]);
        let is_ready = ["exec", "one", "test", "-e", "/ready"];
        wait::until("the site is there", || plywood.run(is_ready).status.success());
        let (first, _) = range(&plywood, "one");
        let status = fs::read_to_string(format!("/proc/{}/status", pid(&plywood, "one"))).unwrap();
        assert!(
            status.contains(&format!("Uid:\t{first}\t{first}\t{first}\t{first}")),
            "{status}"
        );
        let map = plywood.ok(["exec", "one", "cat", "/proc/self/uid_map"]);
        assert!(map.contains(&first.to_string()), "{map}");
        assert_eq!(plywood.ok(["exec", "-u", "ops", "one", "id", "-u"]), "1000");
        let terminal = plywood.ok([
            "exec",
            "-t",
            "-u",
            "ops",
            "one",
            "sh",
            "-c",
            "stat -c %u:%g $(tty); echo x > /dev/tty",
        ]);
        assert!(terminal.starts_with("1000:5"), "{terminal}");
        assert!(plywood.ok(["nsenter", "--net", "one", "ls", "/sys"]).contains("class"));

        let out = plywood.beside("out");
        fs::create_dir(&out).unwrap();
        let path = |name: &str| out.join(name).to_str().unwrap().to_owned();
        let owner = |name: &str| {
            let meta = fs::symlink_metadata(out.join(name)).unwrap();
            (meta.uid(), meta.gid(), meta.mode() & 0o7777)
        };
        // Owners are the container's numbers on both sides.
        plywood.ok(["cp", "one:/srv/site", &path("")]);
        assert_eq!(owner("site"), (1000, 1000, 0o750));
        assert_eq!(owner("site/deep/page"), (1000, 1000, 0o644));
        plywood.ok(["cp", "one:/srv/site/deep/page", &path("page")]);
        plywood.ok(["cp", "one:/srv/site/.", &path("")]);
        assert_eq!(owner("page"), (1000, 1000, 0o644));
        fs::write(out.join("mine"), "mine").unwrap();
        fs::set_permissions(out.join("mine"), fs::Permissions::from_mode(0o600)).unwrap();
        chown(out.join("mine"), Some(7), Some(8)).unwrap();
        plywood.ok(["cp", &path("site"), "one:/back"]);
        plywood.ok(["cp", &path("mine"), "one:/etc/mine"]);
        plywood.ok(["cp", &path("mine"), "one:/etc/hostname2"]);
        plywood.ok(["cp", &path("page"), "one:/etc/mine"]);
        plywood.ok(["cp", &path("mine"), "one:/root"]);
        let tar = plywood.run(["cp", "one:/srv/site", "-"]);
        assert!(tar.stdout.ends_with(&[0; 1024]) && tar.stdout.len().is_multiple_of(512));
        plywood.fed(["cp", "-", "one:/tmp"], &tar.stdout);
        let listed = "stat -c %u:%g:%a /back /back/deep/page /etc/mine /root/mine /tmp/deep/page /root; cat /etc/mine";
        assert_eq!(
            plywood.ok(["exec", "one", "sh", "-c", listed]),
            "1000:1000:750\n1000:1000:644\n1000:1000:644\n7:8:600\n1000:1000:644\n0:0:700\npage"
        );
        // A host's file whose number the container does not have.
        chown(out.join("mine"), Some(70_000), Some(8)).unwrap();
        let told = plywood.fails(1, ["cp", &path("mine"), "one:/etc/mine"]);
        assert!(told.contains("Invalid argument"), "{told}");
        plywood.fails(1, ["cp", &path("mine"), "one:/no/such/folder"]);
        plywood.ok(["stop", "-t", "0", "one"]);
        // Stopped, it is as it is on the disk.
        plywood.ok(["cp", "one:/back/deep/page", &path("last")]);
        assert_eq!(owner("last"), (1000, 1000, 0o644));
        plywood.ok(["start", "one"]);
        assert_eq!(range(&plywood, "one").0, first);
        plywood.ok(["rm", "-f", "one"]);
        plywood.sound();
    }
}

#[test]
fn root_userns_a_files_capability_is_the_same_in_the_layer() {
    const NAME: &str = "SCHILY.xattr.security.capability";
    let capability = hex("0100000200200000000000000000000000000000");
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_pax_extensions([(NAME, &capability[..])]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(2);
    tar.append_data(&mut header, "able", &b"#!"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    for plywood in stores() {
        plywood.ok([
            "run", "-d", "--name", "one", "--userns", "auto", "base", "sleep", "1000",
        ]);
        plywood.fed(["cp", "-", "one:/"], &tar);
        plywood.ok(["stop", "-t", "0", "one"]);
        plywood.ok(["commit", "one", "able"]);
        let out = plywood.beside("able.tar");
        plywood.ok(["export", "--format", "rootfs", "-o", out.to_str().unwrap(), "able"]);
        let mut archive = tar::Archive::new(fs::File::open(&out).unwrap());
        let mut entries = archive.entries().unwrap().map(Result::unwrap);
        let mut entry = entries.find(|entry| entry.path().unwrap().ends_with("able")).unwrap();
        let kept = entry.pax_extensions().unwrap().unwrap().map(Result::unwrap);
        let kept = kept
            .filter(|extension| extension.key() == Ok(NAME))
            .map(|extension| extension.value_bytes().to_vec());
        assert_eq!(kept.collect::<Vec<_>>(), [&capability[..]]);
    }
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

#[test]
fn root_userns_owners_past_its_numbers_are_nobodys_and_stay() {
    for plywood in stores() {
        plywood.ok([
            "run",
            "--name",
            "far",
            "base",
            "sh",
            "-c",
            "echo far > /far; chown 70000:70000 /far",
        ]);
        plywood.ok(["commit", "far", "far"]);
        let script = "stat -c %u:%g /far; cat /far; echo x > /far; chmod 777 /far; chown 0 /far; rm /far; echo tried";
        let told = plywood.ok(["run", "--name", "near", "--userns", "auto", "far", "sh", "-c", script]);
        assert_eq!(told, "65534:65534\nfar\ntried");
        assert_eq!(plywood.ok(["diff", "near"]), "");
        assert_eq!(
            plywood.ok(["run", "--rm", "far", "stat", "-c", "%u:%g:%a", "/far"]),
            "70000:70000:644"
        );
    }
}

#[test]
fn root_userns_no_two_containers_share_a_number() {
    let plywood = store("overlay");
    let names: Vec<String> = (0..6).map(|number| format!("c{number}")).collect();
    let runs: Vec<Vec<&str>> = names
        .iter()
        .map(|name| vec!["run", "--name", name, "--userns", "auto", "base", "true"])
        .collect();
    let runs: Vec<&[&str]> = runs.iter().map(Vec::as_slice).collect();
    plywood.together(&runs);
    let firsts: BTreeSet<u32> = names.iter().map(|name| range(&plywood, name).0).collect();
    assert_eq!(firsts.len(), names.len());
    assert!(firsts.iter().all(|first| first % 65536 == 0), "{firsts:?}");
    // With the host's users there is none to show.
    plywood.ok(["run", "--name", "plain", "--userns", "host", "base", "true"]);
    assert!(plywood.json(["inspect", "plain"])[0]["ids"].is_null());
}

#[test]
fn root_userns_it_reaches_nothing_of_the_hosts_root() {
    for plywood in stores() {
        let secret = plywood.beside("secret");
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("file"), "the host's").unwrap();
        fs::set_permissions(secret.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
        let bind = format!("{}:/host", secret.display());
        let pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
        let attack = "cat /host/file && echo READ; echo x > /host/file && echo WROTE; touch /host/new && echo MADE;
            chown 0:0 /host && echo OWNED; chmod 777 /host/file && echo OPENED; rm -f /host/file; [ -e /host/file ] || echo REMOVED;
            cp /bin/busybox /host/root; chmod 4755 /host/root; [ -u /host/root ] && echo SETUID;
            mount -t tmpfs x /mnt && echo MOUNTED; umount /etc/hosts && echo UNMOUNTED; mount -o remount,rw /proc/sys && echo REMOUNTED;
            echo x > /proc/sys/kernel/core_pattern && echo PATTERN; echo x > /proc/sysrq-trigger && echo SYSRQ;
            echo -500 > /proc/self/oom_score_adj && echo SPARED; mknod /tmp/sda b 8 0 && echo NODE; hostname other && echo NAMED;
            for p in /proc/[0-9]*; do [ -r $p/root/sentinel ] && echo ROOT; done; echo tried";
        for options in [
            &[][..],
            &["--cap-add", "ALL"],
            &["--cap-add", "ALL", "--security-opt", "seccomp=unconfined"],
        ] {
            let options = [options, &["-v", &bind]].concat();
            let told = inside(&plywood, &options, attack);
            // With all rights in its own namespace it may mount there, and name its own host.
            let harmless = |line: &str| match line {
                "tried" => true,
                "MOUNTED" | "NAMED" => options.len() > 2,
                _ => false,
            };
            assert!(told.lines().all(harmless), "{options:?}: {told}");
        }
        assert_eq!(fs::read_to_string(secret.join("file")).unwrap(), "the host's");
        assert_eq!(fs::metadata(&secret).unwrap().uid(), 0);
        assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
        assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    }
}

#[test]
fn root_userns_mounts_are_the_hosts_and_volumes_the_containers() {
    for plywood in stores() {
        let shared = plywood.beside("shared");
        fs::create_dir(&shared).unwrap();
        let bind = |options: &str| format!("{}:/mnt2{options}", shared.display());
        let owner = |name: &str| fs::metadata(shared.join(name)).unwrap().uid();
        // Mapped: what is made there is root's on both sides.
        assert_eq!(
            inside(
                &plywood,
                &["-v", &bind(":idmap")],
                "touch /mnt2/a; stat -c %u /mnt2/a /mnt2"
            ),
            "0\n0"
        );
        assert_eq!(owner("a"), 0);
        assert_eq!(
            inside(
                &plywood,
                &["-v", &bind(":ro,idmap")],
                "touch /mnt2/b; stat -c %u /mnt2/a"
            ),
            "0"
        );
        assert!(!shared.join("b").exists());
        // Not mapped: nobody's inside, the container's own number outside.
        assert_eq!(inside(&plywood, &["-v", &bind("")], "stat -c %u /mnt2"), "65534");
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        inside(&plywood, &["-v", &bind("")], "touch /mnt2/c");
        assert!(owner("c") > 65535);
        // A volume is the same for every container, whichever users it has.
        inside(&plywood, &["-v", "data:/home"], "touch /home/x; chown 5:5 /home/x");
        assert_eq!(
            inside(&plywood, &["-v", "data:/home"], "stat -c %u /home/x /home"),
            "5\n0"
        );
        assert_eq!(
            plywood.ok(["run", "--rm", "-v", "data:/home", "base", "stat", "-c", "%u", "/home/x"]),
            "5"
        );
        // What is the kernel's and the container's own.
        let kinds = "stat -c %u /tmp2 /dev/shm; touch /tmp2/x /dev/shm/x; touch /proc/sys/x || touch /sys/fs/cgroup/x || echo ok; ls /sys/fs/cgroup >/dev/null";
        assert_eq!(inside(&plywood, &["--tmpfs", "/tmp2"], kinds), "0\n0\nok");
        assert_eq!(
            inside(&plywood, &["--init", "-u", "ops"], "id -u; kill -0 1 && echo own"),
            "1000\nown"
        );
        assert_eq!(
            inside(&plywood, &["--read-only"], "touch /x; [ -e /x ] || echo none"),
            "none"
        );
        assert!(inside(&plywood, &["-t"], "stat -c %u:%g $(tty)").starts_with("0:5"));
        // Whoever it is may open its own streams by name.
        for options in [&[][..], &["-u", "ops"]] {
            assert_eq!(
                inside(&plywood, options, "echo x > /dev/stdout; echo x >> /dev/stderr"),
                "x"
            );
        }
        // No bits of the run stay in the container's layer.
        plywood.ok([
            "run",
            "--name",
            "still",
            "--userns",
            "auto",
            "-v",
            "data:/new/place",
            "base",
            "true",
        ]);
        assert_eq!(plywood.ok(["diff", "still"]), "");
    }
}

#[test]
fn root_userns_on_the_bridge_the_network_is_the_containers_own() {
    own_network();
    let plywood = store("overlay").with_network();
    plywood.ok([
        "--quiet", "run", "-d", "--name", "web", "--userns", "auto", "base", "nc", "-ll", "-p", "80", "-e", "echo",
        "page",
    ]);
    let address = plywood.json(["inspect", "web"])[0]["ip"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(heard((address, 80)), "page\n");
    // Root of it: a port below 1024, a raw socket, and with the capability an address of its own.
    let ping = format!(
        "ping -c 1 -w 20 {address} > /dev/null && echo reached; cat /etc/hosts | grep -c web; echo '#' >> /etc/hosts"
    );
    let told = plywood.ok([&["--quiet"], &AUTO[..], &["base", "sh", "-c", &ping]].concat());
    assert_eq!(told, "reached\n1");
    let own = "ip link set lo down && ip addr add 10.9.9.9/32 dev eth0 && ip addr show eth0 | grep -c 10.9.9.9";
    let told = plywood.ok([
        &["--quiet"],
        &AUTO[..],
        &["--cap-add", "NET_ADMIN", "base", "sh", "-c", own],
    ]
    .concat());
    assert_eq!(told, "1");
    let joined = [
        &["--quiet"],
        &AUTO[..],
        &[
            "--net",
            "container:web",
            "base",
            "sh",
            "-c",
            "ip addr add 10.9.9.9/32 dev eth0 || echo no",
        ],
    ]
    .concat();
    assert_eq!(plywood.ok(joined), "no");
    plywood.ok(["rm", "-f", "web"]);
}

#[test]
fn root_userns_what_cannot_be_is_refused_and_leaves_nothing() {
    let plywood = store("overlay");
    for (options, told) in [
        (&["--userns", "auto", "--privileged"][..], "--privileged"),
        (&["--userns", "auto", "-u", "70000"], "65535"),
        (&["--userns", "auto", "-u", "0:70000"], "65535"),
        (&["-v", "/srv:/srv:idmap"], "--userns auto"),
        (&["--userns", "auto", "-v", "/proc:/x:idmap"], "idmap"),
        (&["--userns", "auto", "-v", "/no/such:/x:idmap"], "/no/such"),
    ] {
        let error = plywood.fails(125, [&["run"], options, &["base", "true"]].concat());
        assert!(error.contains(told), "{error}");
    }
    for bad in ["", "Auto", "private", "auto:size=10", "keep-id", "host,auto"] {
        plywood.fails(2, ["run", "--userns", bad, "base", "true"]);
    }
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
    // A record that somebody changed: a range with the host's root, or past the last number, is not mapped.
    plywood.ok(["run", "--name", "one", "--userns", "auto", "base", "true"]);
    let record = fs::read_dir(plywood.root().join("records/containers"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let kept = fs::read_to_string(&record).unwrap();
    let first = range(&plywood, "one").0.to_string();
    for bad in ["0", "4294967295"] {
        fs::write(
            &record,
            kept.replace(&format!("\"first\":{first}"), &format!("\"first\":{bad}")),
        )
        .unwrap();
        plywood.fails(125, ["start", "-a", "one"]);
    }
}

#[test]
fn root_userns_a_killed_plywood_leaves_nothing_and_the_numbers_stay_taken() {
    let plywood = store("overlay");
    let root = plywood.root().to_str().unwrap().to_owned();
    let processes = || {
        let all = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("cmdline")).ok());
        all.filter(|line| line.contains(&root)).count()
    };
    let mut killed = ready(
        &plywood,
        &[
            "run",
            "--name",
            "one",
            "--userns",
            "auto",
            "base",
            "sh",
            "-c",
            "echo ready; sleep 1000",
        ],
    );
    killed.kill().unwrap();
    killed.wait().unwrap();
    let first = range(&plywood, "one").0;
    // At any moment of a start.
    for milliseconds in 0..40 {
        let mut command = plywood.command([&AUTO[..], &["base", "true"]].concat());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds * 2));
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert_eq!(inside(&plywood, &[], "id -u"), "0");
    assert_eq!(plywood.json(["ps", "-a"]).as_array().unwrap().len(), 1);
    assert_eq!(range(&plywood, "one").0, first);
    assert_eq!(processes(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("plywood-test-"), "{mounts}");
    let points = fs::read_dir(plywood.root().join("mnt/overlay")).unwrap().count();
    assert_eq!(points, 0);
    plywood.sound();
}
