//! Values of options: what clap is to make of their text.

use std::path::PathBuf;
use std::time::Duration;

use crate::exec::cgroup::limits::Swap;
use crate::exec::signals;

/// Bytes: a number with an optional K, M, G or T (powers of 1024; `KiB`, `KB` and `k` mean the same).
///
/// # Errors
/// What is wrong with it, for clap to print.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size: write bytes, or a number with K, M, G or T, as in 512M or 100G");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    match number.checked_mul(1 << shift) {
        Some(0) | None => Err(bad()),
        Some(bytes) => Ok(bytes),
    }
}

/// A time: a number with s, m, h, d or w.
///
/// # Errors
/// What is wrong with it, for clap to print.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a time: write a number with s, m, h, d or w, as in 12h or 30d");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        "w" => 7 * 24 * 60 * 60,
        _ => return Err(bad()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(bad)
}

/// Memory and swap together; -1 for no limit.
pub(super) fn swap(text: &str) -> Result<Swap, String> {
    match text {
        "-1" => Ok(Swap::Unlimited),
        text => size(text).map(Swap::Total),
    }
}

/// Thousandths of a processor.
pub(super) fn processors(text: &str) -> Result<u32, String> {
    let bad = || format!("{text:?} is not a number of processors: write one like 2, 1.5 or 0.25");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) {
        return Err(bad());
    }
    let thousandths: u32 = format!("{part:0<3.3}").parse().map_err(|_| bad())?;
    let whole: u32 = whole.parse().map_err(|_| bad())?;
    whole
        .checked_mul(1000)
        .and_then(|whole| whole.checked_add(thousandths))
        .ok_or_else(bad)
}

/// `DEV:RATE` with a rate in bytes.
pub(super) fn bytes_of_disk(text: &str) -> Result<(PathBuf, u64), String> {
    of_disk(text, size)
}

/// `DEV:RATE` with a plain number.
pub(super) fn times_of_disk(text: &str) -> Result<(PathBuf, u64), String> {
    of_disk(text, |rate| match rate.parse() {
        Ok(rate @ 1..=4_294_967_295) => Ok(rate),
        _ => Err(format!("{rate:?} is not a number of times a second")),
    })
}

fn of_disk(text: &str, rate: impl Fn(&str) -> Result<u64, String>) -> Result<(PathBuf, u64), String> {
    match text.rsplit_once(':') {
        Some((device, text)) if !device.is_empty() => Ok((device.into(), rate(text)?)),
        _ => Err(format!(
            "{text:?} is no limit of a disk: write DEV:RATE, as in /dev/sda:10M"
        )),
    }
}

/// Zero for no limit.
pub(super) fn pids(text: &str) -> Result<u64, String> {
    match text {
        "-1" => Ok(0),
        text => text
            .parse()
            .map_err(|_| format!("{text:?} is not a number of processes")),
    }
}

/// A signal's number, from its name or number.
pub(super) fn signal(text: &str) -> Result<i32, String> {
    signals::parse(text).ok_or_else(|| format!("{text:?} is no signal: write a name or number, as in TERM or 15"))
}

/// How to compress blobs.
pub(super) fn compression(text: &str) -> Result<plywood_store::compress::Compression, String> {
    use plywood_store::compress::Compression;
    match text
        .split_once(':')
        .map_or((text, None), |(how, level)| (how, Some(level)))
    {
        ("none", None) => Ok(Compression::None),
        ("gzip", None) => Ok(Compression::Gzip),
        ("zstd", None) => Ok(Compression::Zstd { level: 3 }),
        ("zstd", Some(level)) => match level.parse() {
            Ok(level @ 1..=19) => Ok(Compression::Zstd { level }),
            _ => Err(format!("zstd's levels are 1 (fast) to 19 (small), not {level:?}")),
        },
        _ => Err("write none, gzip, zstd or zstd:LEVEL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("1k"), Ok(1024));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for bad in ["", "G", "-1", "1.5G", "1X", "0", "99999999999T", "1 2"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_limit_of_a_disk_has_a_disk_and_a_rate() {
        assert_eq!(bytes_of_disk("/dev/sda:1M"), Ok(("/dev/sda".into(), 1 << 20)));
        assert_eq!(times_of_disk("/dev/a:b:7"), Ok(("/dev/a:b".into(), 7)));
        for bad in [
            "",
            "/dev/sda",
            ":1",
            "/dev/sda:",
            "/dev/sda:0",
            "/dev/sda:-1",
            "/dev/sda:1X",
            "/dev/sda:1.5",
        ] {
            assert!(bytes_of_disk(bad).is_err() && times_of_disk(bad).is_err(), "{bad}");
        }
        assert!(times_of_disk("/dev/sda:4294967296").is_err());
    }

    #[test]
    fn processors_are_thousandths() {
        assert_eq!(processors("2"), Ok(2000));
        assert_eq!(processors("1.5"), Ok(1500));
        assert_eq!(processors("0.0125"), Ok(12));
        for bad in ["", ".", "1.", ".5", "-1", "1e3", "inf", "99999999", "1.5.5"] {
            assert!(processors(bad).is_err(), "{bad}");
        }
        assert_eq!(pids("-1"), Ok(0));
        assert!(pids("-2").is_err());
        assert_eq!(swap("-1"), Ok(Swap::Unlimited));
    }
}
