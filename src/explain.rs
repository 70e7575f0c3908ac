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

/// Quotes a word for a POSIX shell, where it needs it.
pub fn quote(word: impl AsRef<std::ffi::OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@%^".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn words_are_quoted_only_where_a_shell_would_split_or_expand() {
        assert_eq!(quote("/dev/loop0"), "/dev/loop0");
        assert_eq!(quote("0 8 thin"), "'0 8 thin'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }
}
