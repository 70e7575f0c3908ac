//! Lines at the bottom of the terminal that are drawn over again while work goes on.
//!
//! All that is told meanwhile goes above them, by [`aside`], and stays. Each line ends with a line break, so that the
//! cursor stands at the left below them whenever nothing is being written: whatever ends this process leaves a
//! terminal to type at. Nothing else of the terminal is changed.

use std::io;
use std::sync::Mutex;

use console::{Term, measure_text_width};

/// What is drawn now. There is one terminal.
static LIVE: Mutex<Option<Live>> = Mutex::new(None);

/// Rows and columns that are taken for a terminal's that does not say.
const UNKNOWN: (u16, u16) = (24, 80);

#[derive(Debug)]
struct Live {
    term: Term,
    /// What is to be seen.
    lines: Vec<String>,
    /// Columns of each line that is on the terminal.
    drawn: Vec<usize>,
}

impl Live {
    /// Rows that the lines on the terminal take: more than lines, where it has become narrower.
    fn rows(&self) -> usize {
        let columns = usize::from(self.term.size_checked().unwrap_or(UNKNOWN).1).max(1);
        self.drawn.iter().map(|width| width.div_ceil(columns).max(1)).sum()
    }

    /// Over the lines that are there, in one write; above them, to stay, `left`.
    fn draw(&mut self, left: Option<&str>) -> io::Result<()> {
        self.term.move_cursor_up(self.rows())?;
        for line in left.into_iter().chain(self.lines.iter().map(String::as_str)) {
            self.term.clear_line()?;
            self.term.write_line(line)?;
        }
        self.term.clear_to_end_of_screen()?;
        self.drawn = self.lines.iter().map(|line| measure_text_width(line)).collect();
        self.term.flush()
    }

    fn erase(&mut self) -> io::Result<()> {
        self.term.move_cursor_up(self.rows())?;
        self.drawn.clear();
        self.term.clear_to_end_of_screen()?;
        self.term.flush()
    }
}

/// Begins with no lines. Until [`end`] there must be no progress bars.
pub fn begin() {
    set(Some(Live {
        term: Term::buffered_stderr(),
        lines: Vec::new(),
        drawn: Vec::new(),
    }));
}

/// Takes the lines away.
pub fn end() {
    set(None);
}

fn set(new: Option<Live>) {
    if let Ok(mut live) = LIVE.lock()
        && let Some(mut old) = std::mem::replace(&mut *live, new)
    {
        // A terminal that is gone shows nothing any more.
        let _ = old.erase();
    }
}

/// Draws these in place of those that are there: as wide and as many as [`size`] has room for.
pub fn show(lines: Vec<String>) {
    if let Ok(mut live) = LIVE.lock()
        && let Some(live) = live.as_mut()
        && live.lines != lines
    {
        live.lines = lines;
        let _ = live.draw(None);
    }
}

/// The same, and above them, to stay, a line of text.
pub fn leave(text: &str, lines: Vec<String>) {
    match LIVE.lock().as_deref_mut() {
        Ok(Some(live)) => {
            live.lines = lines;
            let _ = live.draw(Some(text));
        }
        _ => super::last_words(text),
    }
}

/// Writes while the lines are out of the way.
pub(super) fn aside<T>(write: impl FnOnce() -> T) -> T {
    match LIVE.lock().as_deref_mut() {
        Ok(Some(live)) => {
            let _ = live.erase();
            let done = write();
            let _ = live.draw(None);
            done
        }
        _ => write(),
    }
}

/// Rows and columns of the terminal.
pub fn size() -> (usize, usize) {
    let (rows, columns) = Term::stderr().size_checked().unwrap_or(UNKNOWN);
    (rows.into(), columns.into())
}
