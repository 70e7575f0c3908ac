//! What a person at the command line sees: the terminal, the figures, the words of refusals.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use std::process::{Command, Stdio};

use common::{Plywood, busybox_tar};

/// What a terminal of a thousand columns shows in the end, line by line.
fn on_a_terminal(command: &Command) -> Vec<String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(plywood::explain::quote).collect();
    let output = Command::new("script")
        .args([
            "-qec",
            &format!("stty rows 50 cols 1000; {}", words.join(" ")),
            "/dev/null",
        ])
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let mut screen = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\n' => row += 1,
            '\r' => column = 0,
            '\u{1b}' => {
                let mut sequence = String::new();
                while !sequence.ends_with(|c: char| c.is_ascii_alphabetic()) {
                    sequence.extend(letters.next());
                }
                let count = sequence.trim_matches(|c: char| !c.is_ascii_digit()).parse();
                match sequence.chars().last() {
                    Some('A') => row -= count.unwrap_or(1),
                    Some('B') => row += count.unwrap_or(1),
                    Some('K') => screen[row] = Vec::new(),
                    _ => {}
                }
            }
            other => {
                let line: &mut Vec<char> = &mut screen[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = other;
                column += 1;
            }
        }
        screen.resize(screen.len().max(row + 1), Vec::new());
    }
    screen.into_iter().map(|line| line.into_iter().collect()).collect()
}

#[test]
fn root_a_progress_bar_takes_no_explained_line_away() {
    let plywood = Plywood::new("overlay");
    let base = plywood.beside("base.tar");
    busybox_tar(&base);
    let shown = on_a_terminal(&plywood.command(["--explain", "-v", "import", base.to_str().unwrap(), "base"]));
    for wanted in ["+ tar ", "+ mkdir -p ", "+ umount ", "+ sync -f ", "+ rmdir "] {
        let seen = shown.iter().any(|line| line.starts_with(wanted));
        assert!(seen, "no line begins with {wanted:?}: {shown:#?}");
    }
}
