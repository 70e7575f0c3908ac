//! The steps of a build as they happen: each with its number, how long it took, whether it was cached.
//!
//! ```text
//! [1/3] FROM debian:12
//! [2/3] RUN apt-get update
//!       0.4 Get:1 bookworm InRelease [151 kB]
//!       done in 3.2 s
//! [3/3] COPY site /var/www
//!       cached
//! ```
//!
//! So it is told a line at a time, into a pipe or a log; a terminal has the [board](super::board).

use std::time::{Duration, Instant};

use serde::Serialize;

use super::event::{Event, Teller};
use super::tail::printable;

/// A step that is over, as `--json` shows it.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    /// The stage's name or number.
    stage: String,
    /// Its number in the stage, from 1.
    step: usize,
    /// The instruction.
    text: String,
    /// Whether it was done before.
    cached: bool,
    /// How long it took.
    seconds: f64,
}

/// How a step was done.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// The config alone has changed.
    Config,
    /// Before this build.
    Cached,
    /// Now.
    Done,
    /// By a worker of this build, in that time.
    Worker(Duration),
}

/// Tells the steps of one build.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    teller: Teller<'a>,
    stage: String,
    /// Shown where there are several stages.
    prefix: String,
    step: usize,
    steps: usize,
    text: String,
    begun: Instant,
    done: Vec<Done>,
    /// Events of a stage of which it is not known yet whether it is to be told, and how many steps were done before.
    held_back: Option<(Vec<Event>, usize)>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(teller: Teller<'a>) -> Self {
        Self {
            teller,
            stage: String::new(),
            prefix: String::new(),
            step: 0,
            steps: 0,
            text: String::new(),
            begun: Instant::now(),
            done: Vec::new(),
            held_back: None,
        }
    }

    /// Tells nobody, ever.
    pub(super) fn silent() -> Self {
        Self::new(Teller::silent())
    }

    /// Tells nothing until it is known how the stage went.
    pub(super) fn hold_back(&mut self) {
        self.held_back = Some((Vec::new(), self.done.len()));
    }

    /// Tells what was held back.
    pub(super) fn release(&mut self) {
        for event in self.held_back.take().into_iter().flat_map(|(events, _)| events) {
            self.teller.tell(&event);
        }
    }

    /// What was held back has not happened.
    pub(super) fn forget(&mut self) {
        if let Some((_, before)) = self.held_back.take() {
            self.done.truncate(before);
        }
    }

    /// What was held back has been told by a worker.
    pub(super) fn keep_quiet(&mut self) {
        self.held_back = None;
    }

    /// For those who tell while a step is being done.
    pub(super) fn teller(&self) -> &Teller<'a> {
        &self.teller
    }

    fn tell(&mut self, event: Event) {
        match &mut self.held_back {
            Some((events, _)) => events.push(event),
            None => self.teller.tell(&event),
        }
    }

    /// A stage of so many steps, `FROM` included, begins.
    pub(super) fn stage(&mut self, name: &str, is_only: bool, steps: usize) {
        name.clone_into(&mut self.stage);
        self.prefix = if is_only { String::new() } else { format!("{name} ") };
        (self.step, self.steps) = (0, steps);
    }

    /// The next step begins.
    pub(super) fn step(&mut self, text: &str) {
        self.step += 1;
        text.clone_into(&mut self.text);
        self.begun = Instant::now();
        // An image's ONBUILD is anybody's text.
        let text = printable(first_line(text).as_bytes());
        let head = format!("[{}{}/{}] {text}", self.prefix, self.step, self.steps);
        self.tell(Event::Step(head));
    }

    /// The step is over. Of one that only changed the config nothing is told.
    pub(super) fn done(&mut self, how: How) {
        let took = match how {
            How::Done | How::Config => self.begun.elapsed(),
            How::Worker(took) => took,
            How::Cached => Duration::ZERO,
        };
        let cached = matches!(how, How::Cached);
        self.tell(match how {
            How::Config => Event::Config,
            How::Cached => Event::Cached,
            How::Done | How::Worker(_) => Event::Done(took),
        });
        self.done.push(Done {
            stage: self.stage.clone(),
            step: self.step,
            text: self.text.clone(),
            cached,
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
        });
    }

    /// The step has failed.
    pub(super) fn failed(&mut self) {
        self.tell(Event::Failed(self.begun.elapsed()));
    }

    /// Of something that the user should know, at the step at hand.
    pub(super) fn note(&mut self, text: &str) {
        self.tell(Event::Note(text.to_owned()));
    }

    /// All that are over.
    pub(super) fn into_steps(self) -> Vec<Done> {
        self.done
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
