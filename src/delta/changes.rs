//! From changed inodes to the names that can have changed: a [`Scope`] for the walk that writes the layer.
//!
//! A name is a candidate where its directory's entry changed, or what it names did. A directory that took the
//! place of another one under the same path is read as a whole, with all beneath it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use plywood_store::layer::diff::{Candidates, Scope};

use super::account::{Account, Inodes, account};
use super::names::{Names, Parents};
use crate::error::Result;
use crate::ext4::directory::{self, Entry, is_dots};
use crate::ext4::inode::Inode;
use crate::ext4::volume::Volume;

/// What a comparison by blocks came to.
#[derive(Debug)]
pub enum Compared {
    /// These names can have changed, and no others.
    Known(Changes),
    /// It cannot be told from blocks, and why.
    Unknown(String),
}

/// The names that can have changed.
#[derive(Debug)]
pub struct Changes {
    names: Names,
    root: Below,
}

/// What can have changed below a directory.
#[derive(Debug, Default)]
struct Below {
    /// Everything.
    all: bool,
    names: BTreeMap<OsString, Below>,
}

impl Below {
    fn reach(&mut self, path: &Path) -> &mut Self {
        path.iter()
            .fold(self, |below, name| below.names.entry(name.to_owned()).or_default())
    }
}

/// Finds what changed from `parent` to `child`, whose blocks differ at `changed` (sorted), and only there. `noted`
/// says in which directories the names of the child's, or its parent's, inodes are.
///
/// # Errors
/// Corrupt where the structures of either do not fit together; what reading fails with.
pub fn compare(parent: &Rc<Volume>, child: &Rc<Volume>, changed: &[u64], noted: Box<dyn Parents>) -> Result<Compared> {
    if !parent.is_akin(child) {
        return Ok(Compared::Unknown(
            "the two are not one filesystem at two times".to_owned(),
        ));
    }
    let inodes = match account(parent, child, changed)? {
        Account::Whole(inodes) => inodes,
        Account::Unexplained(block) => {
            return Ok(Compared::Unknown(format!(
                "block {block} changed, and no file says that it did"
            )));
        }
    };
    let mut finding = Finding {
        parent,
        child,
        changed,
        entries: Vec::new(),
        replaced: Vec::new(),
        added: BTreeMap::new(),
    };
    for &number in &inodes {
        finding.directory(number)?;
    }
    finding.finish(&inodes, noted).map(Compared::Known)
}

struct Finding<'a> {
    parent: &'a Volume,
    child: &'a Rc<Volume>,
    changed: &'a [u64],
    /// Directory and name of the entries that are not what they were.
    entries: Vec<(u32, OsString)>,
    /// Directory and name of directories that took the place of others.
    replaced: Vec<(u32, OsString)>,
    /// The directories in which each inode has a new name, as often as it has.
    added: BTreeMap<u32, Vec<u32>>,
}

