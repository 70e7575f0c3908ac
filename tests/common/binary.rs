//! The binary on a store of its own: how it is called, what it says, and what it leaves in its folder.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use plywood_store::Digest;
use tempfile::TempDir;

use super::wait;

/// `SOURCE_DATE_EPOCH` of every test that compares ids: 2020-01-01.
const EPOCH: &str = "1577836800";

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
    pub fn await_log(&self, name: &str, word: &str) {
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
