//! What the tests on the binary share: a store of their own, and a small base system.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test crate has a copy of its own and uses a part of it"
)]

pub mod debian;
pub mod edits;
pub mod environment;
pub mod explain;
pub mod json_page;
pub mod killed;
pub mod layout;
pub mod nodes;
pub mod site;
pub mod tars;
pub mod terminal;
pub mod wait;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use plywood_store::Digest;
use tempfile::TempDir;

pub use environment::{as_many, in_guest, number, rounds, seed, seeds};

/// `SOURCE_DATE_EPOCH` of every test that compares ids: 2020-01-01.
pub const EPOCH: &str = "1577836800";

/// The plywood binary on a store of its own, which ends with it.
#[derive(Debug)]
pub struct Plywood {
    folder: PathBuf,
    driver: &'static str,
    network: Option<&'static str>,
    watch: Option<&'static str>,
    _own: Option<TempDir>,
}

impl Plywood {
    /// An empty store with this driver, on the filesystem of `TMPDIR`.
    pub fn new(driver: &'static str) -> Self {
        Self::new_in(&std::env::temp_dir(), driver)
    }

    /// An empty store with this driver, in a new folder under `parent`.
    pub fn new_in(parent: &Path, driver: &'static str) -> Self {
        let own = tempfile::Builder::new()
            .prefix("plywood-test-")
            .tempdir_in(parent)
            .expect("a folder");
        Self {
            folder: own.path().to_owned(),
            driver,
            network: Some("none"),
            watch: None,
            _own: Some(own),
        }
    }

    /// The store in this folder, which stays when this ends.
    pub fn at(folder: &Path, driver: &'static str) -> Self {
        Self {
            folder: folder.to_owned(),
            driver,
            network: Some("none"),
            watch: None,
            _own: None,
        }
    }

    /// With the network that a user gets: only in a network namespace of the test's own, see [`own_network`].
    #[must_use]
    pub fn with_network(mut self) -> Self {
        self.network = None;
        self
    }

    /// Whether its containers are on the bridge unless they say otherwise.
    pub fn has_network(&self) -> bool {
        self.network.is_none()
    }

    /// With nobody who watches the pool: containers write to its last block.
    #[must_use]
    pub fn unwatched(mut self) -> Self {
        self.watch = Some("off");
        self
    }

