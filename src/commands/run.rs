//! `plywood run`: a container from an image.

use plywood_store::intent::Intent;
use plywood_store::record::{ContainerRecord, ContainerState, ImageRecord, Record};

use crate::cli::{NetworkChoice, RunArgs, UsersChoice};
use crate::commands::connection::Connection;
use crate::commands::container::{self, before_command};
use crate::commands::{Host, Session, connection, detach, hold, ids, now, request, rm, tag};
use crate::error::{Context, Error, Kind, Result, both};
use crate::exec::attach::Wishes;
use crate::exec::monitor::Monitor;
use crate::exec::spec::Spec;
use crate::failure::{OK, Outcome};
use crate::image::oci;

/// Bytes that a container's name may have.
const NAME_MAX: usize = 128;
/// How often another name is made up.
const NAMES_TRIED: usize = 100;

const MANNERS: [&str; 16] = [
    "brisk", "calm", "clear", "deft", "even", "fair", "firm", "glad", "keen", "lucid", "plain", "quiet", "sound",
    "steady", "tidy", "warm",
];
const WOODS: [&str; 16] = [
    "alder", "ash", "aspen", "beech", "birch", "cedar", "elm", "fir", "hazel", "larch", "linden", "maple", "oak",
    "pine", "spruce", "willow",
];

/// Runs the verb: in this process, or with `--detach` and at a terminal in a monitor.
///
/// # Errors
/// 125 where plywood failed before the command, 126 where that cannot be executed, 127 where it is not there.
pub fn run(args: &RunArgs, session: &Session) -> Outcome {
    let stays = args.tty && args.interactive && detach::is_person();
    if !args.detach && !stays {
        return run_to_end(args, session, &random_id().map_err(before_command)?, None);
    }
    let keys = detach::detach_keys(&args.detach_keys).map_err(before_command)?;
    let id = random_id().map_err(before_command)?;
    let started = detach::start(session, |monitor| run_to_end(args, session, &id, Some(monitor)))?;
    if args.detach {
        session.output.line(&id)?;
        return Ok(OK);
    }
    started.attend(session, Wishes::of_person(&keys))
}

/// Makes the container `id`, runs its command and clears up behind it.
fn run_to_end(args: &RunArgs, session: &Session, id: &str, monitor: Option<&mut Monitor>) -> Outcome {
    let host = session.existing_host().map_err(before_command)?;
    let host = host.ok_or_else(|| before_command(tag::no_image(&args.image)))?;
    let (container, spec, passing) = create(args, &host, id, monitor.is_some()).map_err(before_command)?;
    let hold = hold::take(session, &host.store, &container).map_err(before_command)?;
    let parent = parent_of(&host, &container);
    let passes = host.store.containers.is_passing(&container.id);
    let prepared = parent.and_then(|parent| match (args.cow, parent) {
        (false, parent) if passes => host.snapshotter.prepare_passing(&container.id, parent.as_ref()),
        (false, parent) => host.snapshotter.prepare(&container.id, parent.as_ref(), None),
        (true, Some(parent)) => host.snapshotter.prepare_cow(&container.id, &parent, None),
        (true, None) => Err(Error::invalid(format!(
            "image {} has no layers: there is nothing to snapshot",
            args.image
        ))),
    });
    if let Err(error) = prepared {
        let undone = both(Err(error), rm::remove_held(&host, &container.id, hold, passing));
        return undone.map_err(before_command);
    }
    let mut passing = Some(passing);
    let ended = container::run(session, &host, &container, &spec, &hold, monitor.into(), || {
        // From here on there may be something of somebody's in it, which stays if it is to stay.
        let over = passing.take_if(|_| !args.rm);
        over.map_or(Ok(()), Intent::done)
    });
    // One that never began would only keep its name.
    if !args.rm && ended.began {
        return ended.outcome;
    }
    let passing = passing.map_or_else(|| rm::passing(&host, &container.id, true), Ok);
    let removed = passing.and_then(|passing| rm::remove_held(&host, &container.id, hold, passing));
    match (ended.outcome, removed) {
        (outcome, Ok(())) => outcome,
        (Ok(_), Err(error)) => Err(before_command(error)),
        (Err(failure), Err(error)) => {
            session
                .output
                .note(format!("container {} could not be removed: {error}", container.name));
            Err(failure)
        }
    }
}

