//! `plywood inspect`: everything about images and containers, down to device and file.

use plywood_store::error::Kind;
use plywood_store::record::{ContainerRecord, ContainerState, ImageRecord, Place};
use serde_json::{Value, json};

use crate::cli::InspectArgs;
use crate::commands::connection::Connection;
use crate::commands::{Host, Session, date, ids, tag};
use crate::error::{Error, Result};
use crate::exec::state;
use crate::failure::{OK, Outcome};
use crate::image::oci;
use crate::snapshot::StackItem;

/// Prints a list with one document per name; that is its text form too.
///
/// # Errors
/// Where a name is neither an image nor a container.
pub fn run(args: &InspectArgs, session: &Session) -> Outcome {
    if session.store()?.is_none() {
        return Err(tag::no_image(&args.names[0]).into());
    }
    let host = session.host()?;
    let documents = args
        .names
        .iter()
        .map(|name| one(&host, name))
        .collect::<Result<Vec<_>>>()?;
    session.output.json(&documents)?;
    Ok(OK)
}

fn one(host: &Host, name: &str) -> Result<Value> {
    let container = match host.store.find_container(name) {
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => None,
        found => Some(found?),
    };
    match (container, host.store.find_image(name)) {
        (Some(container), _) => of_container(host, &container),
        (None, Ok(image)) => of_image(host, &image),
        (None, Err(error)) if error.kind() == Kind::NotFound => {
            Err(Error::not_found(format!("no image and no container {name}")).hinted(
                error
                    .hint()
                    .unwrap_or("plywood images and plywood ps -a list what there is"),
            ))
        }
        (None, Err(error)) => Err(error),
    }
}

fn of_image(host: &Host, image: &ImageRecord) -> Result<Value> {
    let store = &host.store;
    let config = oci::read_config(store, image)?;
    let mut layers = Vec::new();
    for chain in &image.layers {
        let Some(layer) = store.layers.get(&chain.0.hex())? else {
            return Err(Error::corrupt(format!(
                "layer {chain} of image {} has no record",
                image.id
            )));
        };
        let mut shown = json!({
            "diff_id": layer.diff_id, "chain_id": layer.chain_id, "blob": layer.blob.digest, "media_type": layer.blob.media_type,
            "stored_size": layer.blob.size, "size": layer.size,
            "stack": host.snapshotter.layer_stack(chain)?,
        });
        if let Place::Thin(id) = layer.place {
            shown["thin_id"] = json!(id);
        }
        layers.push(shown);
    }
    Ok(json!({
        "id": image.id, "names": store.names_of(&image.id)?, "manifest": image.manifest.digest, "created": image.created,
        "driver": host.snapshotter.driver(), "config": config.config, "author": config.author,
        "architecture": config.architecture, "os": config.os, "layers": layers, "history": config.history,
    }))
}

fn of_container(host: &Host, record: &ContainerRecord) -> Result<Value> {
    let (state, pid, exit_code) = match state::settled(&record.state) {
        ContainerState::Created => ("created", None, None),
        ContainerState::Running { pid, .. } => ("running", Some(pid), None),
        ContainerState::Exited { code, .. } => ("exited", None, Some(code)),
    };
    let connection = Connection::of(record)?;
    // A killed one's address is nobody's.
    let endpoint = connection.endpoint.filter(|_| pid.is_some());
    let driver = host.snapshotter.driver();
    let mut stack = host.snapshotter.stack(&record.id)?;
    if let Some(pid) = pid {
        // Only the container's own namespace has this mount; the kernel shows it here.
        let mount = StackItem {
            kind: "mount",
            name: format!("/proc/{pid}/root"),
            detail: Some("in the container's mount namespace".to_owned()),
        };
        stack.insert(0, mount);
    }
    let snapshot = host.store.snapshots.get(&record.id)?;
    let writable = match snapshot.map(|snapshot| snapshot.place) {
        Some(Place::Cow(_) | Place::Merging { .. }) => "cow",
        Some(Place::Thin(_) | Place::Folder(_)) | None => &driver.to_string(),
    };
    let rootfs = stack.iter().find(|item| item.kind == "mount").map(|item| &item.name);
    Ok(json!({
        "id": record.id, "name": record.name, "image": record.image, "image_name": record.image_name,
        "created": date(record.created_at), "state": state, "pid": pid, "exit_code": exit_code,
        "driver": driver, "writable": writable, "store": host.snapshotter.store_status(&record.id)?, "rootfs": rootfs,
        "spec": record.spec, "ids": ids::of(record),
        "ip": endpoint.as_ref().map(|endpoint| endpoint.address), "ports": connection.ports,
        "netns": pid.map(|pid| format!("/proc/{pid}/ns/net")),
        "host_veth": endpoint.map(|endpoint| endpoint.host_veth),
        "stack": stack,
    }))
}