impl Finding<'_> {
    /// Finds the changed entries of a directory that is new or has changed.
    fn directory(&mut self, number: u32) -> Result<()> {
        let Some(now) = self.child.live(number)?.filter(Inode::is_directory) else {
            return Ok(());
        };
        let before = self.parent.live(number)?;
        let Some(before) = before.filter(|before| before.identity() == now.identity()) else {
            for entry in directory::entries(self.child, &now)? {
                self.add(number, &entry);
            }
            return Ok(());
        };
        let (before, now) = self.changed_entries(&before, &now)?;
        for entry in before.difference(&now) {
            self.entries.push((number, entry.name.clone()));
        }
        for entry in now.difference(&before) {
            self.add(number, entry);
            let from = Entry {
                name: entry.name.clone(),
                inode: 0,
                is_directory: false,
            };
            let same_name = before.range(from..).next().filter(|old| old.name == entry.name);
            let is_directory = |volume: &Volume, inode: u32| {
                let found = volume.live(inode)?;
                Ok::<_, crate::error::Error>(found.is_some_and(|inode| inode.is_directory()))
            };
            if let Some(old) = same_name
                && is_directory(self.parent, old.inode)?
                && is_directory(self.child, entry.inode)?
            {
                self.replaced.push((number, entry.name.clone()));
            }
            self.entries.push((number, entry.name.clone()));
        }
        Ok(())
    }

    fn add(&mut self, directory: u32, entry: &Entry) {
        if !is_dots(&entry.name) {
            self.added.entry(entry.inode).or_default().push(directory);
        }
    }

    /// The entries of those blocks of a directory that are not the same in both.
    fn changed_entries(&self, before: &Inode, now: &Inode) -> Result<(BTreeSet<Entry>, BTreeSet<Entry>)> {
        let olds = directory::blocks(self.parent, before)?;
        let news = directory::blocks(self.child, now)?;
        let same = |block: &(u64, u64), others: &[(u64, u64)]| {
            let index = usize::try_from(block.0).unwrap_or(usize::MAX);
            others.get(index) == Some(block) && self.changed.binary_search(&block.1).is_err()
        };
        let read = |volume: &Volume, inode: &Inode, blocks: &[(u64, u64)], others: &[(u64, u64)]| {
            let mut entries = Vec::new();
            for block in blocks.iter().filter(|block| !same(block, others)) {
                directory::entries_of(volume, inode.number(), block.1, &mut entries)?;
            }
            let named = entries.into_iter().filter(|entry| !is_dots(&entry.name));
            Ok::<BTreeSet<Entry>, crate::error::Error>(named.collect())
        };
        Ok((
            read(self.parent, before, &olds, &news)?,
            read(self.child, now, &news, &olds)?,
        ))
    }

    fn finish(self, inodes: &Inodes, noted: Box<dyn Parents>) -> Result<Changes> {
        let pairs = self.added.iter();
        let pairs = pairs.flat_map(|(inode, above)| above.iter().map(|above| (*inode, *above)));
        let names = Names::new(self.child, noted, pairs.collect());
        let mut root = Below::default();
        for (directory, name) in &self.entries {
            // Deleted meanwhile, it is its parent's entry that says so.
            if self.child.live(*directory)?.is_some() {
                root.reach(&names.path_of(*directory)?)
                    .names
                    .entry(name.clone())
                    .or_default();
            }
        }
        for (directory, name) in &self.replaced {
            root.reach(&names.path_of(*directory)?.join(name)).all = true;
        }
        for &number in inodes {
            let Some(now) = self.child.live(number)? else {
                continue;
            };
            let before = self.parent.live(number)?;
            let is_same = before
                .as_ref()
                .is_some_and(|before| before.identity() == now.identity());
            if now.is_directory() {
                let below = root.reach(&names.path_of(number)?);
                // The number of a directory that is gone: under the same name perhaps.
                below.all |= !is_same;
                continue;
            }
            // All its names are new.
            let new = self.added.get(&number).map_or(0, Vec::len);
            if !is_same && new == usize::from(now.links()) {
                continue;
            }
            for path in names.of(number)? {
                root.reach(&path);
            }
        }
        Ok(Changes { names, root })
    }
}

impl Changes {
    /// Inode and directory of the names that are new.
    pub fn added(&self) -> &BTreeSet<(u32, u32)> {
        self.names.added()
    }

    /// Whether a name was found by reading every directory only.
    pub fn has_scanned(&self) -> bool {
        self.names.has_scanned()
    }
}

impl Scope for Changes {
    fn names(&self, path: &Path) -> Result<Candidates> {
        let mut below = &self.root;
        for name in path {
            if below.all {
                return Ok(Candidates::All);
            }
            match below.names.get(name) {
                Some(next) => below = next,
                None => return Ok(Candidates::Only(Vec::new())),
            }
        }
        if below.all {
            return Ok(Candidates::All);
        }
        Ok(Candidates::Only(below.names.keys().cloned().collect()))
    }

    fn names_of(&self, inode: u64) -> Result<Option<Vec<PathBuf>>> {
        match u32::try_from(inode) {
            Ok(inode) => self.names.of(inode).map(Some),
            Err(_) => Ok(None),
        }
    }
}
