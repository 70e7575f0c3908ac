//! How a snapshot is mounted, and who may have it.
//!
//! A folder belongs to one process at a time ([`Overlay::own`]): to who writes to
//! it, makes it a layer or removes it. A base layer of an import is filled as it
//! is; everything else goes through a mount of its [`Stack`].

use std::os::fd::{AsFd, OwnedFd};

use plywood_store::ChainId;
use plywood_store::record::SnapshotRecord;

use super::stack::{self, Lasts, Stack};
use super::{Overlay, Upper, folder, folders, upper};
use crate::error::{Error, Kind, Result};
use crate::explain::{quote, step};
use crate::snapshot::{Access, Mounted, Users};

impl Overlay {
    pub(super) fn stack_of(&self, parent: Option<&ChainId>, upper: Option<&str>) -> Result<Stack> {
        let layers = self.layers(parent)?;
        let lowers = layers
            .iter()
            .map(|layer| folder(&layer.place).map(str::to_owned))
            .collect::<Result<_>>()?;
        Ok(Stack {
            lowers,
            upper: upper.map(str::to_owned),
            lasts: Lasts::AtOnce,
        })
    }

    /// Refuses where a captured copy still stands for what the folder held.
    pub(super) fn refuse_captured(&self, key: &str, name: &str) -> Result<()> {
        // A copy lasts, whatever it was taken of.
        for record in self.store.snapshots.list_lasting()? {
            if Upper::of(&record)? == Upper::Borrowed(name) {
                return Err(Error::new(
                    Kind::InUse,
                    format!("snapshot {key} is being committed (as {})", record.key),
                )
                .hinted("wait for the commit to end; plywood gc takes up what a killed one left"));
            }
        }
        Ok(())
    }

    /// Takes the folder for this process alone: a second writer, or a remover, would ruin it.
    pub(super) fn own(&self, key: &str, name: &str) -> Result<OwnedFd> {
        let path = self.folders.tree(name);
        let dir = match path.is_dir() {
            true => folders::open(&path)?,
            false => return Err(folders::missing(&path, &format!("snapshot {key}"))),
        };
        if stack::patiently(|owned| !owned, || folders::try_own(&dir, &path))? {
            return Ok(dir);
        }
        Err(
            Error::new(Kind::InUse, format!("snapshot {key} is in use by another command"))
                .hinted("its container runs, or it is being committed: stop it, or wait"),
        )
    }

    /// Whether some process has the snapshot's folder in its hands.
    pub(super) fn still_held(&self, record: &SnapshotRecord) -> Result<bool> {
        match Upper::of(record)? {
            Upper::Own(name) if self.folders.tree(name).is_dir() => {
                let path = self.folders.tree(name);
                Ok(!folders::try_own(&folders::open(&path)?, &path)?)
            }
            _ => Ok(false),
        }
    }

    /// The snapshot's folder itself, to be filled. It is synced when it is closed.
    fn bare(&self, name: &str, held: Option<OwnedFd>) -> Result<Mounted> {
        let path = self.folders.tree(name);
        // Open before the first write: only then does it learn of every failed write-back.
        let dir = folders::open(&path)?;
        let (flusher, shown) = (folders::open(&path)?, path.clone());
        Ok(Mounted::bare(path, dir, move || {
            step(|| format!("sync -f {}", quote(&shown)));
            let flushed = folders::sync_filesystem(flusher.as_fd(), &shown);
            drop(held);
            flushed
        }))
    }

    pub(super) fn mount_record(
        &self,
        record: &SnapshotRecord,
        access: Access,
        users: Option<Users<'_>>,
    ) -> Result<Mounted> {
        let upper = Upper::of(record)?;
        let writable = access != Access::ReadOnly;
        let held = match upper {
            Upper::View if writable => return Err(Error::invalid(format!("snapshot {} is read-only", record.key))),
            Upper::Borrowed(_) if writable => {
                return Err(Error::invalid(format!(
                    "snapshot {} is a captured copy: read-only",
                    record.key
                )));
            }
            Upper::View => None,
            Upper::Own(name) | Upper::Borrowed(name) => {
                if writable {
                    self.refuse_captured(&record.key, name)?;
                }
                Some(self.own(&record.key, name)?)
            }
        };
        if let (Access::Fill, None, Upper::Own(name)) = (access, record.parent, upper) {
            return self.bare(name, held);
        }
        let stack = Stack {
            lasts: match &record.lease {
                Some(_) if writable => Lasts::Closed,
                None if writable && self.store.snapshots.is_passing(&record.key) => Lasts::Never,
                _ => Lasts::AtOnce,
            },
            ..self.stack_of(record.parent.as_ref(), upper.name())?
        };
        let mount = |held| stack::mount_stack(&stack, &self.folders, &self.points, writable, held, users);
        match (mount(held), upper) {
            // The root folder was copied: with an empty index nothing is lost by beginning a new one.
            (Err(error), Upper::Own(name))
                if error.kind() == Kind::Incompatible && !upper::has_index(&self.folders.work(name))? =>
            {
                let held = Some(self.own(&record.key, name)?);
                self.folders.forget_origin(name)?;
                mount(held)
            }
            (mounted, _) => mounted,
        }
    }
}
