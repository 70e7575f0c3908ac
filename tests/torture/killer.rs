//! SIGKILL after a random time: to the process alone, or to its whole group.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::End;
use super::story::Verb;
use crate::common::Plywood;
use crate::common::edits::Dice;

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends commands, each somewhere in the time that its verb usually takes.
#[derive(Debug)]
pub struct Killer {
    usual: BTreeMap<String, Duration>,
    output: PathBuf,
    /// How often each verb was killed, for whoever counts.
    pub killed: BTreeMap<String, u64>,
}

impl Killer {
    /// One for the commands of this root.
    pub fn new(plywood: &Plywood) -> Self {
        Self::named(plywood, "output")
    }

    /// One of several, whose files have this name.
    pub fn named(plywood: &Plywood, name: &str) -> Self {
        Self {
            usual: BTreeMap::new(),
            output: plywood.beside(name),
            killed: BTreeMap::new(),
        }
    }

    /// Runs a command and kills it at a random moment, unless it has ended before. A verb's first one shows how long
    /// it takes.
    pub fn strike(&mut self, command: Command, verb: &Verb, dice: &mut Dice) -> End {
        let usual = self.usual.get(verb.word()).copied();
        let part = dice.below(1100) as f64 / 1000.0;
        let after = usual.map(|usual| usual.mul_f64(part));
        let group = dice.below(2) == 0;
        let began = Instant::now();
        let end = self.run(command, after, group);
        // Whether it is slower than thought, or faster: the next kill aims better.
        let usual = match (end == End::Killed, usual) {
            (true, Some(usual)) => usual.mul_f64(1.0 + part / 20.0),
            _ => began.elapsed(),
        };
        self.usual.insert(verb.word().to_owned(), usual);
        end
    }

    /// Runs a command to its end, but not for ever.
    pub fn finish(&self, command: Command) -> End {
        self.run(command, None, true)
    }

    fn run(&self, mut command: Command, after: Option<Duration>, group: bool) -> End {
        // Files, not pipes: a child that outlives its parent would hold a pipe open.
        let (out, err) = (self.output.with_extension("out"), self.output.with_extension("err"));
        command.stdout(File::create(&out).expect("a file"));
        command.stderr(File::create(&err).expect("a file"));
        let mut child = command.process_group(0).spawn().expect("plywood starts");
        let began = Instant::now();
        let limit = after.unwrap_or(PATIENCE);
        let status = loop {
            if let Some(status) = child.try_wait().expect("its end") {
                break status;
            }
            let elapsed = began.elapsed();
            if elapsed >= limit {
                let pid = Pid::from_child(&child);
                let kill = if group { kill_process_group } else { kill_process };
                let _ = kill(pid, Signal::KILL);
                let status = child.wait().expect("its end");
                assert!(after.is_some(), "{command:?} hangs:\n{}", text(&err));
                break status;
            }
            std::thread::sleep((limit - elapsed).min(Duration::from_millis(1)));
        };
        assert!(matches!(status.signal(), None | Some(9)), "{command:?}: {status}");
        End::of(status, text(&out).as_bytes(), text(&err).as_bytes())
    }
}

fn text(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
