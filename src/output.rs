//! The only writer to the terminal: results on stdout, everything else on stderr.
//!
//! A verb gives its result once, as text or with `--json` as one document.
//! Progress bars appear on a terminal only, and vanish when their work is done; so do the [`live`] lines of a build.

pub mod live;

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table};
use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::error::{Context, Error, Result};

/// How and where to print.
#[derive(Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
    bars: Bars,
    /// What was told since this process has nobody to tell it.
    gathered: Mutex<Option<Vec<String>>>,
}

impl Output {
    /// With `json`, results are one JSON document; `quiet` leaves out notes and progress.
    pub fn new(json: bool, quiet: bool) -> Self {
        Self {
            json,
            quiet,
            bars: Bars {
                hidden: quiet || !std::io::stderr().is_terminal(),
            },
            gathered: Mutex::new(None),
        }
    }

    /// From now on keeps what is told beside the result, for [`Output::gathered`].
    pub fn gather(&self) {
        if let Ok(mut gathered) = self.gathered.lock() {
            gathered.get_or_insert_default();
        }
    }

    /// What was told since [`Output::gather`].
    pub fn gathered(&self) -> Vec<String> {
        self.gathered
            .lock()
            .ok()
            .and_then(|mut gathered| gathered.take())
            .unwrap_or_default()
    }

    /// Whether the result is to be a JSON document.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a line of the result.
    ///
    /// # Errors
    /// Where standard output cannot be written; a closed pipe is reported silently.
    pub fn line(&self, text: impl AsRef<str>) -> Result<()> {
        self.bytes(format!("{}\n", text.as_ref()).as_bytes())
    }

    /// Prints a result as it is.
    ///
    /// # Errors
    /// As for [`Output::line`].
    pub fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .context("write", "standard output")
    }

    /// Prints the whole result as one JSON document.
    ///
    /// # Errors
    /// As for [`Output::line`].
    pub fn json(&self, document: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| Error::invalid("cannot write the result as JSON").caused_by(error))?;
        self.line(text)
    }

    /// Prints rows under headings, two spaces apart. Headings that start with `>` are of numbers, set to the right.
    ///
    /// # Errors
    /// As for [`Output::line`].
    pub fn table(&self, headings: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
        let mut table = Table::new();
        table
            .load_preset(comfy_table::presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
        table.add_rows(rows.into_iter().map(|row| row.into_iter().map(printable)));
        for (index, heading) in headings.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                if heading.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        self.bytes(text.as_bytes())
    }

    /// Empties the terminal that the result goes to.
    ///
    /// # Errors
    /// As for [`Output::line`].
    pub fn clear(&self) -> Result<()> {
        // ECMA-48: cursor to the upper left, erase all below.
        self.bytes(b"\x1b[H\x1b[J")
    }

    /// Tells something beside the result, on stderr.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.error(text);
        }
    }

    /// Tells a failure, on stderr.
    pub fn error(&self, text: impl AsRef<str>) {
        match self.gathered.lock().as_deref_mut() {
            Ok(Some(gathered)) => gathered.push(text.as_ref().to_owned()),
            _ => beside_bar(|| last_words(text.as_ref())),
        }
    }

    /// Whether there is a terminal, and somebody who wants to see on it how work goes on.
    pub fn has_terminal(&self) -> bool {
        let is_dumb = std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
        !self.bars.hidden && !is_dumb
    }

    /// Progress of long work.
    pub fn bars(&self) -> &Bars {
        &self.bars
    }
}

/// Prints an explained step: the sink of [`crate::explain`].
pub fn explained(command: &str) {
    beside_bar(|| last_words(&format!("+ {command}")));
}

/// Prints what is left to print when there is no [`Output`] yet.
pub fn last_words(text: &str) {
    // Nobody is left to tell when stderr itself is gone.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Where the rooms' events go: stderr, each whole event beside the bar.
#[derive(Debug, Default)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        beside_bar(|| std::io::stderr().lock().write(event))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().lock().flush()
    }
}

/// The bar on the terminal. There is one terminal, and so one bar at a time.
static CURRENT: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Writes to the terminal while the bar is out of the way: what it draws over is lost.
fn beside_bar<T>(write: impl FnOnce() -> T) -> T {
    live::aside(|| match CURRENT.lock() {
        Ok(bar) => match bar.as_ref() {
            Some(bar) => bar.suspend(write),
            None => write(),
        },
        Err(_) => write(),
    })
}

/// A bar for long work, with bytes and rate.
#[derive(Debug)]
pub struct Bars {
    hidden: bool,
}

impl Bars {
    /// None are shown.
    pub fn hidden() -> Self {
        Self { hidden: true }
    }

    /// Begins work on `what`; `total` in bytes where it is known.
    pub fn begin(&self, what: &str, total: Option<u64>) {
        if self.hidden {
            return;
        }
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{msg:30!} {bar:30} {binary_bytes:>10} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}",
            ),
            None => (
                ProgressBar::no_length(),
                "{msg:30!} {spinner} {binary_bytes:>10}  {binary_bytes_per_sec}",
            ),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        replace(Some(bar));
    }

    /// `bytes` more are done.
    pub fn advance(&self, bytes: u64) {
        if let Ok(current) = CURRENT.lock()
            && let Some(bar) = current.as_ref()
        {
            bar.inc(bytes);
        }
    }

    /// The work is done, well or not.
    pub fn end(&self) {
        replace(None);
    }
}

fn replace(bar: Option<ProgressBar>) {
    if let Ok(mut current) = CURRENT.lock()
        && let Some(old) = std::mem::replace(&mut *current, bar)
    {
        old.finish_and_clear();
    }
}

impl crate::image::Progress for Bars {
    fn begin(&self, what: &str, total: Option<u64>) {
        self.begin(what, total);
    }

    fn advance(&self, bytes: u64) {
        self.advance(bytes);
    }

    fn end(&self) {
        self.end();
    }
}

/// Whether results go to a person.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Bytes for people: `12.34 MiB`.
pub fn bytes(count: u64) -> String {
    BinaryBytes(count).to_string()
}

/// How long ago, for people: `3 hours ago`.
pub fn ago(then: i64, now: i64) -> String {
    let seconds = u64::try_from(now.saturating_sub(then)).unwrap_or(0);
    format!("{} ago", indicatif::HumanDuration(Duration::from_secs(seconds)))
}

/// A cell without control characters: what an image says must not drive the terminal.
/// What only breaks or indents lines is one space.
fn printable(text: String) -> String {
    if !text.chars().any(char::is_control) {
        return text;
    }
    let mut shown = String::with_capacity(text.len());
    let mut breaking = false;
    for letter in text.chars() {
        let breaks = "\n\r\t".contains(letter);
        match letter {
            // The indentation of a line that was broken goes with the break.
            ' ' if breaking => continue,
            _ if breaks && (breaking || shown.ends_with(' ')) => {}
            _ if breaks => shown.push(' '),
            other if other.is_control() => shown.push('\u{fffd}'),
            other => shown.push(other),
        }
        breaking = breaks;
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_no_control_characters() {
        assert_eq!(printable("a\x1b[31mb".to_owned()), "a\u{fffd}[31mb");
        assert_eq!(
            printable("sh -c set -e\n    a  b\r\n\tc".to_owned()),
            "sh -c set -e a  b c"
        );
    }

    #[test]
    fn bytes_and_ages_read_well() {
        assert_eq!(bytes(12 << 20), "12.00 MiB");
        assert_eq!(ago(0, 7200), "2 hours ago");
    }
}
