//! What one process may take of the kernel: resource limits, and how soon it is
//! killed where memory runs out.
//!
//! Whoever starts plywood must not decide how an image runs, so some limits are
//! the same for every container, unless `--ulimit` says otherwise:
//!
//! - `nofile` 1024, up to 524288 for a program that asks: what Docker's
//!   containers have under systemd. A higher soft limit breaks programs that
//!   select(2), and slows those that close every descriptor they could have.
//! - `core` 0, as much as plywood has for a program that asks: a core file would
//!   be in the container's layer.
//! - `memlock` 8 MiB, the kernel's own default since 5.16.
//!
//! A default never gives more than plywood has itself. The others are plywood's.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::error::{Attempt, Error, Result, Stage};
use crate::explain;

/// A resource, as Docker and prlimit(1) call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limited {
    /// Bytes of a core file.
    Core,
    /// Seconds of processor time.
    Cpu,
    /// Bytes of data.
    Data,
    /// Bytes of a file.
    Fsize,
    /// Locks on files; no kernel minds it any more.
    Locks,
    /// Bytes locked in memory.
    Memlock,
    /// Bytes in POSIX message queues.
    Msgqueue,
    /// How far down a nice value may go: 20 minus it.
    Nice,
    /// The highest descriptor, plus one.
    Nofile,
    /// Processes of this user.
    Nproc,
    /// Bytes in memory; no kernel minds it any more.
    Rss,
    /// The highest real-time priority.
    Rtprio,
    /// Microseconds of processor time without a rest, in a real-time class.
    Rttime,
    /// Signals that wait.
    Sigpending,
    /// Bytes of stack.
    Stack,
}

/// Each by its name, and as the kernel has it.
const ALL: [(&str, Limited, Resource); 15] = [
    ("core", Limited::Core, Resource::Core),
    ("cpu", Limited::Cpu, Resource::Cpu),
    ("data", Limited::Data, Resource::Data),
    ("fsize", Limited::Fsize, Resource::Fsize),
    ("locks", Limited::Locks, Resource::Locks),
    ("memlock", Limited::Memlock, Resource::Memlock),
    ("msgqueue", Limited::Msgqueue, Resource::Msgqueue),
    ("nice", Limited::Nice, Resource::Nice),
    ("nofile", Limited::Nofile, Resource::Nofile),
    ("nproc", Limited::Nproc, Resource::Nproc),
    ("rss", Limited::Rss, Resource::Rss),
    ("rtprio", Limited::Rtprio, Resource::Rtprio),
    ("rttime", Limited::Rttime, Resource::Rttime),
    ("sigpending", Limited::Sigpending, Resource::Sigpending),
    ("stack", Limited::Stack, Resource::Stack),
];

/// The defaults: soft and hard; none where it is as plywood's own.
const DEFAULTS: [(Limited, u64, Option<u64>); 3] = [
    (Limited::Core, 0, None),
    (Limited::Memlock, 8 << 20, Some(8 << 20)),
    (Limited::Nofile, 1024, Some(524_288)),
];

/// What `/proc/self/oom_score_adj` takes.
pub const OOM_SCORES: std::ops::RangeInclusive<i64> = -1000..=1000;

/// A limit that was asked for, in the resource's unit; none is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Of what.
    pub resource: Limited,
    /// What it begins with.
    pub soft: Option<u64>,
    /// What it may raise that to; not below it.
    pub hard: Option<u64>,
}

impl std::str::FromStr for Limit {
    type Err = Error;

    /// Docker's `NAME=SOFT[:HARD]`; -1 is unlimited.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::new(Stage::Request, format!("limit {text:?}: {why}"));
        let (name, values) = text
            .split_once('=')
            .ok_or_else(|| bad("it is NAME=SOFT or NAME=SOFT:HARD"))?;
        let known = ALL.iter().find(|(known, ..)| *known == name);
        let (_, resource, _) = known.ok_or_else(|| {
            let names = ALL.map(|(name, ..)| name).join(", ");
            bad(&format!("there is {names}"))
        })?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let value = |text: &str| match text {
            "-1" | "unlimited" => Ok(None),
            // `parse` alone would take "+5". The highest number is the kernel's word for unlimited.
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => match digits.parse() {
                Ok(value) if value < u64::MAX => Ok(Some(value)),
                _ => Err(bad("a limit is a number, or -1 for none")),
            },
            _ => Err(bad("a limit is a number, or -1 for none")),
        };
        let (soft, hard) = (value(soft)?, value(hard)?);
        if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
            return Err(bad("the soft limit is above the hard one"));
        }
        Ok(Self {
            resource: *resource,
            soft,
            hard,
        })
    }
}

