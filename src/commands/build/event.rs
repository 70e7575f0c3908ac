//! What happens in a build, and to whom it is told.
//!
//! ```text
//! a step, a command ── Event ──> Teller ──> lines on standard error    into a pipe, a file, with --progress plain
//!                                       ├─> the board                  on a terminal
//!                                       └─> JSON on standard output    in a worker: the build that has started it
//!                                                                      reads that, and tells it by its own teller
//! ```

use std::time::Duration;

use plywood_store::Digest;
use serde::{Deserialize, Serialize};

use super::board::Board;
use crate::output::Output;

/// What stands before what a step has to say.
const MARGIN: &str = "      ";

/// Stands for the stage that the build is at itself: beside those of its workers there is one at most.
const OWN: usize = usize::MAX;

/// Something that happens in a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Event {
    /// A step begins: `[2/3] RUN make`.
    Step(String),
    /// Its command printed a line, that time after it was started.
    Line(Duration, String),
    /// The same of what the line holds before it is written over, as programs show their progress.
    Passing(Duration, String),
    /// Something that the user should know about it.
    Note(String),
    /// It only changed the config.
    Config,
    /// It was done before.
    Cached,
    /// It is done, in that time.
    Done(Duration),
    /// It has failed, after that time.
    Failed(Duration),
    /// What a worker has to report of that, as the user is to see it.
    Report(String),
    /// A worker has read what a source holds.
    Content(Digest, Digest),
}

/// Who is told.
#[derive(Debug, Clone, Copy)]
enum To<'a> {
    Nobody,
    Lines(&'a Output),
    Board(&'a Board),
    /// The build that this process is a worker of.
    Build(&'a Output),
}

/// Tells the events of one stage.
#[derive(Debug, Clone)]
pub(super) struct Teller<'a> {
    to: To<'a>,
    /// Its number; [`OWN`] where the build does it itself.
    stage: usize,
    /// Stands before each of its lines, where others' are among them.
    margin: String,
}

impl<'a> Teller<'a> {
    fn new(to: To<'a>) -> Self {
        Self {
            to,
            stage: OWN,
            margin: MARGIN.to_owned(),
        }
    }

    /// Nobody, ever.
    pub(super) fn silent() -> Self {
        Self::new(To::Nobody)
    }

    /// Lines on standard error.
    pub(super) fn lines(output: &'a Output) -> Self {
        Self::new(To::Lines(output))
    }

    /// A person at a terminal.
    pub(super) fn board(board: &'a Board) -> Self {
        Self::new(To::Board(board))
    }

    /// The build that this process is a worker of.
    pub(super) fn build(output: &'a Output) -> Self {
        Self::new(To::Build(output))
    }

    /// The same of a stage that is at work while others are.
    pub(super) fn beside(&self, stage: usize, name: &str) -> Self {
        Self {
            stage,
            margin: format!("[{name}] "),
            ..self.clone()
        }
    }

    /// Whether there is a drawing, into which nobody else may write.
    pub(super) fn draws(&self) -> bool {
        matches!(self.to, To::Board(_))
    }

    pub(super) fn tell(&self, event: &Event) {
        match self.to {
            To::Nobody => {}
            To::Lines(output) => {
                if let Some(line) = self.line(event) {
                    output.note(line);
                }
            }
            To::Board(board) => board.tell(self.stage, event),
            To::Build(output) => {
                // Where that build is gone, so are its readers.
                let _ = serde_json::to_string(event).map(|line| output.line(line));
            }
        }
    }

    /// What a log has of it.
    fn line(&self, event: &Event) -> Option<String> {
        let margin = &self.margin;
        Some(match event {
            Event::Step(head) => head.clone(),
            Event::Line(at, text) => format!("{margin}{} {text}", seconds(*at)),
            Event::Note(text) => format!("{margin}{text}"),
            Event::Cached => format!("{margin}cached"),
            Event::Done(took) => format!("{margin}done in {} s", seconds(*took)),
            // A log wants none that passes, and of a failure has the error.
            Event::Passing(..) | Event::Config | Event::Failed(_) | Event::Report(_) | Event::Content(..) => {
                return None;
            }
        })
    }
}

/// As people read it: `3.2`.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_events_arrive_as_they_were() {
        for event in [
            Event::Step("[2/3] RUN \u{1}\n".to_owned()),
            Event::Line(Duration::from_millis(1234), "x".to_owned()),
            Event::Cached,
        ] {
            let line = serde_json::to_string(&event).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        }
    }

    #[test]
    fn a_log_has_a_line_of_each() {
        let teller = Teller::silent();
        let line = |event| teller.line(&event);
        let time = Duration::from_millis(3210);
        assert_eq!(line(Event::Step("[1/2] FROM a".to_owned())).unwrap(), "[1/2] FROM a");
        assert_eq!(line(Event::Line(time, "x".to_owned())).unwrap(), "      3.2 x");
        assert_eq!(line(Event::Done(time)).unwrap(), "      done in 3.2 s");
        let beside = teller.beside(1, "two");
        assert_eq!(beside.line(&Event::Cached).unwrap(), "[two] cached");
    }
}
