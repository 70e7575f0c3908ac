//! Waits until something is so that comes about in its own time: a container's, the kernel's, another command's.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test crate has a copy of its own and uses a part of it"
)]

use std::fmt::{Debug, Display};
use std::time::{Duration, Instant};

/// Longer than anything that is waited for takes, on a busy machine and in the guest.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until it is so; `what` says what is waited for.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    until_ok(what, || is_so().then_some(()).ok_or("not yet"));
}

/// Looks until there is something, and gives that; the last look's error is told.
#[track_caller]
pub fn until_ok<T, E: Display>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(error) if begun.elapsed() > PATIENCE => panic!("{what}, after {PATIENCE:?}: {error}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Looks until nothing is left; what still is then is told.
#[track_caller]
pub fn until_nothing<L: Debug + Default + PartialEq>(what: &str, mut look: impl FnMut() -> L) {
    until_ok(what, || match look() {
        left if left == L::default() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}

/// Looks until nothing is left, or for so long, and gives what is.
pub fn what_stays<L: Default + PartialEq>(patience: Duration, mut look: impl FnMut() -> L) -> L {
    let begun = Instant::now();
    loop {
        let left = look();
        if left == L::default() || begun.elapsed() > patience {
            return left;
        }
        std::thread::sleep(PAUSE);
    }
}
