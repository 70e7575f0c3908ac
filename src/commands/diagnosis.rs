//! What stands behind an I/O error: the state of the pool.
//!
//! A verb fails where it meets the error: at a mount, in a folder, at a table. Where the
//! root's pool has failed or needs a check, that is why, and it has a way out.

use std::error::Error as StdError;
use std::io;

use plywood_store::{Driver, Store};

use crate::commands::Session;
use crate::dm::assembly;
use crate::failure::Failure;

/// What the kernel says where a pool below it does not work any more.
const ANSWERS: [i32; 6] = [
    libc::EIO,
    libc::EROFS,
    libc::EINVAL,
    libc::ENODATA,
    libc::EUCLEAN,
    libc::ENXIO,
];

/// The same failure; where it has no hint and its cause is an I/O error on a root whose pool is not well, with the
/// pool's state and the way out of that.
pub(super) fn explained(failure: Failure, session: &Session) -> Failure {
    if failure.hint().is_some() || !is_of_device(failure.error()) {
        return failure;
    }
    match session.store() {
        Ok(Some(store)) => match trouble(&store) {
            Some(hint) => failure.hinted(hint),
            None => failure,
        },
        _ => failure,
    }
}

/// Whether one of the causes is an answer that a broken device gives.
fn is_of_device(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if code.is_some_and(|code| ANSWERS.contains(&code)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What is wrong with the root's pool, and the way out; none where nothing is, or it cannot be told.
fn trouble(store: &Store) -> Option<String> {
    if store.meta().driver != Driver::Thin {
        return None;
    }
    let error = assembly::trouble(store).ok().flatten()?;
    let hint = error.hint().unwrap_or("plywood pool status tells more");
    Some(format!("{error}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn only_answers_of_a_device_are_taken_for_its_fault() {
        let error = |code| Error::io("list", "/", io::Error::from_raw_os_error(code));
        assert!(is_of_device(&error(libc::EIO)));
        assert!(is_of_device(&Error::corrupt("x").caused_by(error(libc::EROFS))));
        assert!(!is_of_device(&error(libc::ENOENT)));
        assert!(!is_of_device(&Error::invalid("x")));
    }
}
