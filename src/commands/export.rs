//! `plywood export`: images as archives that other tools read too.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use plywood_store::record::name_key;
use plywood_store::{ChainId, Reference, Store};
use serde::Serialize;

use crate::cli::{ExportArgs, ExportFormat};
use crate::commands::Session;
use crate::commands::room::Room;
use crate::error::{Error, Result};
use crate::failure::{Failure, OK, Outcome};
use crate::image::export::{Chosen, Exporter};
use crate::image::sink::{FolderSink, TarSink, to_file};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Written<'a> {
    output: &'a Path,
    images: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// Its failure; then the output file is as it was.
pub fn run(args: &ExportArgs, session: &Session) -> Outcome {
    let is_one_tar = matches!(
        args.format,
        ExportFormat::Rootfs | ExportFormat::Layer | ExportFormat::Ext4
    );
    if is_one_tar && args.images.len() > 1 {
        return Err(Failure::usage("this format holds a single image"));
    }
    if is_one_tar && args.since.is_some() {
        return Err(Failure::usage(
            "--since is for the OCI and docker formats, which have several layers",
        ));
    }
    if args.format == ExportFormat::OciDir && args.output.as_os_str() == "-" {
        return Err(Failure::usage("a folder cannot go to standard output: oci-archive can"));
    }
    if args.format == ExportFormat::Ext4 && args.output.as_os_str() == "-" {
        return Err(Failure::usage(
            "a filesystem cannot go to standard output: it is written here and there",
        ));
    }
    if args.size.is_some() && args.format != ExportFormat::Ext4 {
        return Err(Failure::usage("--size is for --format ext4"));
    }
    let store = session.store()?.ok_or_else(|| {
        Error::not_found(format!(
            "there is no image: {} holds no store",
            session.global.root.display()
        ))
        .hinted("plywood import brings one in")
    })?;
    let chosen = args
        .images
        .iter()
        .map(|text| choose(&store, text))
        .collect::<Result<Vec<_>>>()?;
    let left_out: HashSet<ChainId> = match &args.since {
        Some(since) => store.find_image(since)?.layers.into_iter().collect(),
        None => HashSet::new(),
    };
    let folder = args.output.parent().filter(|folder| folder.is_dir());
    let room = folder.map(Room::under).transpose()?;
    let written = write(args, session, &store, &chosen, &left_out);
    match room {
        Some(room) => written.map_err(|error| room.told(error, &args.output.display().to_string(), None))?,
        None => written?,
    }
    if session.output.is_json() && args.output.as_os_str() != "-" {
        let images = chosen.iter().map(|chosen| chosen.image.id.to_string()).collect();
        session.output.json(&Written {
            output: &args.output,
            images,
        })?;
    }
    Ok(OK)
}

/// The image that was typed, with its name where it was typed by name.
fn choose(store: &Arc<Store>, text: &str) -> Result<Chosen> {
    let image = store.find_image(text)?;
    let name = text.parse::<Reference>().ok();
    let name = match name {
        Some(name) => store
            .names
            .get(&name_key(&name))?
            .filter(|record| record.image == image.id)
            .map(|record| record.name),
        None => None,
    };
    Ok(Chosen { image, name })
}

fn write(
    args: &ExportArgs,
    session: &Session,
    store: &Arc<Store>,
    chosen: &[Chosen],
    left_out: &HashSet<ChainId>,
) -> Result<()> {
    let exporter = Exporter {
        store,
        progress: session.output.bars(),
        compress: args.compress,
    };
    let (output, first) = (&args.output, chosen.first());
    match (args.format, first) {
        (ExportFormat::OciDir, _) => {
            let mut sink = FolderSink::new(output)?;
            exporter.layout(chosen, left_out, &mut sink)?;
            sink.finish()
        }
        (ExportFormat::OciArchive, _) => to_file(output, |out| {
            let mut sink = TarSink::new(out);
            exporter.layout(chosen, left_out, &mut sink)?;
            sink.finish()
        }),
        (ExportFormat::DockerArchive, _) => to_file(output, |out| {
            let mut sink = TarSink::new(out);
            exporter.docker(chosen, left_out, &mut sink)?;
            sink.finish()
        }),
        (ExportFormat::Layer, Some(chosen)) => to_file(output, |out| exporter.top_layer(chosen, out)),
        (ExportFormat::Rootfs, Some(chosen)) => {
            let host = session.host()?;
            to_file(output, |out| exporter.tree(&*host.snapshotter, chosen, out))
        }
        (ExportFormat::Ext4, Some(chosen)) => {
            let host = session.host()?;
            if !exporter.filesystem(&*host.snapshotter, chosen, args.size, output)? {
                session.output.note(format!(
                    "{} lies on a filesystem without extended attributes: plywood try will not know it",
                    output.display()
                ));
            }
            Ok(())
        }
        (_, None) => Err(Error::invalid("no image was named")),
    }
}