    /// Its driver.
    pub fn driver(&self) -> &'static str {
        self.driver
    }

    /// The root folder.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// A path beside the root, for archives and the like.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The command, not started.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
        command
            .arg("--root")
            .arg(self.root())
            .arg("--driver")
            .arg(self.driver)
            .args(args);
        command
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .env_remove("PLYWOOD_ROOT")
            .env_remove("PLYWOOD_DRIVER")
            .env_remove("PLYWOOD_POOL")
            .env_remove("PLYWOOD_NET")
            // This machine's network is no test's to change.
            .envs(self.network.map(|network| ("PLYWOOD_NET", network)))
            .env_remove("PLYWOOD_POOL_WATCH")
            .envs(self.watch.map(|watch| ("PLYWOOD_POOL_WATCH", watch)))
            .stdin(Stdio::null());
        command
    }

    /// Runs it, whatever comes of it.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(args).output().expect("plywood starts")
    }

    /// Runs it, wants success, gives its standard output without the last newline.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let command = &mut self.command(args);
        let output = command.output().expect("plywood starts");
        assert!(
            output.status.success(),
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .expect("UTF-8 on stdout")
            .trim_end()
            .to_owned()
    }

    /// Runs it, wants this exit code, gives its standard error.
    #[track_caller]
    pub fn fails<S: AsRef<OsStr>>(&self, code: i32, args: impl IntoIterator<Item = S>) -> String {
        let command = &mut self.command(args);
        let output = command.output().expect("plywood starts");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{command:?}\n{}\n{error}",
            String::from_utf8_lossy(&output.stdout)
        );
        error
    }

    /// Runs it with something on its standard input, wants success.
    #[track_caller]
    pub fn fed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> String {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("plywood starts");
        child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(input)
            .expect("plywood reads");
        let output = child.wait_with_output().expect("plywood ends");
        assert!(output.status.success(), "{}", output.status);
        String::from_utf8(output.stdout)
            .expect("UTF-8 on stdout")
            .trim_end()
            .to_owned()
    }

    /// Runs it with something on its standard input; gives exit code and standard output.
    pub fn fed_and_code<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> (Option<i32>, String) {
        let mut command = self.command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("plywood starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input).expect("plywood reads");
        drop(stdin);
        let output = child.wait_with_output().expect("plywood ends");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    /// Starts all these at once, and wants each to succeed.
    #[track_caller]
    pub fn together(&self, commands: &[&[&str]]) {
        let start = |args: &&[&str]| {
            let mut command = self.command(args.iter());
            let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            (args.join(" "), child.expect("plywood starts"))
        };
        let started: Vec<_> = commands.iter().map(start).collect();
        for (words, child) in started {
            let output = child.wait_with_output().expect("plywood ends");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{words}, beside others: {}\n{error}",
                output.status
            );
        }
    }

    /// The store's JSON document for these arguments.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> serde_json::Value {
        let args =
            std::iter::once(OsStr::new("--json").to_owned()).chain(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        serde_json::from_str(&self.ok(args)).expect("JSON on stdout")
    }

    /// Waits until the log of the container `name` holds `word`.
    #[track_caller]
    pub fn has_said(&self, name: &str, word: &str) {
        wait::until_ok(&format!("{name} says {word}"), || {
            let log = self.ok(["logs", name]);
            if log.contains(word) { Ok(()) } else { Err(log) }
        });
    }

    /// Wants `check --data` to find nothing.
    #[track_caller]
    pub fn sound(&self) {
        let output = self.run(["check", "--data"]);
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Plywood {
    fn drop(&mut self) {
        // What still runs would, for ever, in files that are gone.
        if self._own.is_some() && self.root().join("records/containers").exists() {
            let listed = self.run(["--json", "ps"]).stdout;
            let running: serde_json::Value = serde_json::from_slice(&listed).unwrap_or_default();
            let names = running
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|one| one["name"].as_str());
            let kill: Vec<&str> = std::iter::once("kill").chain(names).collect();
            if kill.len() > 1 {
                let _ = self.run(kill);
            }
        }
        // Mounts and the pool's devices would outlive their files.
        let mounted = self.root().join("mounted");
        let is_shown = fs::read_dir(mounted).is_ok_and(|mut points| points.next().is_some());
        let is_thin = self.driver == "thin" && self.root().exists();
        if is_thin || is_shown && self._own.is_some() {
            let _ = self.run(["umount", "--all"]);
        }
        if is_thin {
            let _ = self.run(["pool", "detach"]);
        }
    }
}

/// Moves this thread, and what it starts, into an empty network namespace with loopback.
pub fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    plywood::sys::netdevice::loopback_up(&socket).expect("a loopback interface");
    // A new namespace has the host's settings.
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("this thread's own switch");
}

/// A command as a person would type it, with the variables that it sets and unsets: without them it would run on
/// this machine's network.
pub fn words(command: &Command) -> String {
    let variables = command.get_envs().map(|(key, value)| match value {
        Some(value) => format!("{}={}", key.display(), plywood::explain::quote(value)),
        None => format!("-u {}", key.display()),
    });
    // -u is an option: before the first variable.
    let mut words: Vec<String> = variables.collect();
    words.sort_by_key(|word| !word.starts_with("-u"));
    words.insert(0, "env".to_owned());
    let own = std::iter::once(command.get_program()).chain(command.get_args());
    words.extend(own.map(plywood::explain::quote));
    words.join(" ")
}

/// What a connection says until its end; who is to answer may not listen yet.
#[track_caller]
pub fn heard(address: (Ipv4Addr, u16)) -> String {
    let what = format!("{address:?} listens");
    let mut stream = wait::until_ok(&what, || {
        TcpStream::connect_timeout(&address.into(), Duration::from_secs(3))
    });
    stream.set_read_timeout(Some(wait::PATIENCE)).expect("a socket");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// Whether this kernel translates IPv4 addresses: the guest's has no nftables for it.
pub fn translates() -> bool {
    !in_guest()
}

/// Everything of a store that a failed verb must leave alone: records and blobs by content, layers by name.
pub fn listing(plywood: &Plywood) -> BTreeMap<PathBuf, Option<Digest>> {
    fn walk(folder: &Path, depth: usize, into: &mut BTreeMap<PathBuf, Option<Digest>>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && depth > 0 {
                into.insert(path.clone(), None);
                walk(&path, depth - 1, into);
            } else if path.is_file() {
                into.insert(path.clone(), Some(Digest::of(&fs::read(&path).unwrap())));
            }
        }
    }
    let mut all = BTreeMap::new();
    // The pool's record counts what was tried: it is left out.
    for (folder, depth) in [
        ("records/images", 9),
        ("records/layers", 9),
        ("records/names", 9),
        ("records/snapshots", 9),
        ("records/containers", 9),
        ("blobs", 9),
        ("intents", 9),
        ("tmp", 9),
        ("overlay", 1),
    ] {
        walk(&plywood.root().join(folder), depth, &mut all);
    }
    all
}

