//! Stages at the same time: each in a plywood of its own, which leaves nothing but steps in the build cache.
//!
//! The build that was called does every stage itself in the end, from the cache: so what a stage comes to is
//! found out in one way only, and a worker that dies has done no harm. A worker is this very command with two
//! words more; what it prints has its stage before each line.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::error::{Context, Result};
use crate::failure::Failure;

/// How often it is looked whether a worker has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// Workers, by the numbers of their stages.
#[derive(Debug)]
pub(super) struct Workers<'a> {
    /// The Dockerfile, for those that cannot read it where this one has.
    dockerfile: &'a str,
    /// Since when steps are new, in microseconds since 1970.
    since: i64,
    running: Vec<(usize, Child)>,
}

impl<'a> Workers<'a> {
    pub(super) fn new(dockerfile: &'a str, since: i64) -> Self {
        Self {
            dockerfile,
            since,
            running: Vec::new(),
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
        self.running.iter().any(|(number, _)| *number == stage)
    }

    /// Starts one on a stage whose needs are built.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub(super) fn start(&mut self, stage: usize) -> Result<()> {
        let mut own = std::env::args_os();
        let name = own.next().unwrap_or_else(|| "plywood".into());
        let mut command = Command::new("/proc/self/exe");
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        command
            .args(own)
            .arg(format!("--worker-stage={stage}"))
            .arg(format!("--worker-since={}", self.since))
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut child = command.spawn().context("start", "a worker for a stage")?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that has a file of its own need not read it, and may be gone already.
            let _ = stdin.write_all(self.dockerfile.as_bytes());
        }
        self.running.push((stage, child));
        Ok(())
    }

    /// Waits for one that ends; its stage.
    ///
    /// # Errors
    /// Its own failure, which it has told; the others are ended then.
    pub(super) fn wait(&mut self) -> Result<Option<usize>, Failure> {
        while !self.running.is_empty() {
            for place in 0..self.running.len() {
                let Some((_, child)) = self.running.get_mut(place) else {
                    break;
                };
                let Some(status) = child.try_wait().context("wait for", "a worker")? else {
                    continue;
                };
                let (stage, _) = self.running.swap_remove(place);
                if status.success() {
                    return Ok(Some(stage));
                }
                self.end();
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                return Err(Failure::told(code.unwrap_or(crate::failure::FAILED)));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }

    /// Ends all that work still.
    fn end(&mut self) {
        for (_, child) in &self.running {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
        }
        for (_, mut child) in self.running.drain(..) {
            let _ = child.wait();
        }
    }
}

impl Drop for Workers<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
