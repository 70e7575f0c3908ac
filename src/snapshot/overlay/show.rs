//! What is shown of a snapshot: its mount in the caller's tree, its stack, its space.

use std::os::fd::AsFd;
use std::path::Path;

use plywood_store::record::{LayerRecord, SnapshotRecord};

use super::stack::Stack;
use super::{Overlay, folder, folders, probe, walk};
use crate::error::{Error, Kind, Result};
use crate::explain::quote;
use crate::snapshot::{StackItem, Usage};

impl Overlay {
    pub(super) fn set_mounted_at(&self, key: &str, target: Option<&Path>) -> Result<()> {
        let lock = self.store.exclusive()?;
        let record = self.snapshot(key)?;
        if let (Some(there), Some(_)) = (&record.mounted_at, target) {
            return Err(
                Error::new(Kind::InUse, format!("snapshot {key} is mounted at {}", there.display()))
                    .hinted(format!("plywood umount {}", quote(there))),
            );
        }
        self.store.snapshots.put(
            &lock,
            &SnapshotRecord {
                mounted_at: target.map(Path::to_owned),
                ..record
            },
        )?;
        lock.done()
    }

    pub(super) fn shown_stack(&self, stack: &Stack, layers: &[LayerRecord]) -> Result<Vec<StackItem>> {
        let item = |kind, name: String, detail| StackItem { kind, name, detail };
        let path = |name: &str| self.folders.tree(name).display().to_string();
        let mut items = vec![item("overlay", stack.source(), Some(stack.options()?))];
        items.extend(
            stack
                .upper
                .as_deref()
                .map(|name| item("folder", path(name), Some("upper".to_owned()))),
        );
        for layer in layers {
            items.push(item(
                "folder",
                path(folder(&layer.place)?),
                Some(format!("layer {}", layer.chain_id)),
            ));
        }
        items.extend(probe::device_of(self.folders.base())?.map(|(device, kind)| item("device", device, Some(kind))));
        Ok(items)
    }

    pub(super) fn space(&self, name: &str, owner: &str) -> Result<Usage> {
        let path = self.folders.tree(name);
        if !path.is_dir() {
            return Err(folders::missing(&path, owner));
        }
        let bytes = walk::space(folders::open(&path)?.as_fd())?;
        Ok(Usage {
            bytes,
            exclusive: Some(bytes),
        })
    }
}
