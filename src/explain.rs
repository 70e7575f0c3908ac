//! `--explain`: each kernel step as the shell command a person would type for it.
//!
//! Rooms call [`step`] in the single function that makes the step, just before
//! they make it. Where to print is [`crate::output`]'s business: it sets the
//! sink once. Without a sink a step costs one atomic load and formats nothing.

use std::sync::OnceLock;

static SINK: OnceLock<fn(&str)> = OnceLock::new();

/// Turns explaining on. The first sink stays.
pub fn set_sink(sink: fn(&str)) {
    let _ = SINK.set(sink);
}

/// Whether somebody listens.
pub fn is_on() -> bool {
    SINK.get().is_some()
}

/// Shows the shell command for the kernel step that follows.
pub fn step(command: impl FnOnce() -> String) {
    if let Some(sink) = SINK.get() {
        sink(&command());
    }
}

/// Quotes a word for a POSIX shell, where it needs it. What would move a terminal's
/// cursor is written as numbers: words come from images too.
pub fn quote(word: impl AsRef<std::ffi::OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    if word
        .chars()
        .any(|letter| letter.is_control() && !"\n\t".contains(letter))
    {
        return format!("\"$({})\"", printf(word.as_bytes()));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@%^".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The command that prints these very bytes.
pub fn printf(content: &[u8]) -> String {
    let mut format = String::new();
    for byte in content {
        match byte {
            b'\n' => format.push_str("\\n"),
            b'\t' => format.push_str("\\t"),
            b'\\' => format.push_str("\\\\"),
            b'%' => format.push_str("%%"),
            b'\'' => format.push_str(r"'\''"),
            b' '..=b'~' => format.push(char::from(*byte)),
            other => format.push_str(&format!("\\{other:03o}")),
        }
    }
    format!("printf '{format}'")
}

#[cfg(test)]
mod tests {
    use super::{printf, quote};

    #[test]
    fn words_are_quoted_only_where_a_shell_would_split_or_expand() {
        assert_eq!(quote("/dev/loop0"), "/dev/loop0");
        assert_eq!(quote("0 8 thin"), "'0 8 thin'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("a\nb"), "'a\nb'");
        assert_eq!(quote("\x1b[2J'"), r#""$(printf '\033[2J'\''')""#);
    }

    #[test]
    fn a_shell_prints_the_very_bytes() {
        for content in [
            &b"127.0.0.1\tlocalhost\n"[..],
            b"100% it's \\n\0\x9b\xff",
            b"",
            b"7\x017",
        ] {
            let shell = std::process::Command::new("sh")
                .arg("-c")
                .arg(printf(content))
                .output()
                .unwrap();
            assert_eq!(shell.stdout, content, "{}", printf(content));
        }
    }
}
