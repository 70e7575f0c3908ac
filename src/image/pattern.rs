//! The patterns of `${name#pattern}` and its like: `*`, `?`, and `\` before either or before itself.
//!
//! Matching is bounded by steps, so that a long value and a pattern of many `*` end with an error and not with
//! a build that stands still.

use super::words::VALUE_MAX;

/// Comparisons of a character that one substitution may take.
const STEPS_MAX: usize = 20_000_000;

/// One part of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// `*`.
    Many,
    /// `?`.
    One,
    /// A character.
    This(char),
}

/// The value without the shortest or longest beginning that the pattern matches.
pub(super) fn without_prefix(value: &str, pattern: &str, longest: bool) -> Result<String, String> {
    let value: Vec<char> = value.chars().collect();
    let mut steps = STEPS_MAX;
    let end = matched(&value, &parts(pattern)?, longest, &mut steps)?.unwrap_or(0);
    Ok(value[end..].iter().collect())
}

/// The value without the shortest or longest end that the pattern matches.
pub(super) fn without_suffix(value: &str, pattern: &str, longest: bool) -> Result<String, String> {
    // From the other side it is a beginning.
    let value: Vec<char> = value.chars().rev().collect();
    let mut parts = parts(pattern)?;
    parts.reverse();
    let mut steps = STEPS_MAX;
    let end = matched(&value, &parts, longest, &mut steps)?.unwrap_or(0);
    Ok(value[end..].iter().rev().collect())
}

/// The value with the first or each longest match replaced; no more than `room` bytes.
pub(super) fn replaced(value: &str, pattern: &str, by: &str, all: bool, room: usize) -> Result<String, String> {
    let parts = parts(pattern)?;
    let by = literal(by);
    let value: Vec<char> = value.chars().collect();
    let mut steps = STEPS_MAX;
    let mut out = String::new();
    let mut at = 0;
    while at < value.len() {
        let end = matched(&value[at..], &parts, true, &mut steps)?.filter(|end| *end > 0);
        match end {
            Some(length) => {
                out.push_str(&by);
                at += length;
                if !all {
                    break;
                }
            }
            None => {
                out.push(value[at]);
                at += 1;
            }
        }
        if out.len() > room {
            return Err(format!("the value has more than {VALUE_MAX} bytes"));
        }
    }
    out.extend(&value[at..]);
    Ok(out)
}

/// What replaces is no pattern: only `/` and `}` are protected in it.
fn literal(text: &str) -> String {
    text.replace("\\/", "/").replace("\\}", "}")
}

fn parts(pattern: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        parts.push(match char {
            '*' => Part::Many,
            '?' => Part::One,
            '\\' => match chars.next() {
                Some(next @ ('*' | '?' | '\\' | '}' | '/')) => Part::This(next),
                next => {
                    let next = next.map(String::from).unwrap_or_default();
                    return Err(format!("\\{next} protects nothing in the pattern {pattern:?}"));
                }
            },
            char => Part::This(char),
        });
    }
    parts.dedup_by(|a, b| (*a, *b) == (Part::Many, Part::Many));
    Ok(parts)
}

/// How many characters of the beginning the pattern matches.
///
/// All places that the parts so far can end at are carried along, so that the time is a product and not a power.
fn matched(value: &[char], parts: &[Part], longest: bool, steps: &mut usize) -> Result<Option<usize>, String> {
    // Most places of a value begin no match at all.
    if let (Some(Part::This(first)), Some(begin)) = (parts.first(), value.first())
        && first != begin
    {
        return Ok(None);
    }
    let mut ends = vec![0];
    for part in parts {
        let cost = if *part == Part::Many { value.len() } else { ends.len() };
        *steps = steps
            .checked_sub(cost + 1)
            .ok_or_else(|| "the pattern takes too long for so long a value".to_owned())?;
        match part {
            Part::Many => {
                let first = ends.first().copied().unwrap_or(value.len());
                ends = (first..=value.len()).collect();
            }
            Part::One => {
                ends = ends
                    .iter()
                    .filter(|end| **end < value.len())
                    .map(|end| end + 1)
                    .collect()
            }
            Part::This(char) => {
                ends = ends
                    .iter()
                    .filter(|end| value.get(**end) == Some(char))
                    .map(|end| end + 1)
                    .collect();
            }
        }
        if ends.is_empty() {
            return Ok(None);
        }
    }
    Ok(if longest { ends.last() } else { ends.first() }.copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let prefix = |value, pattern, longest| without_prefix(value, pattern, longest).unwrap();
        let suffix = |value, pattern, longest| without_suffix(value, pattern, longest).unwrap();
        assert_eq!(prefix("a/b/c", "*/", false), "b/c");
        assert_eq!(prefix("a/b/c", "*/", true), "c");
        assert_eq!(prefix("abc", "?b", false), "c");
        assert_eq!(prefix("abc", "x*", true), "abc");
        assert_eq!(prefix("*bc", r"\*", true), "bc");
        assert_eq!(suffix("a.tar.gz", ".*", false), "a.tar");
        assert_eq!(suffix("a.tar.gz", ".*", true), "a");
        assert_eq!(suffix("abc", "", true), "abc");
        assert_eq!(suffix("äöü", "?", false), "äö");
        let replace = |value, pattern, by, all| replaced(value, pattern, by, all, 100).unwrap();
        assert_eq!(replace("aXbXc", "X", "-", false), "a-bXc");
        assert_eq!(replace("aXbXc", "X", "-", true), "a-b-c");
        assert_eq!(replace("a.b.c", "b*", "", true), "a.");
        assert_eq!(replace("abc", "", "x", true), "abc");
        assert_eq!(replace("a/b", r"\/", r"\/\/", true), "a//b");
        assert!(parts(r"\a").is_err() && parts("\\").is_err());
    }

    #[test]
    fn long_values_end_with_an_error() {
        let value = "a".repeat(100_000);
        assert!(replaced(&value, "*b*b*b", "x", true, VALUE_MAX).is_err());
        assert!(replaced(&value, "a", "xxxxxxxxxxxxxxxxxxxx", true, VALUE_MAX).is_err());
        assert_eq!(without_prefix(&value, "*a", true).unwrap(), "");
    }
}
