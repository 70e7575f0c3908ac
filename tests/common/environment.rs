//! What the environment tells a test: how much it plays, with which seed, and whether it is in the guest.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test crate has a copy of its own and uses a part of it"
)]

use std::ops::Range;
use std::str::FromStr;

/// A number from the environment.
pub fn number<N: FromStr>(variable: &str) -> Option<N> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// As many rounds as `PLYWOOD_TEST_ROUNDS` says; `slice` by itself.
pub fn rounds<N: FromStr>(slice: N) -> N {
    number("PLYWOOD_TEST_ROUNDS").unwrap_or(slice)
}

/// The seed of this run, printed so that it can be played again.
pub fn seed() -> u64 {
    let seed = number("PLYWOOD_TEST_SEED").unwrap_or(1);
    println!("PLYWOOD_TEST_SEED={seed}");
    seed
}

/// What a random test plays: `PLYWOOD_TEST_SEED` alone; or so many from `PLYWOOD_TEST_FIRST` (1) on as
/// `PLYWOOD_TEST_ROUNDS` says, `slice` by itself.
pub fn seeds(slice: u64) -> Range<u64> {
    let (first, rounds) = match number("PLYWOOD_TEST_SEED") {
        Some(seed) => (seed, 1),
        None => (number("PLYWOOD_TEST_FIRST").unwrap_or(1), rounds(slice)),
    };
    first..first + rounds
}

/// Whether this is the guest.
pub fn in_guest() -> bool {
    std::env::var_os("PLYWOOD_IN_GUEST").is_some()
}

/// How many of something: the guest's system calls take many times as long.
pub fn as_many<T>(here: T, in_the_guest: T) -> T {
    if in_guest() { in_the_guest } else { here }
}
