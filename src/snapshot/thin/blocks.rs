//! The difference of a snapshot by its changed blocks: what it costs follows what changed.
//!
//! The pool's metadata say which blocks are not the parent's, or the exception store does; ext4's own structures,
//! read from both volumes, say whose they are. Nothing is mounted. Where any of it does not fit together, both
//! trees are walked instead.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use plywood_store::ChainId;
use plywood_store::layer::folder::Folder;
use plywood_store::record::{LayerRecord, SnapshotRecord};

use super::{Thin, id_of};
use crate::delta::bytewise::refine;
use crate::delta::changes::{Compared, compare};
use crate::delta::names::scan;
use crate::delta::noted::{self, Noted};
use crate::delta::source::BlockSource;
use crate::delta::thin::Source;
use crate::dm::direct::Direct;
use crate::dm::pool::ThinId;
use crate::dm::volume::{Content, OpenVolume};
use crate::error::{Context, Error, Result};
use crate::ext4::tree::Directory;
use crate::ext4::volume::Volume;
use crate::snapshot::{Comparison, Found, Side};

/// A volume that is read as it is.
struct Opened {
    root: Directory,
    volume: OpenVolume,
}

impl Side for Opened {
    fn folder(&self) -> &dyn Folder {
        &self.root
    }

    fn path(&self) -> &Path {
        &self.volume.device
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Self { root, volume } = *self;
        drop(root);
        volume.close()
    }
}

/// A volume in use, with what reads it.
struct Read {
    tree: Rc<Volume>,
    bytes: Rc<Direct>,
    volume: OpenVolume,
}

impl Read {
    fn of(volume: OpenVolume) -> Result<Self> {
        let bytes = Rc::new(Direct::open(&volume.device)?);
        Ok(Self {
            tree: Rc::new(Volume::open(Box::new(Rc::clone(&bytes)))?),
            bytes,
            volume,
        })
    }

    /// Deactivates the volume, which must not be open any more then.
    fn close(self) -> Result<()> {
        drop((self.tree, self.bytes));
        self.volume.close()
    }

    fn side(self) -> Result<Box<dyn Side>> {
        Ok(Box::new(Opened {
            root: Directory::root(&self.tree)?,
            volume: self.volume,
        }))
    }
}

/// What comes of comparing by blocks.
pub(super) enum ByBlocks {
    /// This.
    Found(Comparison),
    /// There is nothing to compare so.
    Nothing(&'static str),
    /// The changed blocks do not tell.
    Unknown(String),
}

impl Thin {
    /// The snapshot beside its parent, by changed blocks.
    pub(super) fn compare_blocks(&self, snapshot: &SnapshotRecord) -> Result<ByBlocks> {
        let Some(parent) = &snapshot.parent else {
            return Ok(ByBlocks::Nothing("there is no parent"));
        };
        let parent = self.layer(parent)?;
        let ids = (self.trusted(&parent.place)?, id_of(&snapshot.place)?);
        let (by_blocks, added) = self.compare_volumes(&parent, ids, self.content_of(snapshot)?)?;
        self.added.replace(added.map(|added| (ids.1, added)));
        Ok(by_blocks)
    }

    /// A layer beside another one of its image, or of an image on the same layers. Two that stand on nothing in common
    /// share no blocks that would tell.
    pub(super) fn compare_layer_blocks(&self, from: &LayerRecord, to: &LayerRecord) -> Result<ByBlocks> {
        if self.base_of(from)? != self.base_of(to)? {
            return Ok(ByBlocks::Nothing("they stand on no layer in common"));
        }
        let ids = (self.trusted(&from.place)?, self.trusted(&to.place)?);
        Ok(self.compare_volumes(from, ids, Content::Layer)?.0)
    }

    /// The lowest layer under this one.
    fn base_of(&self, layer: &LayerRecord) -> Result<ChainId> {
        let mut base = layer.clone();
        while let Some(parent) = base.parent {
            base = self.layer(&parent)?;
        }
        Ok(base.chain_id)
    }

    /// The layer `from`, on the first of `ids`, beside the volume that is the second; and the names that came, as inode
    /// and directory.
    fn compare_volumes(
        &self,
        from: &LayerRecord,
        ids: (ThinId, ThinId),
        content: Content,
    ) -> Result<(ByBlocks, Option<Vec<noted::Pair>>)> {
        let below = self.pool.open(ids.0, Content::Layer)?;
        let above = self.pool.open(ids.1, content)?;
        let (Some(below), Some(above)) = (below, above) else {
            return Ok((ByBlocks::Nothing("the pool is a simulated one"), None));
        };
        let (below, above) = (Read::of(below)?, Read::of(above)?);
        // A superblock that tells of an error or a journal to replay is refused when it is read.
        self.clean.set(Some(ids.1));
        let changes = match self.changes(from, ids, (&below, &above))? {
            Compared::Unknown(why) => return Ok((ByBlocks::Unknown(why), None)),
            Compared::Known(changes) => changes,
        };
        let added = changes.added().iter().copied().collect();
        let comparison = Comparison {
            parent: Some(below.side()?),
            child: above.side()?,
            scope: Box::new(changes),
            found: Found::Blocks,
        };
        Ok((ByBlocks::Found(comparison), Some(added)))
    }