/// A base system with a shell: busybox (Debian's busybox-static), as a tar with fixed times.
pub fn busybox_tar(path: &Path) {
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    let list = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .expect("busybox runs")
        .stdout;
    let applets = String::from_utf8(list).expect("UTF-8");
    let mut tar = tar::Builder::new(std::fs::File::create(path).expect("a file"));
    let mut entry = |path: &str, kind: tar::EntryType, mode: u32, content: &[u8], link: Option<&str>| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_500_000_000);
        match link {
            Some(link) => tar.append_link(&mut header, path, link).expect("an entry"),
            None => tar.append_data(&mut header, path, content).expect("an entry"),
        }
    };
    for (folder, mode) in [
        ("./", 0o755),
        ("bin/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("home/", 0o755),
        ("proc/", 0o755),
        ("root/", 0o700),
        ("run/", 0o755),
        ("sys/", 0o755),
        ("tmp/", 0o1777),
        ("usr/", 0o755),
        ("usr/share/", 0o755),
        ("usr/share/doc/", 0o755),
        ("var/", 0o755),
        ("var/log/", 0o755),
    ] {
        entry(folder, tar::EntryType::Directory, mode, b"", None);
    }
    entry("bin/busybox", tar::EntryType::Regular, 0o755, &busybox, None);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        entry(
            &format!("bin/{applet}"),
            tar::EntryType::Link,
            0o755,
            b"",
            Some("bin/busybox"),
        );
    }
    entry(
        "etc/passwd",
        tar::EntryType::Regular,
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nops:x:1000:1000:ops:/home:/bin/sh\n",
        None,
    );
    entry(
        "etc/group",
        tar::EntryType::Regular,
        0o644,
        b"root:x:0:\nops:x:1000:\nadm:x:4:ops\n",
        None,
    );
    entry("etc/resolv.conf", tar::EntryType::Regular, 0o644, b"", None);
    entry("etc/hostname", tar::EntryType::Regular, 0o644, b"base\n", None);
    entry(
        "etc/hosts",
        tar::EntryType::Regular,
        0o644,
        b"127.0.0.1 localhost\n",
        None,
    );
    for name in ["a", "b", "c", "d"] {
        entry(
            &format!("usr/share/doc/{name}"),
            tar::EntryType::Regular,
            0o644,
            format!("document {name}\n").repeat(1000).as_bytes(),
            None,
        );
    }
    entry(
        "usr/share/twin",
        tar::EntryType::Link,
        0o644,
        b"",
        Some("usr/share/doc/a"),
    );
    entry("usr/share/link", tar::EntryType::Symlink, 0o777, b"", Some("doc/b"));
    tar.finish().expect("an archive");
}

/// The fixed edits of "same edits, same ids": one shell script per layer.
pub const EDITS: [&str; 3] = [
    // New things of every kind, a changed twin, a removal, a moved folder.
    "set -e
     mkdir -p /srv/site/img /var/log/web; echo '<h1>plywood</h1>' > /srv/site/index.html
     dd if=/dev/zero of=/srv/site/img/zeros bs=1k count=100 2>/dev/null; echo end >> /srv/site/img/zeros
     echo more >> /usr/share/doc/a; rm /usr/share/doc/b; mv /usr/share/doc/c /usr/share/c-moved
     ln /srv/site/index.html /srv/site/home.html; ln -s ../index.html /srv/site/img/up
     mkfifo /srv/fifo; mknod /srv/null c 1 3; chmod 4755 /bin/busybox; chown 1000:1000 /home; chmod 1777 /srv
     ln /usr/share/doc/d /usr/share/doc/dd; touch -d '2001-02-03 04:05:06' /srv/site/old",
    // Kinds change places, a twin is cut, a folder is made anew.
    "set -e
     rm -r /srv/site/img; echo file > /srv/site/img; rm /srv/site/home.html; mkdir /srv/site/home.html
     rm -r /var/log/web; mkdir /var/log/web; echo new > /var/log/web/access
     cp /usr/share/twin /usr/share/t; rm /usr/share/twin; mv /usr/share/t /usr/share/twin
     chmod 600 /usr/share/doc/d; rm /usr/share/link; ln -s doc/d /usr/share/link",
    // Deep removals, and a change that is undone.
    "set -e
     mv /usr/share/doc /usr/share/papers; mkdir /usr/share/doc; echo again > /usr/share/doc/a
     echo x > /srv/x; rm /srv/x; rm /srv/fifo /srv/null; chown 0:0 /home",
];

