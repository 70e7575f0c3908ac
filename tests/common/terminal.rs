//! A terminal of the kernel's, and what is to be seen on it in the end.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use super::words;

/// What a command has written to its terminal.
#[derive(Debug)]
pub struct Shown {
    /// Its exit code.
    pub code: i32,
    /// Every byte.
    pub raw: String,
    /// What is there in the end, line by line, from the first; none is broken.
    pub screen: Vec<String>,
}

impl Shown {
    /// The line that begins with `start`.
    #[track_caller]
    pub fn line(&self, start: &str) -> &str {
        let found = self.screen.iter().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no line begins with {start:?}: {:#?}", self.screen))
    }
}

/// Runs a command on a terminal of that size.
pub fn on_a_terminal(command: &Command, rows: usize, columns: usize) -> Shown {
    shown(spawn(&words(command), rows, columns), String::new())
}

/// Runs a line of the shell on a terminal whose keyboard is standard input, and whose screen is standard output.
pub fn spawn(line: &str, rows: usize, columns: usize) -> Child {
    Command::new("script")
        .args(["-qec", &format!("stty rows {rows} cols {columns}; {line}"), "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script")
}

/// Reads what is written until `wanted` is among it.
pub fn until(child: &mut Child, wanted: &str) -> String {
    let out = child.stdout.as_mut().expect("its output");
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = out.read(&mut piece).expect("a read");
        bytes.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&bytes);
        if text.contains(wanted) {
            return text.into_owned();
        }
        assert!(count > 0, "{wanted:?} is not in {text:?}");
    }
}

/// Types.
pub fn press(child: &mut Child, keys: &str) {
    let keyboard = child.stdin.as_mut().expect("its input");
    keyboard.write_all(keys.as_bytes()).expect("a write");
}

/// Waits for the end; `raw` was read already.
pub fn shown(mut child: Child, mut raw: String) -> Shown {
    let mut rest = Vec::new();
    // Its keyboard stays until then: where that goes, script ends what runs.
    let mut out = child.stdout.take().expect("its output");
    out.read_to_end(&mut rest).expect("a read");
    let code = child.wait().expect("its end").code().unwrap_or(-1);
    raw.push_str(&String::from_utf8_lossy(&rest));
    let screen = screen(&raw);
    Shown { code, raw, screen }
}

/// A terminal without a right and a lower edge.
fn screen(text: &str) -> Vec<String> {
    let mut screen: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\n' => row += 1,
            '\r' => column = 0,
            '\u{1b}' => {
                let mut sequence = String::new();
                while !sequence.ends_with(|c: char| c.is_ascii_alphabetic()) {
                    sequence.push(letters.next().expect("a whole sequence"));
                }
                let count = sequence.trim_matches(|c: char| !c.is_ascii_digit()).parse();
                match sequence.chars().last() {
                    Some('A') => row -= count.unwrap_or(1),
                    Some('B') => row += count.unwrap_or(1),
                    Some('K') => screen[row] = Vec::new(),
                    Some('J') => {
                        screen.truncate(row + 1);
                        screen[row].truncate(column);
                    }
                    _ => {}
                }
            }
            other => {
                let line = &mut screen[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = other;
                column += 1;
            }
        }
        screen.resize(screen.len().max(row + 1), Vec::new());
    }
    screen.into_iter().map(|line| line.into_iter().collect()).collect()
}