/// Checks what is wanted and records the container under a name that is its own. Until the intent is done, a
/// kill means that it goes again.
fn create(args: &RunArgs, host: &Host, id: &str, is_detached: bool) -> Result<(ContainerRecord, Spec, Intent)> {
    let image = host.store.find_image(&args.image)?;
    let config = oci::read_config(&host.store, &image)?;
    let mut spec = request::spec(args, &config.config, id)?;
    let asked = Connection::asked(args)?;
    if let NetworkChoice::Container(name) = &args.net {
        let other = host.store.find_container(name)?;
        connection::join(&mut spec, &other, args.hostname.is_none())?;
    }
    let connection = asked.found(&host.store)?;
    // A log and volumes of its own would be left over where a power cut takes the record.
    let lasts = !args.rm || is_detached || !spec.volumes.is_empty() || !host.snapshotter.keeps_passing();
    let passing = rm::passing(host, id, lasts)?;
    match record(args, host, &image, id.to_owned(), &mut spec, &connection, lasts) {
        Ok(container) => Ok((container, spec, passing)),
        Err(error) => both(Err(error), passing.done()),
    }
}

fn record(
    args: &RunArgs,
    host: &Host,
    image: &ImageRecord,
    id: String,
    spec: &mut Spec,
    connection: &Connection,
    lasts: bool,
) -> Result<ContainerRecord> {
    let lock = host.store.exclusive()?;
    if host.store.images.get(&image.key())?.is_none() {
        return Err(Error::not_found(format!("image {} has just been removed", args.image)));
    }
    let others = host.store.containers.list()?;
    if args.userns == UsersChoice::Auto {
        spec.ids = Some(ids::free(&others, &id)?);
    }
    spec.check().map_err(|error| Error::invalid(error.to_string()))?;
    let taken: Vec<String> = others.into_iter().map(|container| container.name).collect();
    let container = ContainerRecord {
        name: free_name(args.name.as_deref(), &taken, &id)?,
        id,
        image: image.id,
        image_name: args.image.clone(),
        created_at: now(),
        state: ContainerState::Created,
        spec: container::document(spec)?,
        network: connection.document(),
    };
    match lasts {
        true => host.store.containers.put(&lock, &container)?,
        false => host.store.containers.put_passing(&lock, &container)?,
    }
    lock.done()?;
    Ok(container)
}

fn parent_of(host: &Host, container: &ContainerRecord) -> Result<Option<plywood_store::ChainId>> {
    let image = host.store.images.get(&container.image.0.hex())?;
    let image =
        image.ok_or_else(|| Error::not_found(format!("image {} has just been removed", container.image_name)))?;
    Ok(image.layers.last().copied())
}

/// The name that was asked for, or one that is made up.
fn free_name(asked: Option<&str>, taken: &[String], id: &str) -> Result<String> {
    let is_free = |name: &str| !taken.iter().any(|taken| taken == name);
    if let Some(name) = asked {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if name.is_empty()
            || name.len() > NAME_MAX
            || !name.starts_with(|first: char| first.is_ascii_alphanumeric())
            || !name.bytes().all(fits)
        {
            return Err(
                Error::invalid(format!("{name:?} is no name for a container")).hinted(format!(
                    "a name is 1 to {NAME_MAX} letters, digits, _ . and -, and begins with a letter or digit"
                )),
            );
        }
        if !is_free(name) {
            return Err(
                Error::new(Kind::Exists, format!("there is a container {name} already")).hinted(format!(
                    "plywood rm {name} removes it, plywood start {name} runs it again"
                )),
            );
        }
        return Ok(name.to_owned());
    }
    for _ in 0..NAMES_TRIED {
        let [manner, wood] = random::<2>()?.map(|byte| usize::from(byte % 16));
        if let (Some(manner), Some(wood)) = (MANNERS.get(manner), WOODS.get(wood)) {
            let name = format!("{manner}_{wood}");
            if is_free(&name) {
                return Ok(name);
            }
        }
    }
    // Many containers: the id is as good a name.
    Ok(id.get(..12).unwrap_or(id).to_owned())
}

/// 64 hexadecimal digits.
fn random_id() -> Result<String> {
    Ok(random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("read", "random bytes")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_checked_and_is_nobody_elses() {
        let taken = ["web".to_owned()];
        assert_eq!(free_name(Some("web-1.x_y"), &taken, "id").unwrap(), "web-1.x_y");
        assert_eq!(free_name(Some("web"), &taken, "id").unwrap_err().kind(), Kind::Exists);
        for bad in ["", "-x", ".x", "a/b", "../x", "a b", "é", &"x".repeat(129)] {
            assert_eq!(
                free_name(Some(bad), &taken, "id").unwrap_err().kind(),
                Kind::Invalid,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn made_up_names_run_out_into_the_id() {
        let all: Vec<String> = MANNERS
            .iter()
            .flat_map(|manner| WOODS.map(|wood| format!("{manner}_{wood}")))
            .collect();
        assert_eq!(free_name(None, &all, "0123456789abcdef").unwrap(), "0123456789ab");
        assert!(all.contains(&free_name(None, &[], "id").unwrap()));
        assert_eq!(random_id().unwrap().len(), 64);
    }
}
