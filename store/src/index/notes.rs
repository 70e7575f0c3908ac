//! Notes for the index: which records changed since it was last in step.
//!
//! One line `<folder>/<key>` per change in `index.pending`, written before the
//! change and under the exclusive lock; the first line is the kernel's boot id,
//! because the notes are not synced and a power cut may eat some. It may eat the
//! whole file too: so the index's mark says in which boot it was in step, and
//! the first note in another one asks for a rebuild.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::WHOLE;
use crate::error::Context;
use crate::{Error, Result, boot, durable};

/// Bytes of notes beyond which rebuilding is cheaper.
const PENDING_MAX: u64 = 1 << 20;
/// The notes' file under the root.
const PENDING: &str = "index.pending";

/// Notes, before a record changes, that the index must look at it again.
/// Without an index there is nothing to note. Where there is no room for a note
/// (removing things must work on a full disk) the index is given up instead.
pub(crate) fn note(root: &Path, folder: &str, key: &str) -> Result<()> {
    if !root.join("index").exists() {
        return Ok(());
    }
    append(root, folder, key).or_else(|error| {
        tracing::debug!("the index is given up: {error}");
        durable::remove(&root.join("index").join(WHOLE)).map(drop)
    })
}

fn append(root: &Path, folder: &str, key: &str) -> Result<()> {
    let path = root.join(PENDING);
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .context("open", &path)?;
    let length = file.metadata().context("look at", &path)?.len();
    let line = match length {
        // An empty file can be what a power cut left of notes: only this boot's index needs none of them.
        0 if last_in_step(root).as_deref() == Some(boot_id().as_str()) => format!("{}\n{folder}/{key}\n", boot_id()),
        0 => "rebuild\n".to_owned(),
        1..PENDING_MAX => format!("{folder}/{key}\n"),
        // Too much to catch up with: lost notes make a rebuild.
        _ => {
            file.set_len(0).context("shorten", &path)?;
            "rebuild\n".to_owned()
        }
    };
    file.write_all(line.as_bytes()).context("write", &path)
}

/// What writers noted since the index was last in step.
pub(super) enum Pending {
    /// Nothing.
    None,
    /// Some may be missing.
    Lost,
    /// These records, by folder and key.
    Noted(BTreeSet<(String, String)>),
}

impl Pending {
    /// Reads the notes of the root.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let path = root.join(PENDING);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::None),
            Err(error) => return Err(Error::io("open", path, error)),
        };
        let mut lines = BufReader::new(file).lines();
        match lines.next().transpose() {
            Ok(Some(boot)) if boot == boot_id() => {}
            _ => return Ok(Self::Lost),
        }
        let mut noted = BTreeSet::new();
        for line in lines {
            match line.ok().as_deref().and_then(|line| line.split_once('/')) {
                Some((folder, key)) => noted.insert((folder.to_owned(), key.to_owned())),
                None => return Ok(Self::Lost),
            };
        }
        Ok(Self::Noted(noted))
    }
}

/// Tells one run of the kernel from another; where it cannot be told, nothing equals it.
fn boot_id() -> String {
    boot::id().unwrap_or_else(|| format!("unknown-{}", std::process::id()))
}

/// Marks the index as whole and in step with the records, in this boot.
pub(super) fn in_step(index: &Path) -> Result<()> {
    let path = index.join(WHOLE);
    match std::fs::read(&path) {
        Ok(boot) if boot == boot_id().as_bytes() => Ok(()),
        _ => std::fs::write(&path, boot_id()).context("write", path),
    }
}

/// The boot in which the index was in step last.
fn last_in_step(root: &Path) -> Option<String> {
    std::fs::read_to_string(root.join("index").join(WHOLE)).ok()
}

/// Drops the notes: the index is in step.
pub(super) fn forget(root: &Path) -> Result<()> {
    durable::remove(&root.join(PENDING)).map(drop)
}
