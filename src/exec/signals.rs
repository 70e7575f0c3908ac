//! Signals by name or number, as people and images write them.

use nix::sys::signal::Signal;

/// The kernel's first and last real-time signal that a program may have.
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// What asks a command to end where its image says nothing.
pub const TERM: i32 = Signal::SIGTERM as i32;
/// What ends a command.
pub const KILL: i32 = Signal::SIGKILL as i32;

/// `TERM`, `SIGTERM`, `term`, `15`, `RTMIN+3`, `RTMAX-1`; none for what is no signal.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RT_MAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| {
        if rest.is_empty() {
            Some(0)
        } else {
            rest.parse::<i32>().ok()
        }
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => RT_MIN.checked_add(offset(rest)?)?,
        (_, Some(rest)) => RT_MAX.checked_add(offset(rest)?)?,
        _ => return format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32),
    };
    (RT_MIN..=RT_MAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("TERM", Some(15)),
            ("sigquit", Some(3)),
            ("9", Some(9)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("RTMIN", Some(34)),
            ("0", None),
            ("65", None),
            ("RTMIN+31", None),
            ("RTMAX+1", None),
            ("WAVE", None),
            ("", None),
            ("SIG", None),
            ("-9", None),
        ] {
            assert_eq!(parse(text), number, "{text}");
        }
    }
}
