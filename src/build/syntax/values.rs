//! Values in the notations that Docker has from Go: durations, sizes, modes, truths; and near misses.

use std::time::Duration;

/// `1h30m`, `1.5s`, `500ms`, `0`: at least a millisecond, or zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("not a duration: {text}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|char: char| !char.is_ascii_digit() && char != '.')
            .ok_or_else(bad)?;
        let (number, unit) = rest.split_at(digits);
        let end = unit
            .find(|char: char| char.is_ascii_digit() || char == '.')
            .unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = after;
    }
    // What Go can hold is 292 years.
    if i64::try_from(total.as_nanos()).is_err() {
        return Err(bad());
    }
    if !total.is_zero() && total < Duration::from_millis(1) {
        return Err(format!("less than a millisecond: {text}"));
    }
    Ok(total)
}

/// A duration as Go writes it: `1m30s`, `1.5s`, `500ms`, `0s`.
pub(crate) fn shown_duration(time: Duration) -> String {
    let short = |units: f64, name: &str| format!("{units}{name}");
    let nanoseconds = time.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if time < Duration::from_micros(1) {
        return format!("{nanoseconds}ns");
    }
    if time < Duration::from_millis(1) {
        return short(time.as_secs_f64() * 1e6, "µs");
    }
    if time < Duration::from_secs(1) {
        return short(time.as_secs_f64() * 1e3, "ms");
    }
    let (hours, minutes) = (time.as_secs() / 3600, time.as_secs() / 60 % 60);
    let mut seconds = (time.as_secs() % 60).to_string();
    if time.subsec_nanos() != 0 {
        let fraction = format!("{:09}", time.subsec_nanos());
        seconds = format!("{seconds}.{}", fraction.trim_end_matches('0'));
    }
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `64m`, `1.5GiB`, `1024`: bytes, each step 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("not a size: {text}");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|char: char| !char.is_ascii_digit() && char != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let factor: u64 = match unit.trim_start() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        "p" | "pb" | "pib" => 1 << 50,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(bad);
    }
    let (whole, fraction) = number.split_once('.').ok_or_else(bad)?;
    if fraction.is_empty() || fraction.len() > 9 {
        return Err(bad());
    }
    let whole: u128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
    let parts = (0..fraction.len()).fold(1u128, |parts, _| parts * 10);
    let bytes = whole.checked_mul(u128::from(factor)).ok_or_else(bad)? / parts;
    u64::try_from(bytes).map_err(|_| bad())
}

/// Octal, at most 07777.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    let is_octal = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| is_octal && *mode <= 0o7777);
    mode.ok_or_else(|| format!("not a mode: {text} (wanted octal, as 0755)"))
}

/// A user's or group's number.
pub(crate) fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

/// What Go takes for true and false.
pub(crate) fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("neither true nor false: {text}")),
    }
}

/// The known word that was probably meant: no more than a third of it is different.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(64).map(|char| char.to_ascii_lowercase()).collect();
    let measured = known.iter().map(|known| (distance(&word, known), *known));
    let (distance, nearest) = measured.min()?;
    (distance * 3 <= nearest.len().max(3)).then_some(nearest)
}

/// Characters to add, take away, change, or swap with their neighbour.
fn distance(word: &[char], known: &str) -> usize {
    let known: Vec<char> = known.chars().map(|char| char.to_ascii_lowercase()).collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=known.len()).collect()];
    for (i, char) in word.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in known.iter().enumerate() {
            let change = rows[i][j] + usize::from(char != other);
            let mut least = change.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && word[i - 1] == *other && known[j - 1] == *char {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[word.len()][known.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("+1s", 1000),
            (".5s", 500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1x",
            "1s2",
            "1us",
            "1e9s",
            "9999999999h",
            "1..2s",
            "+",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for (text, shown) in [
            ("90s", "1m30s"),
            ("1h", "1h0m0s"),
            ("1.5s", "1.5s"),
            ("250ms", "250ms"),
            ("0s", "0s"),
            ("1m", "1m0s"),
        ] {
            assert_eq!(shown_duration(duration(text).unwrap()), shown);
        }
    }

    #[test]
    fn sizes_step_by_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("64m", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("2 kb", 2048),
            ("1T", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "m", "1x", "-1", "1.m", "99999999999999999999", "20000p"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0755"), Ok(0o755));
        assert_eq!(mode("7777"), Ok(0o7777));
        for bad in ["", "8", "10000", "u+x", "+7", "-7"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn near_misses_are_guessed() {
        let known = ["RUN", "COPY", "WORKDIR", "ENTRYPOINT", "FROM"];
        for (word, guess) in [
            ("RUNN", Some("RUN")),
            ("FORM", Some("FROM")),
            ("copi", Some("COPY")),
            ("WORKDR", Some("WORKDIR")),
            ("ENTRYPIONT", Some("ENTRYPOINT")),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), guess, "{word}");
        }
    }
}
