//! `plywood tag`: gives an image another name, or moves a name to it.

use plywood_store::Reference;
use plywood_store::record::NameRecord;

use crate::cli::TagArgs;
use crate::commands::Session;
use crate::error::Error;
use crate::failure::{Failure, OK, Outcome};

/// Writes the name's record.
///
/// # Errors
/// Where there is no such image.
pub fn run(args: &TagArgs, session: &Session) -> Outcome {
    refuse_digest(&args.name)?;
    let store = session.store()?.ok_or_else(|| no_image(&args.image))?;
    let lock = store.exclusive()?;
    let image = store.find_image(&args.image)?;
    store.names.put(
        &lock,
        &NameRecord {
            name: args.name.clone(),
            image: image.id,
        },
    )?;
    lock.done()?;
    Ok(OK)
}

/// Refuses a digest in a name that is about to be given: what it stands for is not the user's to say.
///
/// # Errors
/// Wrong usage.
pub fn refuse_digest(name: &Reference) -> Result<(), Failure> {
    match name.digest() {
        None => Ok(()),
        Some(_) => Err(Failure::usage(format!(
            "a name that is given cannot hold a digest: {name}"
        ))),
    }
}

/// The error for an image that is looked for in a root that was never used.
pub fn no_image(name: &str) -> Error {
    Error::not_found(format!("no image {name}: nothing is stored here yet"))
        .hinted("plywood import FILE NAME brings one in; --root names another store")
}