    fn changes(&self, parent: &LayerRecord, ids: (ThinId, ThinId), (below, above): (&Read, &Read)) -> Result<Compared> {
        let ranges = self.ranges(ids, &above.volume)?;
        let changed = refine(&*below.bytes, &*above.bytes, &ranges)?;
        tracing::debug!("{} of the blocks in {} ranges differ", changed.len(), ranges.len());
        let noted = Noted::open(self.notes_of(parent)?.iter().map(PathBuf::as_path));
        compare(&below.tree, &above.tree, &changed, Box::new(noted))
    }

    /// The bytes in which the two can differ.
    fn ranges(&self, (below, above): (ThinId, ThinId), volume: &OpenVolume) -> Result<Vec<Range<u64>>> {
        if let Some(exceptions) = volume.exceptions()? {
            return Ok(exceptions);
        }
        let missing = |id: ThinId| Error::corrupt(format!("the pool's metadata have no volume {id}"));
        let Some(held) = self.pool.hold_metadata()? else {
            return Err(Error::invalid("a simulated pool has no metadata to read"));
        };
        held.explain(format_args!("thin_delta --snap1 {below} --snap2 {above}"));
        let ranges = (|| {
            let metadata = held.metadata()?;
            let before = metadata.root_of(below.get())?.ok_or_else(|| missing(below))?;
            let after = metadata.root_of(above.get())?.ok_or_else(|| missing(above))?;
            let source = Source {
                metadata: &metadata,
                before,
                after,
                size: volume.size,
            };
            source.changed()
        })();
        crate::error::both(ranges, held.close())
    }

    /// Notes in which directories the layer's inodes have their names; a later commit finds them there. What cannot be
    /// noted is looked for when it is needed.
    pub(super) fn note_names(&self, layer: &LayerRecord) {
        if let Err(error) = self.try_note_names(layer) {
            tracing::debug!("the names of layer {} are not noted: {error}", layer.chain_id);
        }
    }

    fn try_note_names(&self, layer: &LayerRecord) -> Result<()> {
        let id = id_of(&layer.place)?;
        let parent = layer.parent.map(|parent| self.layer(&parent)).transpose()?;
        let noted = match &parent {
            Some(parent) => Noted::open(self.notes_of(parent)?.iter().map(PathBuf::as_path)),
            None => Noted::default(),
        };
        // Of the comparison that the layer was made from.
        let known = self.added.take().filter(|(of, _)| *of == id);
        let pairs = match (known, &parent) {
            (Some((_, added)), Some(_)) => noted.with(added).context("read", "the notes of names")?,
            _ => None,
        };
        let (pairs, whole) = match pairs {
            Some(pairs) => pairs,
            None => match self.read_names(id, parent.as_ref().filter(|_| noted.is_whole()), &noted)? {
                Some(pairs) => pairs,
                None => return Ok(()),
            },
        };
        let path = self.note_of(&layer.chain_id);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).context("make", folder)?;
        }
        noted::write(&path, &pairs, whole)
    }

    /// What a layer's notes are to say, read from its volume: what it adds to `parent`, which is noted, else all.
    fn read_names(
        &self,
        id: ThinId,
        parent: Option<&LayerRecord>,
        noted: &Noted,
    ) -> Result<Option<(Vec<noted::Pair>, bool)>> {
        let Some(volume) = self.pool.open(id, Content::Layer)? else {
            return Ok(None);
        };
        let own = Read::of(volume)?;
        let added = match parent {
            Some(parent) => self.read_added(parent, id, &own)?,
            None => None,
        };
        let pairs = match added {
            Some(added) => noted.with(added).context("read", "the notes of names")?,
            None => Some((scan(&own.tree)?, true)),
        };
        own.close()?;
        Ok(pairs)
    }

    fn read_added(&self, parent: &LayerRecord, id: ThinId, own: &Read) -> Result<Option<Vec<noted::Pair>>> {
        let below_id = self.trusted(&parent.place)?;
        let Some(below) = self.pool.open(below_id, Content::Layer)? else {
            return Ok(None);
        };
        let below = Read::of(below)?;
        let compared = self.changes(parent, (below_id, id), (&below, own))?;
        let added = match compared {
            Compared::Known(changes) => Some(changes.added().iter().copied().collect()),
            Compared::Unknown(_) => None,
        };
        below.close()?;
        Ok(added)
    }

    /// The notes of a layer and of those beneath it.
    fn notes_of(&self, layer: &LayerRecord) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        let mut next = Some(layer.clone());
        while let Some(layer) = next {
            paths.push(self.note_of(&layer.chain_id));
            next = layer.parent.map(|parent| self.layer(&parent)).transpose()?;
        }
        Ok(paths)
    }

    fn note_of(&self, chain: &ChainId) -> PathBuf {
        self.store.root().join("pool/names").join(chain.0.hex())
    }

    /// Forgets the notes of a layer that goes.
    pub(super) fn forget_names(&self, chain: &ChainId) {
        let path = self.note_of(chain);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::debug!("cannot remove {}: {error}", path.display());
            }
            _ => {}
        }
    }
}
