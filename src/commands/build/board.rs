//! A build on a terminal: each step that is being done with its time so far and the last lines of its output, and
//! above them, for good, a line of each that is over.
//!
//! ```text
//! [1/4] FROM debian:12
//! [2/4] RUN apt-get update                                       cached
//! [3/4] RUN apt-get install -y nginx                              4.2 s     drawn again ten times a second
//!       3.9 Unpacking nginx-common (1.22.1-9)
//!       4.1 Setting up nginx-common (1.22.1-9)
//! ```
//!
//! No line is wider than the terminal, and together they are not higher; stages at work at the same time share that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use console::{measure_text_width, truncate_str};

use super::event::{Event, seconds};
use super::tail::printable;
use super::threads::deaf;
use crate::output::live;

/// Lines of a command's output that are shown, where there is room.
const SHOWN: usize = 6;
/// Between two drawings.
const PAUSE: Duration = Duration::from_millis(100);
/// Columns of a terminal for which it is not worth while.
const NARROWEST: usize = 8;

/// A step that is being done.
#[derive(Debug)]
struct Running {
    head: String,
    begun: Instant,
    printed: VecDeque<(Duration, String)>,
    /// The last of these lines is one that will be written over.
    passes: bool,
}

impl Running {
    fn print(&mut self, at: Duration, text: &str, passes: bool) {
        if self.passes {
            self.printed.pop_back();
        }
        self.passes = passes;
        if self.printed.len() == SHOWN {
            self.printed.pop_front();
        }
        // How wide a tab is depends on where it stands.
        self.printed.push_back((at, text.replace('\t', "    ")));
    }
}