/// The limits of a container that was asked for with `asked`: the defaults and those, the last of a resource.
pub(super) fn chosen(asked: &[Limit]) -> Vec<Limit> {
    ALL.iter()
        .filter_map(|(_, resource, kernel)| {
            let asked = asked.iter().rev().find(|limit| limit.resource == *resource);
            let default = DEFAULTS.iter().find(|(other, ..)| other == resource);
            match (asked, default) {
                (Some(asked), _) => Some(*asked),
                (None, Some((_, soft, hard))) => {
                    let own = getrlimit(*kernel).maximum;
                    let hard = least(*hard, own);
                    Some(Limit {
                        resource: *resource,
                        soft: least(Some(*soft), hard),
                        hard,
                    })
                }
                (None, None) => None,
            }
        })
        .collect()
}

/// The lower of two limits, of which none is no limit.
fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Limits this process and what it becomes.
///
/// # Errors
/// Where the kernel refuses one: above `fs.nr_open`, or above plywood's own without the right to raise it.
pub(super) fn set(limits: &[Limit]) -> Result<()> {
    for limit in limits {
        let Some((name, _, kernel)) = ALL.iter().find(|(_, resource, _)| *resource == limit.resource) else {
            continue;
        };
        let pair = Rlimit {
            current: limit.soft,
            maximum: limit.hard,
        };
        setrlimit(*kernel, pair).attempt(Stage::Request, || format!("limit {name} to {}", words(limit)))?;
    }
    Ok(())
}

/// [`set`] with prlimit(1), to be put before the command.
pub(super) fn command(limits: &[Limit]) -> String {
    let word = |limit: &Limit| {
        let known = ALL.iter().find(|(_, resource, _)| *resource == limit.resource);
        known.map(|(name, ..)| format!(" --{name}={}", words(limit)))
    };
    format!("prlimit{}", limits.iter().filter_map(word).collect::<String>())
}

fn words(limit: &Limit) -> String {
    let word = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
    format!("{}:{}", word(limit.soft), word(limit.hard))
}

/// How soon this process is killed where memory runs out: as asked, or no later than others. To be called while
/// the host's `/proc` is there.
///
/// # Errors
/// Where one that was asked for is refused: a lower score than before wants `CAP_SYS_RESOURCE`.
pub(super) fn set_oom_score(asked: Option<i16>) -> Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let own = std::fs::read_to_string(FILE).ok();
    let own = own.and_then(|text| text.trim().parse::<i16>().ok());
    let Some(score) = asked.or(own.filter(|own| *own < 0).map(|_| 0)) else {
        return Ok(());
    };
    explain::step(|| format!("echo {score} > {FILE}"));
    std::fs::write(FILE, score.to_string()).attempt(Stage::Request, || {
        format!("set the score {score} for when memory runs out")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_dockers_words() {
        for (text, resource, soft, hard) in [
            ("nofile=10", Limited::Nofile, Some(10), Some(10)),
            ("nofile=10:20", Limited::Nofile, Some(10), Some(20)),
            ("core=0:-1", Limited::Core, Some(0), None),
            ("stack=-1", Limited::Stack, None, None),
            ("nproc=unlimited:unlimited", Limited::Nproc, None, None),
        ] {
            assert_eq!(text.parse::<Limit>().unwrap(), Limit { resource, soft, hard }, "{text}");
        }
        for bad in [
            "",
            "nofile",
            "nofile=",
            "nofile=x",
            "nofile=+1",
            "nofile=1:",
            "nofile=:1",
            "nofile=2:1",
            "nofile=-1:5",
            "nofile=-2",
            "NOFILE=1",
            "files=1",
            "nofile=1:2:3",
            "nofile=18446744073709551615",
            "nofile= 1",
            "nofile=18446744073709551616",
        ] {
            assert!(bad.parse::<Limit>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_was_asked_for_goes_before_the_defaults_and_the_last_word_counts() {
        let asked: Vec<Limit> = ["nofile=7:9", "stack=1", "nofile=8:9"]
            .map(|text| text.parse().unwrap())
            .into();
        let limits = chosen(&asked);
        let names: Vec<Limited> = limits.iter().map(|limit| limit.resource).collect();
        assert_eq!(
            names,
            [Limited::Core, Limited::Memlock, Limited::Nofile, Limited::Stack]
        );
        assert!(
            command(&limits).contains(" --nofile=8:9 --stack=1:1"),
            "{}",
            command(&limits)
        );
        assert!(command(&chosen(&[])).starts_with("prlimit --core=0:"));
    }
}