/// Imports the base system and commits every edit on top of the last: the images' ids, base first.
pub fn story(plywood: &Plywood) -> Vec<String> {
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let mut ids = vec![plywood.ok([
        OsStr::new("import"),
        OsStr::new("-c"),
        OsStr::new("CMD [\"/bin/sh\"]"),
        base.as_os_str(),
        OsStr::new("step0"),
    ])];
    for (index, edit) in EDITS.iter().enumerate() {
        let (from, to, name) = (
            format!("step{index}"),
            format!("step{}", index + 1),
            format!("c{index}"),
        );
        plywood.ok(["run", "--name", &name, &from, "sh", "-c", edit]);
        ids.push(plywood.ok(["commit", "--diff", "verify", "-m", "an edit", &name, &to]));
    }
    ids
}

/// Two commands at a time both succeed, whatever they are: on the same container, over the same layers,
/// removing and measuring. Wants the image `base`.
pub fn every_two_at_a_time(plywood: &Plywood, rounds: u32) {
    for _ in 0..rounds {
        plywood.together(&[
            &["run", "--name", "a", "base", "sh", "-c", "echo a > /a"],
            &["run", "--name", "b", "base", "sh", "-c", "echo b > /b"],
            &["df"],
        ]);
        plywood.together(&[
            &["commit", "a", "a"],
            &["commit", "a", "also-a"],
            &["diff", "a"],
            &["diff", "a"],
            &["commit", "b", "b"],
            &["df"],
        ]);
        plywood.together(&[
            &["rm", "a"],
            &["rmi", "a", "also-a"],
            &["df"],
            &["rmi", "b"],
            &["rm", "b"],
            &["df"],
            &["run", "--rm", "base", "true"],
        ]);
    }
    assert_eq!(plywood.json(["ps", "-a"]), serde_json::json!([]));
    assert_eq!(plywood.json(["images"]).as_array().map(Vec::len), Some(1));
    plywood.ok(["gc"]);
    assert_eq!(plywood.json(["df"])["layers"].as_array().map(Vec::len), Some(1));
    plywood.sound();
}

/// A store with the image `base`.
#[track_caller]
pub fn with_base() -> Plywood {
    let plywood = Plywood::new("overlay");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    plywood.ok([
        "import",
        "-c",
        "CMD [\"cat\", \"/etc/hostname\"]",
        base.to_str().expect("works"),
        "base",
    ]);
    plywood
}

/// A plywood whose container has said `ready`.
pub fn ready(plywood: &Plywood, args: &[&str]) -> Child {
    let mut child = plywood.command(args).stdout(Stdio::piped()).spawn().expect("works");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("works"))
        .read_line(&mut line)
        .expect("works");
    assert_eq!(line, "ready\n");
    child
}

/// One container overwrites a file of its image, in place and anew; another one, and a later one, see the image's.
#[track_caller]
pub fn siblings_keep_to_themselves(plywood: &Plywood, image: &str) {
    let digest = |name: &str, before: &str| {
        let script = format!("{before} md5sum < /usr/share/doc/a; md5sum < /bin/busybox");
        plywood.ok(["run", "--name", name, image, "sh", "-ec", &script])
    };
    let whole = digest("whole", "");
    let write = "printf changed | dd of=/usr/share/doc/a conv=notrunc 2>/dev/null;
        cp /bin/busybox /b; mv /b /bin/busybox; printf x >> /bin/busybox; sync;";
    assert_ne!(digest("writer", write), whole);
    assert_eq!(digest("reader", ""), whole);
    plywood.ok(["start", "-a", "writer"]);
    assert_eq!(plywood.ok(["start", "-a", "whole"]), whole);
    for name in ["whole", "writer", "reader"] {
        plywood.ok(["rm", name]);
    }
    plywood.sound();
}
