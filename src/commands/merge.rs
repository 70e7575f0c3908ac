//! `plywood merge`: a `--cow` container's changes into its image.
//!
//! A commit under the image's own name. What differs is what is done when it is
//! cut short: the copy of the store that is being folded stays, under a key of its
//! own, and the same command goes on with it.

use plywood_store::record::{ContainerRecord, Place, merge_key};
use plywood_store::reference::Reference;

use crate::cli::{CommitArgs, DiffChoice, MergeArgs};
use crate::commands::commit::{self, User};
use crate::commands::{Host, Session, container, hold};
use crate::error::{Error, Kind, Result};
use crate::failure::Outcome;

/// Merges, and prints the new image's id.
///
/// # Errors
/// No such container, one that runs or that has no exception store; an image whose name is another's now; a full
/// pool: the same command goes on then.
pub fn run(args: &MergeArgs, session: &Session) -> Outcome {
    if session.store()?.is_none() {
        return Err(container::none(&args.container).into());
    }
    let host = session.host()?;
    let container = host.store.find_container(&args.container)?;
    let hold = hold::take(session, &host.store, &container)?;
    container::refuse_shown(&host.store, &container)?;
    require_store(&host, &container)?;
    let args = CommitArgs {
        container: container.id.clone(),
        name: Some(name_of(&host, &container)?),
        message: args.message.clone(),
        author: None,
        changes: Vec::new(),
        diff: DiffChoice::Auto,
        pause: true,
    };
    let copy = merge_key(&container.id);
    commit::perform(session, &host, &container, &args, Vec::new(), User::Merging(hold, copy))
}

/// Refuses a container whose writes are in no store.
fn require_store(host: &Host, container: &ContainerRecord) -> Result<()> {
    match host.store.snapshots.get(&container.id)? {
        Some(snapshot) if matches!(snapshot.place, Place::Cow(_)) => Ok(()),
        _ => Err(Error::invalid(format!(
            "container {} keeps its changes in no exception store",
            container.name
        ))
        .hinted("plywood run --cow makes one that does; plywood commit takes any container")),
    }
}

/// The name by which the container's image was asked for, where it is still that image's.
fn name_of(host: &Host, container: &ContainerRecord) -> Result<Reference> {
    let names = host.store.names_of(&container.image)?;
    let typed: Option<Reference> = container.image_name.parse().ok();
    if let Some(name) = typed.filter(|name| names.contains(name)) {
        return Ok(name);
    }
    match names.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::new(
            Kind::Exists,
            format!(
                "{} is not the name of the image of container {} any more",
                container.image_name, container.name
            ),
        )
        .hinted("plywood commit makes an image of it under another name")),
        _ => Err(Error::invalid(format!(
            "the image of container {} has several names, and none of them was typed for it",
            container.name
        ))
        .hinted("plywood commit makes an image of it under the name that you give")),
    }
}