/// What is going on, by the numbers of the stages.
#[derive(Debug, Default)]
struct State {
    running: BTreeMap<usize, Running>,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    over: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The drawing. It goes at its end, or when this is dropped.
#[derive(Debug)]
pub(super) struct Board {
    shared: Arc<Shared>,
    /// Draws as time goes by.
    clock: Mutex<Option<JoinHandle<()>>>,
}

impl Board {
    pub(super) fn new() -> Self {
        live::begin();
        let shared = Arc::new(Shared::default());
        let clock = Arc::clone(&shared);
        let draws = move || {
            let mut state = clock.state();
            while !state.is_over {
                draw(&state, None);
                let waited = clock.over.wait_timeout(state, PAUSE);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        let clock = deaf(|| std::thread::Builder::new().spawn(draws));
        Self {
            shared,
            // Without one it is drawn when something happens.
            clock: Mutex::new(clock.ok()),
        }
    }

    pub(super) fn tell(&self, stage: usize, event: &Event) {
        let mut state = self.shared.state();
        let end = match event {
            Event::Step(head) => {
                let running = Running {
                    head: head.replace('\t', " "),
                    begun: Instant::now(),
                    printed: VecDeque::new(),
                    passes: false,
                };
                state.running.insert(stage, running);
                return draw(&state, None);
            }
            Event::Line(at, text) | Event::Passing(at, text) => {
                if let Some(running) = state.running.get_mut(&stage) {
                    running.print(*at, text, matches!(event, Event::Passing(..)));
                }
                return;
            }
            Event::Note(text) => return draw(&state, Some(&format!("      {}", printable(text.as_bytes())))),
            Event::Report(_) | Event::Content(..) => return,
            Event::Config => String::new(),
            Event::Cached => "cached".to_owned(),
            Event::Done(took) => format!("{} s", seconds(*took)),
            Event::Failed(took) => format!("failed  {} s", seconds(*took)),
        };
        if let Some(running) = state.running.remove(&stage) {
            let (_, columns) = size();
            draw(&state, Some(&line(&running.head, &end, columns)));
        }
    }

    /// Takes the drawing away: what is told from now on stands where it was.
    pub(super) fn end(&self) {
        let mut state = self.shared.state();
        state.is_over = true;
        // What was being done when another step failed.
        let (_, columns) = size();
        for running in std::mem::take(&mut state.running).into_values() {
            let end = format!("stopped  {} s", seconds(running.begun.elapsed()));
            draw(&state, Some(&line(&running.head, &end, columns)));
        }
        drop(state);
        self.shared.over.notify_all();
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(clock) = clock {
            // It may have failed to draw; the build has not failed for that.
            let _ = clock.join();
        }
        live::end();
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.end();
    }
}

/// Rows and columns to draw on: the last row is the cursor's, and in the last column some terminals break the line.
fn size() -> (usize, usize) {
    let (rows, columns) = live::size();
    (rows.saturating_sub(1).max(1), columns.saturating_sub(1).max(NARROWEST))
}

fn draw(state: &State, left: Option<&str>) {
    let (rows, columns) = size();
    let lines = lines(state, Instant::now(), rows, columns);
    match left {
        Some(text) => live::leave(text, lines),
        None => live::show(lines),
    }
}

/// What is to be seen of the steps that are being done, in so many rows and columns.
fn lines(state: &State, now: Instant, rows: usize, columns: usize) -> Vec<String> {
    let count = state.running.len();
    let heads = if count > rows { rows.saturating_sub(1) } else { count };
    let mut spare = rows.saturating_sub(count);
    let mut lines = Vec::new();
    for (number, running) in state.running.values().take(heads).enumerate() {
        let so_far = format!("{} s", seconds(now.saturating_duration_since(running.begun)));
        lines.push(line(&running.head, &so_far, columns));
        // The same for each; what one does not need is for those below.
        let share = (spare / (heads - number)).min(SHOWN).min(running.printed.len());
        spare -= share;
        for (at, text) in running.printed.iter().skip(running.printed.len() - share) {
            let text = format!("      {} {text}", seconds(*at));
            lines.push(truncate_str(&text, columns, "").into_owned());
        }
    }
    if heads < count {
        let more = format!("and {} more", count - heads);
        lines.push(truncate_str(&more, columns, "").into_owned());
    }
    lines
}

/// `head`, and `end` at the right.
fn line(head: &str, end: &str, columns: usize) -> String {
    if end.is_empty() {
        return truncate_str(head, columns, "\u{2026}").into_owned();
    }
    let room = columns.saturating_sub(measure_text_width(end) + 2);
    let head = truncate_str(head, room, "\u{2026}");
    let gap = columns.saturating_sub(measure_text_width(&head) + measure_text_width(end));
    truncate_str(&format!("{head}{}{end}", " ".repeat(gap)), columns, "").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[2/3] RUN apt-get install -y nginx";

    fn state(now: Instant, stages: &[usize]) -> State {
        let running = |(stage, printed): (usize, &usize)| {
            let line = |number| (Duration::from_millis(100 * number as u64), format!("line {number}"));
            let running = Running {
                head: format!("[{stage} 2/3] RUN make all"),
                begun: now.checked_sub(Duration::from_millis(3210)).unwrap(),
                printed: (0..*printed).map(line).collect(),
                passes: false,
            };
            (stage, running)
        };
        State {
            running: stages.iter().enumerate().map(running).collect(),
            is_over: false,
        }
    }

    #[test]
    fn a_steps_line_has_its_time_at_the_right() {
        assert_eq!(line("[2/3] RUN make", "3.2 s", 24), "[2/3] RUN make     3.2 s");
        assert_eq!(line(HEAD, "3.2 s", 24), "[2/3] RUN apt-ge\u{2026}  3.2 s");
        assert_eq!(line(HEAD, "", 24), "[2/3] RUN apt-get insta\u{2026}");
        assert_eq!(line("[1/3] FROM a", "", 24), "[1/3] FROM a");
        // Letters of two columns.
        let wide = "\u{4e16}\u{754c}".repeat(10);
        for columns in NARROWEST..30 {
            for end in ["", "cached", "3.2 s", "failed  12345.6 s"] {
                for head in [HEAD, &wide] {
                    let line = line(head, end, columns);
                    assert!(measure_text_width(&line) <= columns, "{columns} {end} {line:?}");
                }
            }
        }
    }

    #[test]
    fn each_stage_has_its_last_lines_below_it() {
        let now = Instant::now();
        assert_eq!(
            lines(&state(now, &[2, 1]), now, 23, 40),
            [
                "[0 2/3] RUN make all               3.2 s",
                "      0.0 line 0",
                "      0.1 line 1",
                "[1 2/3] RUN make all               3.2 s",
                "      0.0 line 0",
            ]
        );
        let shown = lines(&state(now, &[6, 6]), now, 7, 12);
        assert_eq!(
            shown,
            [
                "[0 2\u{2026}  3.2 s",
                "      0.4 li",
                "      0.5 li",
                "[1 2\u{2026}  3.2 s",
                "      0.3 li",
                "      0.4 li",
                "      0.5 li",
            ]
        );
    }

    #[test]
    fn a_line_that_passes_is_written_over() {
        let now = Instant::now();
        let mut state = state(now, &[1]);
        let running = state.running.get_mut(&0).unwrap();
        for (text, passes) in [("10%", true), ("20%", true), ("100%", false), ("next", false)] {
            running.print(Duration::from_secs(1), text, passes);
        }
        assert_eq!(
            lines(&state, now, 23, 40)[1..],
            ["      0.0 line 0", "      1.0 100%", "      1.0 next"]
        );
    }

    #[test]
    fn it_is_never_higher_or_wider_than_the_terminal() {
        let now = Instant::now();
        for stages in 0..8 {
            let printed: Vec<usize> = (0..stages).map(|stage| stage * 3 % 7).collect();
            for rows in 1..40 {
                let shown = lines(&state(now, &printed), now, rows, 9);
                assert!(shown.len() <= rows, "{stages} {rows} {shown:#?}");
                assert!(shown.iter().all(|line| measure_text_width(line) <= 9), "{shown:#?}");
                assert!(stages == 0 || !shown.is_empty());
            }
        }
        let shown = lines(&state(now, &[6, 6, 6, 6]), now, 2, 30);
        assert_eq!(shown[1..], ["and 3 more"]);
    }
}
