//! What a build tells while it works: each step with its number, how long it took, whether it was cached, and
//! what its command prints.
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
//! All of it goes to standard error, a line at a time: on a terminal, into a pipe and into a log alike. The last
//! lines of a command are kept, for the error of one that fails.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::output::Output;

/// Lines of a failed command that its error repeats.
const KEPT: usize = 20;
/// Bytes of a line that are shown: a program may print without end and without lines.
const LONGEST: usize = 4096;

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
    output: &'a Output,
    stage: String,
    /// Shown where there are several stages.
    prefix: String,
    step: usize,
    steps: usize,
    text: String,
    begun: Instant,
    done: Vec<Done>,
    /// Stands before each line, where several stages are told at a time.
    mark: String,
    /// Lines of a stage of which it is not known yet whether it is to be told, and how many steps were done before.
    held_back: Option<(Vec<String>, usize)>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(output: &'a Output) -> Self {
        Self {
            output,
            stage: String::new(),
            prefix: String::new(),
            step: 0,
            steps: 0,
            text: String::new(),
            begun: Instant::now(),
            done: Vec::new(),
            mark: String::new(),
            held_back: None,
        }
    }

    /// Tells nobody, ever.
    pub(super) fn silent() -> Self {
        static NOBODY: std::sync::OnceLock<Output> = std::sync::OnceLock::new();
        Self::new(NOBODY.get_or_init(|| Output::new(false, true)))
    }

    /// Tells nothing until it is known how the stage went.
    pub(super) fn hold_back(&mut self) {
        self.held_back = Some((Vec::new(), self.done.len()));
    }

    /// Tells what was held back.
    pub(super) fn release(&mut self) {
        for line in self.held_back.take().into_iter().flat_map(|(lines, _)| lines) {
            self.output.note(line);
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

    /// Puts the stage before each line: others tell theirs at the same time.
    pub(super) fn mark(&mut self, name: &str) {
        self.mark = format!("[{name}] ");
    }

    /// What stands before each line of a command.
    pub(super) fn margin(&self) -> String {
        match self.mark.is_empty() {
            true => "      ".to_owned(),
            false => self.mark.clone(),
        }
    }

    fn tell(&mut self, line: String) {
        match &mut self.held_back {
            Some((lines, _)) => lines.push(line),
            None => self.output.note(line),
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
        let line = format!("[{}{}/{}] {}", self.prefix, self.step, self.steps, first_line(text));
        self.tell(line);
    }

    /// The step is over. Of one that only changed the config nothing is told.
    pub(super) fn done(&mut self, how: How) {
        let margin = self.margin();
        let took = match how {
            How::Done | How::Config => self.begun.elapsed(),
            How::Worker(took) => took,
            How::Cached => Duration::ZERO,
        };
        let cached = matches!(how, How::Cached);
        match how {
            How::Config => {}
            How::Cached => self.tell(format!("{margin}cached")),
            How::Done | How::Worker(_) => self.tell(format!("{margin}done in {:.1} s", took.as_secs_f64())),
        }
        self.done.push(Done {
            stage: self.stage.clone(),
            step: self.step,
            text: self.text.clone(),
            cached,
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
        });
    }

    /// Of something that the user should know, at the step at hand.
    pub(super) fn note(&mut self, text: &str) {
        let line = format!("{}{text}", self.margin());
        self.tell(line);
    }

    pub(super) fn steps(&self) -> &[Done] {
        &self.done
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The last lines that a command has printed.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: &str) {
        let Ok(mut lines) = self.0.lock() else { return };
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// Each on a line of its own, indented.
    pub(super) fn told(&self) -> String {
        let Ok(lines) = self.0.lock() else { return String::new() };
        lines.iter().map(|line| format!("\n    {line}")).collect()
    }
}

/// Reads what a command prints until its end, and tells it line by line with the time since `begun`.
pub(super) fn listen(from: impl Read, begun: Instant, margin: &str, tail: &Tail, tell: impl Fn(&str)) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match from.by_ref().take(LONGEST as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = printable(&line);
                tail.push(&text);
                tell(&format!("{margin}{} {text}", seconds(begun.elapsed())));
            }
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

/// A command's output must not move the cursor of whoever watches. Of what a line overwrites, the last counts.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    let text = text.rsplit('\r').next().unwrap_or_default();
    text.chars()
        .map(|char| {
            if char.is_control() && char != '\t' {
                '\u{fffd}'
            } else {
                char
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_prints_is_told_in_lines_and_its_end_is_kept() {
        let told = Mutex::new(Vec::new());
        let tail = Tail::default();
        let printed: String = (0..30).map(|number| format!("line {number}\n")).collect();
        let printed = format!("{printed}10%\r100%\r\n\x1b[2Jx");
        listen(printed.as_bytes(), Instant::now(), "      ", &tail, |line| {
            told.lock().unwrap().push(line.to_owned());
        });
        let told = told.into_inner().unwrap();
        assert_eq!(told.len(), 32);
        assert_eq!(told[30], "      0.0 100%");
        assert_eq!(told[31], "      0.0 \u{fffd}[2Jx");
        assert_eq!(
            tail.told().lines().filter(|line| line.starts_with("    ")).count(),
            KEPT
        );
        assert!(tail.told().starts_with("\n    line 12\n"));
    }

    #[test]
    fn a_line_without_end_is_told_in_pieces() {
        let told = Mutex::new(0);
        listen(
            std::io::repeat(b'x').take(3 * LONGEST as u64),
            Instant::now(),
            "",
            &Tail::default(),
            |_| {
                *told.lock().unwrap() += 1;
            },
        );
        assert_eq!(*told.lock().unwrap(), 3);
    }
}
