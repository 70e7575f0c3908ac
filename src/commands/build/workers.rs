//! Stages at the same time: each in a plywood of its own, which leaves nothing but steps in the build cache.
//!
//! The build that was called does every stage itself in the end, from the cache: so what a stage comes to is
//! found out in one way only, and a worker that dies has done no harm. A worker is this very command with two
//! words more, and is [given](Given) what this build knows already. It writes its [events](Event) to its standard
//! output, a line of JSON each; the build tells them.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, BufWriter, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use plywood_store::Digest;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::contents::Contents;
use super::event::{Event, Teller};
use super::tail::printable;
use super::threads::deaf;
use crate::error::{Context, Error, Result};
use crate::failure::{FAILED, Failure};
use crate::output::Output;

/// How often it is looked whether a worker has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// What a worker is given on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Given<'a> {
    /// The Dockerfile, as the build has read it.
    pub(super) dockerfile: Cow<'a, str>,
    /// Of [`Contents`].
    pub(super) contents: Vec<(Digest, Digest)>,
}

impl Given<'_> {
    /// Reads it.
    ///
    /// # Errors
    /// I/O; where there is none.
    pub(super) fn read() -> Result<Self> {
        let given = std::io::read_to_string(std::io::stdin().lock()).context("read", "standard input")?;
        serde_json::from_str(&given).map_err(|error| Error::invalid("a worker is given no build").caused_by(error))
    }
}

/// A stage at work.
#[derive(Debug)]
struct Worker<'s> {
    stage: usize,
    child: Child,
    /// Gives what it reports of its failure.
    events: ScopedJoinHandle<'s, Option<String>>,
}

/// Workers, by the numbers of their stages.
#[derive(Debug)]
pub(super) struct Workers<'s, 'e> {
    dockerfile: &'e str,
    contents: &'e Contents<'e>,
    /// Since when steps are new, in microseconds since 1970.
    since: i64,
    output: &'e Output,
    teller: &'e Teller<'e>,
    scope: &'s Scope<'s, 'e>,
    running: Vec<Worker<'s>>,
    /// Nobody wants to hear more of them.
    is_over: Arc<AtomicBool>,
}

impl<'s, 'e> Workers<'s, 'e> {
    pub(super) fn new(
        dockerfile: &'e str,
        contents: &'e Contents<'e>,
        since: i64,
        output: &'e Output,
        teller: &'e Teller<'e>,
        scope: &'s Scope<'s, 'e>,
    ) -> Self {
        Self {
            dockerfile,
            contents,
            since,
            output,
            teller,
            scope,
            running: Vec::new(),
            is_over: Arc::default(),
        }
    }

    /// How many may work at a time: two even on one processor, as a step waits for disks and networks.
    pub(super) fn most() -> usize {
        std::thread::available_parallelism().map_or(2, usize::from).max(2)
    }

    pub(super) fn count(&self) -> usize {
        self.running.len()
    }

    pub(super) fn has(&self, stage: usize) -> bool {
        self.running.iter().any(|worker| worker.stage == stage)
    }

    /// Starts one on a stage, called `name`, whose needs are built.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub(super) fn start(&mut self, stage: usize, name: &str) -> Result<()> {
        let mut own = std::env::args_os();
        let program = own.next().unwrap_or_else(|| "plywood".into());
        let mut command = Command::new("/proc/self/exe");
        std::os::unix::process::CommandExt::arg0(&mut command, program);
        command
            .args(own)
            .arg(format!("--worker-stage={stage}"))
            .arg(format!("--worker-since={}", self.since))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if self.teller.draws() {
            command.stderr(Stdio::piped());
        }
        let mut child = command.spawn().context("start", "a worker for a stage")?;
        let given = Given {
            dockerfile: self.dockerfile.into(),
            contents: self.contents.all(),
        };
        if let Some(stdin) = child.stdin.take() {
            // One that is gone already is told of when it is waited for.
            let _ = serde_json::to_writer(BufWriter::new(stdin), &given);
        }
        let (teller, output, contents) = (self.teller.beside(stage, name), self.output, self.contents);
        let (stdout, stderr, is_over) = (child.stdout.take(), child.stderr.take(), Arc::clone(&self.is_over));
        let warnings = move || each_line(stderr, |line| output.error(printable(line)));
        let events = move || {
            let mut report = None;
            each_line(stdout, |line| match serde_json::from_slice(line) {
                _ if is_over.load(Ordering::Relaxed) => {}
                Ok(Event::Report(text)) => report = Some(text),
                Ok(Event::Content(source, content)) => contents.learn(source, content),
                Ok(event) => teller.tell(&event),
                // Cut off.
                Err(_) => {}
            });
            report
        };
        let events = deaf(|| {
            self.scope.spawn(warnings);
            self.scope.spawn(events)
        });
        self.running.push(Worker { stage, child, events });
        Ok(())
    }

    /// Waits for one that ends; its stage.
    ///
    /// # Errors
    /// Its own failure, which is told; the others are ended then.
    pub(super) fn wait(&mut self) -> Result<Option<usize>, Failure> {
        while !self.running.is_empty() {
            for place in 0..self.running.len() {
                let Some(worker) = self.running.get_mut(place) else {
                    break;
                };
                let Some(status) = worker.child.try_wait().context("wait for", "a worker")? else {
                    continue;
                };
                let worker = self.running.swap_remove(place);
                let report = worker.events.join().unwrap_or_default();
                if status.success() {
                    return Ok(Some(worker.stage));
                }
                self.end();
                if let Some(report) = report {
                    self.output.error(report);
                }
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                return Err(Failure::told(code.unwrap_or(FAILED)));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }

    /// Ends all that work still.
    fn end(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for worker in &self.running {
            if let Some(pid) = i32::try_from(worker.child.id()).ok().and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
        }
        for mut worker in self.running.drain(..) {
            let _ = worker.child.wait();
        }
    }
}

impl Drop for Workers<'_, '_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads to the end, a line at a time; nothing where there is none.
fn each_line(from: Option<impl Read>, mut tell: impl FnMut(&[u8])) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        tell(&line);
        line.clear();
    }
}
