//! The torture rig: random verbs on one root, ended at any moment, and what must hold afterwards.
//!
//! - [`story`]: what was acknowledged, and verbs drawn from a seed.
//! - [`killer`] ends a command after a random time, [`stepper`] after the n-th system call of its processes.
//! - [`checker`]: what must hold after any end; [`leaks`] is its census of what may be left.
//! - [`crowd`]: many stories at a time.
//! - [`logged_disk`]: a disk whose power goes at any flush; [`write_log`] replays it.
//!
//! A rig is a root with a story. [`Rig::kill_at_random`] plays and checks; a test that ends its verbs in another
//! way calls [`Rig::check`] itself. Environment: `PLYWOOD_TEST_SEED` plays a run again,
//! `PLYWOOD_TORTURE_ROUNDS` or `PLYWOOD_TORTURE_SECONDS` make it longer than the slice of `make test`.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests panic and print as tests do, and each test crate uses a part of them"
)]

pub mod archives;
pub mod checker;
pub mod crowd;
pub mod killer;
pub mod leaks;
pub mod logged_disk;
pub mod stepper;
pub mod story;
pub mod write_log;

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::common::Plywood;
use crate::common::edits::Dice;
pub use crate::common::{number, seed};

use self::killer::Killer;
use self::story::{Model, Story, Verb};

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With exit code 0: what it printed.
    Done(String),
    /// With another exit code: what it said.
    Refused(String),
    /// By a signal, or with the whole machine.
    Killed,
}

impl End {
    /// From a process's status and its two streams.
    pub fn of(status: ExitStatus, out: &[u8], err: &[u8]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        match status.code() {
            Some(0) => Self::Done(text(out)),
            Some(code) => Self::Refused(format!("exit code {code}: {}{}", text(out), text(err))),
            None => Self::Killed,
        }
    }

    /// Runs a command to its end.
    pub fn run(command: &mut Command) -> Self {
        let output = command.output().expect("the command starts");
        Self::of(output.status, &output.stdout, &output.stderr)
    }
}

/// How long a test goes on: its own slice, unless the environment says otherwise.
#[derive(Debug)]
pub struct Budget {
    rounds: u64,
    until: Option<Instant>,
    done: u64,
}

impl Budget {
    /// This many rounds.
    pub fn rounds(slice: u64) -> Self {
        let seconds = number("PLYWOOD_TORTURE_SECONDS").map(Duration::from_secs);
        let unbounded = if seconds.is_some() { u64::MAX } else { slice };
        Self {
            rounds: number("PLYWOOD_TORTURE_ROUNDS").unwrap_or(unbounded),
            until: seconds.map(|seconds| Instant::now() + seconds),
            done: 0,
        }
    }

    /// This many seconds.
    pub fn seconds(slice: u64) -> Self {
        let seconds = number("PLYWOOD_TORTURE_SECONDS").unwrap_or(slice);
        Self {
            rounds: u64::MAX,
            until: Some(Instant::now() + Duration::from_secs(seconds)),
            done: 0,
        }
    }

    /// The next round's number, or none when it is enough.
    pub fn next(&mut self) -> Option<u64> {
        let late = self.until.is_some_and(|until| Instant::now() > until);
        if late || self.done >= self.rounds {
            return None;
        }
        self.done += 1;
        Some(self.done)
    }

    /// Whether [`Budget::next`] would give another round.
    pub fn more(&self) -> bool {
        self.done < self.rounds && self.lasts()
    }

    /// How much time is left of a number of seconds.
    pub fn left(&self) -> Duration {
        self.until
            .map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Whether one more round may begin.
    pub fn lasts(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() <= until)
    }
}

/// So many verbs in a row are not done before their kills.
const TOO_LATE: u64 = 20;

/// A root, what was acknowledged there, and what comes next.
#[derive(Debug)]
pub struct Rig {
    /// The binary on its root.
    pub plywood: Plywood,
    /// What was acknowledged.
    pub model: Model,
    /// What comes next.
    pub story: Story,
    /// How verbs are ended.
    pub killer: Killer,
    /// Other random choices.
    pub dice: Dice,
}

