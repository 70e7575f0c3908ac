//! What is shown of a snapshot: its stack, its space.

use std::os::fd::AsFd;

use plywood_store::record::LayerRecord;

use super::stack::Stack;
use super::{Overlay, folder, folders, probe, walk};
use crate::error::Result;
use crate::snapshot::{StackItem, Usage};

impl Overlay {
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
