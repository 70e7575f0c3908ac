//! What the history says of an instruction, in BuildKit's words: Go's `%v` and `%q` of lists.

use std::time::Duration;

use super::syntax::values::shown_duration;
use crate::image::change::{Change, Command, Healthcheck};

/// The text for a [resolved](Change::resolved) change; none for `ONBUILD`, which leaves no trace.
pub(super) fn change(change: &Change) -> Option<String> {
    let pairs = |word: &str, pairs: &[(String, String)]| {
        let pairs: String = pairs.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        format!("{word}{pairs}")
    };
    let words = |command: &Command| match command {
        Command::Exec(words) => quoted_list(words),
        Command::Shell(line) => quoted(line),
    };
    Some(match change {
        Change::Cmd(command) => format!("CMD {}", words(command)),
        Change::Entrypoint(command) => format!("ENTRYPOINT {}", words(command)),
        Change::Env(env) => pairs("ENV", env),
        Change::Expose(ports) => format!("EXPOSE [{}]", ports.join(" ")),
        Change::Healthcheck(check) => format!("HEALTHCHECK {}", healthcheck(check.as_ref())),
        Change::Label(labels) => pairs("LABEL", labels),
        Change::Onbuild(_) => return None,
        Change::Shell(words) => format!("SHELL [{}]", words.join(" ")),
        Change::StopSignal(signal) => format!("STOPSIGNAL {signal}"),
        Change::User(user) => format!("USER {user}"),
        Change::Volume(paths) => format!("VOLUME [{}]", paths.join(" ")),
        Change::WorkDir(path) => format!("WORKDIR {path}"),
    })
}

/// The text for a command: arguments in scope before it, counted.
pub(super) fn run(args: &[String], arguments: &[String]) -> String {
    let mut parts = vec!["RUN".to_owned()];
    if !arguments.is_empty() {
        parts.push(format!("|{}", arguments.len()));
        parts.extend(arguments.iter().cloned());
    }
    parts.extend(args.iter().cloned());
    parts.push("# buildkit".to_owned());
    parts.join(" ")
}

fn healthcheck(check: Option<&Healthcheck>) -> String {
    let time = |time: Option<Duration>| shown_duration(time.unwrap_or_default());
    let (test, times, retries) = match check {
        None => (vec!["NONE".to_owned()], [None; 4], 0),
        Some(check) => (
            check.test(),
            [check.interval, check.timeout, check.start_period, check.start_interval],
            check.retries.unwrap_or(0),
        ),
    };
    let [interval, timeout, period, start] = times.map(time);
    let test = test.join(" ");
    format!(
        "{{Test:[{test}] Interval:{interval} Timeout:{timeout} StartPeriod:{period} StartInterval:{start} Retries:{retries}}}"
    )
}

fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(" "))
}

/// A text as Go's `%q` has it.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            char if char.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(char))),
            char if char.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(char))),
            char => out.push(char),
        }
    }
    out.push('"');
    out
}