impl Rig {
    /// A new root, with the archives and first images of every story.
    pub fn new(plywood: Plywood, seed: u64) -> Self {
        enter_private_namespace();
        let mut model = Model::default();
        let archives = archives::prepare(&plywood, &mut model);
        let rig = Self {
            story: Story::new(&plywood, "", archives, seed),
            killer: Killer::new(&plywood),
            dice: Dice::new(seed ^ 0x5eed),
            plywood,
            model,
        };
        rig.plywood.sound();
        rig
    }

    /// Plays verbs, each killed at a random moment unless it is done before, until so many were killed. After every
    /// second kill the command that takes up what was left is killed too.
    pub fn kill_at_random(&mut self, kills: u64) {
        self.story.live = true;
        let mut budget = Budget::rounds(kills);
        let (mut killed, mut done, mut twice) = (0, 0, 0);
        while budget.next().is_some() {
            let too_late = done + TOO_LATE;
            let recovered = loop {
                match self.round() {
                    (End::Killed, recovered) => break recovered,
                    _ => done += 1,
                }
                assert!(done < too_late, "the kills come too late");
            };
            killed += 1;
            twice += u64::from(recovered == Some(End::Killed));
        }
        self.check_all();
        let each: Vec<String> = self
            .killer
            .killed
            .iter()
            .map(|(verb, kills)| format!("{verb} {kills}"))
            .collect();
        println!(
            "torture: {}, {killed} random verbs killed ({}), {done} done before; {twice} recoveries from them killed too",
            self.plywood.driver(),
            each.join(", ")
        );
    }

    /// One verb, killed at a random moment unless it is done before, and the check after it. Gives the end of the
    /// recovery too, where that was struck.
    fn round(&mut self) -> (End, Option<End>) {
        let mut verb = self.story.next(&self.model);
        self.before(&verb);
        let end = self.strike(&verb);
        if end == End::Killed {
            *self.killer.killed.entry(verb.kind()).or_default() += 1;
        }
        let mut recovered = None;
        if end == End::Killed && self.dice.below(2) == 0 {
            let second = self.kill_the_recovery(&mut verb, Self::strike);
            assert!(
                !matches!(second, End::Refused(_)),
                "the recovery from {verb}: {second:?}"
            );
            recovered = Some(second);
        }
        self.check(&verb, &end);
        (end, recovered)
    }

    /// A verb, killed at a random moment unless it is done before.
    fn strike(&mut self, verb: &Verb) -> End {
        let command = self.plywood.command(&verb.args);
        let end = self.killer.strike(command, verb, &mut self.dice);
        println!("{verb}: {}", if end == End::Killed { "killed" } else { "ended" });
        end
    }

    /// What a verb needs to have something to do.
    pub fn before(&self, verb: &Verb) {
        for args in &verb.before {
            self.plywood.ok(args);
        }
    }
}

/// `plywood mount` mounts in its caller's tree: let that be nobody else's. For this thread and those it makes.
pub fn enter_private_namespace() {
    plywood::sys::mount::enter_private_namespace().expect("a mount namespace (needs root)");
}

/// The sha256 of a file, or of a folder's names and contents.
pub fn digest_of(path: &Path) -> String {
    let mut content = Vec::new();
    gather(path, Path::new(""), &mut content);
    plywood_store::Digest::of(&content).to_string()
}

fn gather(top: &Path, name: &Path, content: &mut Vec<u8>) {
    let path = top.join(name);
    content.extend_from_slice(name.to_string_lossy().as_bytes());
    if !top.is_dir() || path.is_file() {
        let file = if top.is_dir() { path.as_path() } else { top };
        content.extend_from_slice(&std::fs::read(file).expect("a file"));
        return;
    }
    let entries = std::fs::read_dir(&path).expect("a folder");
    let mut names: Vec<_> = entries
        .map(|entry| name.join(entry.expect("an entry").file_name()))
        .collect();
    names.sort();
    for name in names {
        gather(top, &name, content);
    }
}
