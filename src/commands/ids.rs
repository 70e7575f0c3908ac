//! The host's user and group numbers of a container with `--userns auto`: which are free.
//!
//! They come from the ranges of `containers`, else of `root`, in `/etc/subuid` and `/etc/subgid`, as with podman; else
//! from where systemd has its containers' ([`FIRST`] to [`LAST`]), but for what those files give to anybody. A range
//! is taken by the container's record and free again without it, so no command has to give one back.
//!
//! Each store knows its own containers only. That two stores' do not meet is likely, not certain: where to begin to
//! look is said by the container's id.

use plywood_store::record::ContainerRecord;

use crate::error::{Context, Error, Kind, Result};
use crate::exec::ids::{COUNT, IdRange};

/// The first of systemd's container range (systemd.io/UIDS-GIDS).
const FIRST: u32 = 0x0008_0000;
/// Its last.
const LAST: u32 = 0x6FFF_FFFF;
/// Who has numbers for containers, the first that is there.
const OWNERS: [&str; 2] = ["containers", "root"];

/// A range that none of `others` has, for container `id`.
///
/// # Errors
/// In use where there is none; `/etc/subuid` or `/etc/subgid` cannot be read.
pub(super) fn free(others: &[ContainerRecord], id: &str) -> Result<IdRange> {
    let taken: Vec<IdRange> = others.iter().filter_map(of).collect();
    let (users, groups) = (read("/etc/subuid")?, read("/etc/subgid")?);
    let begin = u32::from_str_radix(id.get(..8).unwrap_or_default(), 16).unwrap_or_default();
    choose(&users, &groups, &taken, begin)
}

/// The range of a container, where it has one.
pub(super) fn of(container: &ContainerRecord) -> Option<IdRange> {
    serde_json::from_value(container.spec.get("ids")?.clone()).ok()
}

/// One that is not there gives nobody anything.
fn read(path: &str) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        text => text.context("read", path),
    }
}

/// Looks through the places for one, from the `begin`th on.
fn choose(users: &str, groups: &str, taken: &[IdRange], begin: u32) -> Result<IdRange> {
    let (users, groups) = (lines(users), lines(groups));
    let own = OWNERS.iter().find_map(|owner| {
        let of = |lines: &[(String, IdRange)]| -> Vec<IdRange> {
            let own = lines.iter().filter(|(name, _)| name == owner);
            own.map(|(_, range)| *range).collect()
        };
        let (users, groups) = (of(&users), of(&groups));
        (!users.is_empty() || !groups.is_empty()).then_some((users, groups))
    });
    let (places, avoided): (Vec<u32>, Vec<IdRange>) = match own {
        Some((users, groups)) => {
            let has = |ranges: &[IdRange], first: u32| ranges.iter().any(|range| holds(*range, first));
            let places = users.iter().flat_map(|range| places(*range));
            (places.filter(|first| has(&groups, *first)).collect(), Vec::new())
        }
        None => {
            let all = IdRange {
                first: FIRST,
                count: LAST - FIRST + 1,
            };
            let avoided = users.iter().chain(&groups).map(|(_, range)| *range);
            (places(all).collect(), avoided.collect())
        }
    };
    let is_free = |first: &u32| {
        let range = IdRange {
            first: *first,
            count: COUNT,
        };
        !taken.iter().chain(&avoided).any(|other| other.overlaps(range))
    };
    let begin = usize::try_from(begin)
        .unwrap_or_default()
        .checked_rem(places.len())
        .unwrap_or_default();
    let (before, after) = places.split_at(begin);
    let first = after.iter().chain(before).copied().find(is_free);
    first.map(|first| IdRange { first, count: COUNT }).ok_or_else(|| {
        Error::new(
            Kind::InUse,
            format!("no {COUNT} user and group numbers are free for --userns auto"),
        )
        .hinted("containers have what root or containers has in both /etc/subuid and /etc/subgid; plywood rm frees a container's")
    })
}

/// Where a container's range can begin in this one.
fn places(range: IdRange) -> impl Iterator<Item = u32> {
    (0..range.count / COUNT)
        .filter_map(move |number| range.first.checked_add(number * COUNT))
        // The host's root is nobody's, and (uid_t)-1 is no user.
        .filter(|first| *first > 0 && first.checked_add(COUNT).is_some())
}

/// Whether a container's range from `first` on is in this one.
fn holds(range: IdRange, first: u32) -> bool {
    first >= range.first && u64::from(first) + u64::from(COUNT) <= u64::from(range.first) + u64::from(range.count)
}

/// The lines of subuid(5): `NAME:FIRST:COUNT`. Others are passed over, as login(1) does.
fn lines(text: &str) -> Vec<(String, IdRange)> {
    let line = |line: &str| {
        let mut fields = line.trim().splitn(3, ':');
        let name = fields.next()?.to_owned();
        let first = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        Some((name, IdRange { first, count }))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32) -> IdRange {
        IdRange { first, count: COUNT }
    }

    #[test]
    fn a_range_is_taken_once() {
        let mut taken = Vec::new();
        for _ in 0..100 {
            let next = choose("", "", &taken, 0x1234_5678).unwrap();
            assert!(!taken.iter().any(|other| other.overlaps(next)), "{next:?}");
            assert!(next.first >= FIRST && next.first.is_multiple_of(COUNT));
            taken.push(next);
        }
    }

    #[test]
    fn the_files_say_where_they_come_from() {
        let users = "ops:100000:65536\ncontainers:2147483648:131072\nroot:300000:65536\n";
        let chosen = |taken: &[IdRange]| choose(users, users, taken, 7);
        let (one, two) = (range(2_147_483_648), range(2_147_549_184));
        assert_eq!(chosen(&[one]).unwrap(), two);
        assert_eq!(chosen(&[two]).unwrap(), one);
        assert_eq!(chosen(&[one, two]).unwrap_err().kind(), Kind::InUse);
        // Without groups there is nothing, and no guess.
        assert!(choose(users, "", &[], 0).is_err());
        assert_eq!(
            choose("root:70000:65536", "root:1:200000", &[], 9).unwrap(),
            range(70_000)
        );
    }

    #[test]
    fn what_is_somebody_elses_is_avoided_and_nonsense_passed_over() {
        let whole = format!("ops:{FIRST}:{}", LAST - FIRST + 1 - COUNT);
        let last = range(LAST - COUNT + 1);
        assert_eq!(choose(&whole, "x\n:::\nops:-1:5\n", &[], 3).unwrap(), last);
        assert!(choose(&whole, "", &[last], 3).is_err());
        // Numbers at the ends of what there is.
        for text in [
            "root:0:65536",
            "root:4294967295:65536",
            "root:1:65535",
            "root:4294901760:65536",
        ] {
            assert!(choose(text, text, &[], 3).is_err(), "{text}");
        }
    }
}
