//! What is shown of a snapshot: its stack, its space.

use std::os::fd::AsFd;

use plywood_store::record::{LayerRecord, Phase, Record};

use super::stack::Stack;
use super::{Overlay, Upper, folder, folders, probe};
use crate::error::Result;
use crate::snapshot::{Group, Space, StackItem};
use crate::walk;

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

    /// Space that these take: a folder shares nothing.
    pub(super) fn measure(&self, groups: &[Group]) -> Result<Space> {
        let layers = &self.store.layers;
        let snapshots = &self.store.snapshots;
        Space::each_alone(
            groups,
            |layer| {
                let owner = || format!("layer {}", layer.chain_id);
                let taken = folder(&layer.place).and_then(|name| self.taken(name, owner));
                unless_gone(taken, || Ok(layers.get(&layer.key())?.map(|layer| layer.phase)))
            },
            |one| {
                let owner = || format!("snapshot {}", one.key);
                let upper = Upper::of(one);
                let taken = upper.and_then(|upper| upper.name().map_or(Ok(0), |name| self.taken(name, owner)));
                unless_gone(taken, || Ok(snapshots.get(&one.key)?.map(|one| one.phase)))
            },
        )
    }

    fn taken(&self, name: &str, owner: impl FnOnce() -> String) -> Result<u64> {
        let path = self.folders.tree(name);
        if !path.is_dir() {
            return Err(folders::missing(&path, &owner()));
        }
        walk::space(folders::open(&path)?.as_fd())
    }
}

/// None for what is being removed meanwhile: it takes no space of its own any more.
fn unless_gone(taken: Result<u64>, phase: impl FnOnce() -> Result<Option<Phase>>) -> Result<Option<u64>> {
    match taken {
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) if phase()? != Some(Phase::Ready) => Ok(None),
        Err(error) => Err(error),
    }
}
