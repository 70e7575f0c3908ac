//! A pool's damaged metadata, repaired into a spare that takes their place; and the mark of a repair.
//!
//! ```text
//! ROOT/pool/metadata              what the pool uses, whole or damaged: never missing
//! ROOT/pool/metadata.spare        what thin_repair writes; nothing while no repair runs
//! ROOT/pool/metadata.damaged[.N]  what a spare took the place of: kept, never overwritten
//! ROOT/pool/repair                the mark
//! ```
//!
//! The mark is an flock that the repair holds. It is empty until something has been
//! changed that has to be looked at before anybody uses it; if its owner dies then,
//! every other verb says so, and the next repair goes on. The spare takes its place by
//! a hard link of the damaged file and one rename over it, each durable.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plywood_store::lock::Exclusive;
use plywood_store::record::{POOL_KEY, Phase, PoolDevices, PoolRecord};
use plywood_store::{Store, durable};
use rustix::fs::{FallocateFlags, FlockOperation};

use crate::dm::assembly;
use crate::dm::pool::ThinId;
use crate::dm::program::Program;
use crate::dm::underlay::{Underlay, head_of, private_file, size_of_device};
use crate::error::{Context, Error, Kind, Result};
use crate::explain::{quote, step};

/// `THIN_METADATA_NEEDS_CHECK_FLAG`, in the superblock's word at byte 4 (`drivers/md/dm-thin-metadata.c`).
const NEEDS_CHECK: u8 = 1;

/// How long volumes in use are waited for, and how often they are looked at.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// What became of the metadata.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Metadata {
    /// They were whole.
    Whole,
    /// They were whole; the kernel's demand for a check is taken back.
    Cleared,
    /// They were damaged, and what could be read of them is in new ones.
    Repaired {
        /// Where the damaged ones are kept.
        kept: PathBuf,
        /// What was wrong.
        damage: String,
    },
    /// They were given up for empty ones.
    Renewed {
        /// Where the old ones are kept.
        kept: PathBuf,
        /// What was wrong.
        damage: String,
    },
}

/// How the metadata may be repaired.
#[derive(Debug, Clone, Copy, Default)]
pub struct Means<'a> {
    /// An empty block device, where the pool lies on block devices.
    pub spare: Option<&'a Path>,
    /// Go on where what containers have written cannot be saved.
    pub accept_loss: bool,
}

/// The mark of a repair that runs.
#[derive(Debug)]
pub struct Mark {
    file: File,
    path: PathBuf,
}

impl Mark {
    /// Takes the mark.
    ///
    /// # Errors
    /// In use where a repair runs.
    pub fn take(store: &Store, _lock: &Exclusive) -> Result<Self> {
        let path = store.folder("pool")?.join("repair");
        loop {
            let file = private_file(&path)?;
            if !durable::try_flock(&file, FlockOperation::NonBlockingLockExclusive).context("lock", &path)? {
                return Err(running());
            }
            // Its owner may have finished between the two.
            if durable::is_still_at(&file, &path)? {
                return Ok(Self { file, path });
            }
        }
    }

    /// Whether something was changed that has to be looked at: by this repair, or by one that was cut short.
    ///
    /// # Errors
    /// I/O.
    pub fn is_set(&self) -> Result<bool> {
        Ok(self.file.metadata().context("look at", &self.path)?.len() > 0)
    }

    /// From here on nobody but a repair uses the pool, until [`Mark::done`].
    ///
    /// # Errors
    /// I/O.
    pub fn set(&self) -> Result<()> {
        if self.is_set()? {
            return Ok(());
        }
        (&self.file)
            .write_all(b"changed\n")
            .and_then(|()| self.file.sync_all())
            .context("write", &self.path)?;
        match self.path.parent() {
            Some(folder) => durable::sync_folder(folder),
            None => Ok(()),
        }
    }

    /// Everything was looked at.
    ///
    /// # Errors
    /// I/O.
    pub fn done(self) -> Result<()> {
        durable::remove(&self.path).map(drop)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if matches!(self.is_set(), Ok(false)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Refuses a pool that a repair works on, or has left half done.
///
/// # Errors
/// In use; corrupt.
pub fn refuse_unfinished(store: &Store, _lock: &Exclusive) -> Result<()> {
    let path = store.folder("pool")?.join("repair");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    if !durable::try_flock(&file, FlockOperation::NonBlockingLockShared).context("lock", &path)? {
        return Err(running());
    }
    if file.metadata().context("look at", &path)?.len() == 0 {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the repair of the pool of {} was cut short: what is in it was not verified",
        store.root().display()
    ))
    .hinted("plywood pool repair goes on with it"))
}

fn running() -> Error {
    Error::new(Kind::InUse, "the pool is being repaired by another plywood process")
        .hinted("try again when it has ended")
}

/// What `thin_check` finds wrong with the metadata, which nobody uses; none where they are whole.
///
/// # Errors
/// In use; where it is missing.
pub(super) fn damage_of(metadata: &Path) -> Result<Option<String>> {
    let output = Program::ThinCheck.output(&[metadata.as_os_str()])?;
    if output.status.success() {
        return Ok(None);
    }
    let said = if output.stderr.is_empty() {
        output.stdout
    } else {
        output.stderr
    };
    let said = String::from_utf8_lossy(&said)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    Ok(Some(match said.is_empty() {
        true => output.status.to_string(),
        false => said,
    }))
}

/// Whether the kernel asks for a check of the metadata.
pub(super) fn needs_check(metadata: &Path) -> Result<bool> {
    Ok(head_of(metadata)?.get(4).is_some_and(|flags| flags & NEEDS_CHECK != 0))
}

/// Takes back the kernel's demand for a check of metadata that are whole.
fn clear_needs_check(metadata: &Path) -> Result<()> {
    Program::ThinCheck.run(&["--clear-needs-check-flag".as_ref(), metadata.as_os_str()])?;
    sync(metadata)
}

/// Takes the pool out of the kernel. What a killed command had started (e2fsck, an unpacking) lets go of its volume a
/// moment after it.
fn detach(store: &Store, lock: &Exclusive) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match assembly::detach(store, lock) {
            Err(error) if error.kind() == Kind::InUse && Instant::now() < deadline => std::thread::sleep(PAUSE),
            done => return done.map(drop),
        }
    }
}

/// Takes the pool out of the kernel and makes its metadata whole.
///
/// # Errors
/// In use; corrupt where nothing can be made of them; no space for the spare.
pub fn metadata(store: &Store, lock: &Exclusive, mark: &Mark, means: Means<'_>) -> Result<Metadata> {
    let record = store.pool.get(POOL_KEY)?;
    let record = record.ok_or_else(|| Error::not_found(format!("{} has no pool", store.root().display())))?;
    detach(store, lock)?;
    let work = Work {
        under: Underlay::of(store, &record)?,
        store,
        lock,
        mark,
        record,
    };
    let metadata = work.under.metadata_path();
    if let PoolDevices::LoopFiles { .. } = work.record.devices {
        work.under.require_free()?;
        durable::remove(&work.under.spare_path())?;
    }
    match damage_of(&metadata)? {
        Some(damage) => work.repair(means, damage),
        None if needs_check(&metadata)? => work.clear(&metadata),
        None => Ok(Metadata::Whole),
    }
}

struct Work<'a> {
    under: Underlay,
    store: &'a Store,
    lock: &'a Exclusive,
    mark: &'a Mark,
    record: PoolRecord,
}

impl Work<'_> {
    fn clear(&self, metadata: &Path) -> Result<Metadata> {
        // What was acknowledged while the error came may be gone: everything is looked at.
        self.mark.set()?;
        clear_needs_check(metadata)?;
        Ok(Metadata::Cleared)
    }

    fn repair(&self, means: Means<'_>, damage: String) -> Result<Metadata> {
        let from = self.under.metadata_path();
        let spare = self.spare(means)?;
        let written = self.containers()?;
        let saved = self.fill(&from, &spare).and_then(|()| {
            sync(&spare)?;
            match damage_of(&spare)? {
                None => {
                    // thin_repair copies the flag too.
                    clear_needs_check(&spare)?;
                    Underlay::volumes_of(&spare)
                }
                Some(said) => Err(Error::corrupt(format!(
                    "what thin_repair made of them is damaged: {said}"
                ))),
            }
        });
        let lost: Vec<&str> = written
            .iter()
            .filter(|(_, volumes)| {
                let is_saved = |id| saved.as_ref().is_ok_and(|saved| saved.contains(id));
                !volumes.iter().all(is_saved)
            })
            .map(|(who, _)| who.as_str())
            .collect();
        if !(lost.is_empty() || means.accept_loss) {
            let error = Error::corrupt(format!(
                "the pool's metadata {} are damaged ({damage}), and with them what these have written: {}",
                from.display(),
                lost.join(", ")
            ))
            .hinted(
                "nothing was changed; a backup of the metadata would help. plywood pool repair --accept-loss goes on without what they have written; every image comes back from its blobs",
            );
            return Err(match saved {
                Ok(_) => error,
                Err(why) => error.caused_by(why),
            });
        }
        if saved.is_err() {
            return self.renew(means, damage);
        }
        let kept = self.swap(&spare)?;
        Ok(Metadata::Repaired { kept, damage })
    }

    /// Who has written something that is nowhere but in the pool, and on which volumes.
    fn containers(&self) -> Result<Vec<(String, Vec<ThinId>)>> {
        let snapshots = self.store.snapshots.list()?.into_iter();
        let lasting = snapshots.filter(|one| !one.read_only && one.phase == Phase::Ready && one.lease.is_none());
        lasting
            .map(|snapshot| {
                let name = self
                    .store
                    .containers
                    .get(&snapshot.key)?
                    .map(|container| container.name);
                let volumes = snapshot.place.volumes().into_iter().filter_map(ThinId::new).collect();
                Ok((name.unwrap_or(snapshot.key), volumes))
            })
            .collect()
    }

    /// Debian 12's `thin_repair` (0.9) wants to be told what a damaged superblock would have said, and only then:
    /// it believes us more than a whole one. It then looks for the trees itself, sorts what it finds by an order
    /// that is none (`cmp_time_counts` compares what is always empty), and so may take old ones, or die.
    fn fill(&self, from: &Path, spare: &Path) -> Result<()> {
        let mut words = vec!["-i".as_ref(), from.as_os_str(), "-o".as_ref(), spare.as_os_str()];
        let Err(error) = Program::ThinRepair.run(&words) else {
            return Ok(());
        };
        if !error.to_string().contains("corruption in the superblock") {
            return Err(error);
        }
        let blocks = size_of_device(&self.under.data_path())? / 512 / u64::from(self.record.block_sectors);
        let told = [
            format!("--transaction-id={}", self.record.transaction_id),
            format!("--data-block-size={}", self.record.block_sectors),
            format!("--nr-data-blocks={blocks}"),
        ];
        words.extend(told.iter().map(|word| std::ffi::OsStr::new(word.as_str())));
        Program::ThinRepair.run(&words).map(drop)
    }

    /// Nothing that is left of the metadata is worth more than empty ones.
    fn renew(&self, means: Means<'_>, damage: String) -> Result<Metadata> {
        let spare = self.spare_path(means);
        self.clear_head(&spare)?;
        let kept = self.swap(&spare)?;
        let record = self.store.pool.get(POOL_KEY)?.unwrap_or_else(|| self.record.clone());
        drop(assembly::renew(self.store, self.lock, &record)?);
        Ok(Metadata::Renewed { kept, damage })
    }

    /// The kernel makes new metadata over a superblock of zeros; `thin_repair` may have been cut short in it.
    fn clear_head(&self, spare: &Path) -> Result<()> {
        let file = OpenOptions::new().write(true).open(spare).context("open", spare)?;
        file.write_all_at(&[0; 4096], 0)
            .and_then(|()| file.sync_all())
            .context("empty", spare)
    }

    fn spare_path(&self, means: Means<'_>) -> PathBuf {
        means.spare.map_or_else(|| self.under.spare_path(), Path::to_owned)
    }

    /// An empty place for as much metadata as there are.
    fn spare(&self, means: Means<'_>) -> Result<PathBuf> {
        let size = size_of_device(&self.under.metadata_path())?;
        match (&self.record.devices, means.spare) {
            (PoolDevices::LoopFiles { .. }, None) => {
                let path = self.under.spare_path();
                step(|| format!("fallocate -l {size} {}", quote(&path)));
                let file = private_file(&path)?;
                rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size).context("allocate", &path)?;
                file.sync_all().context("sync", &path)?;
                Ok(path)
            }
            (PoolDevices::LoopFiles { .. }, Some(_)) => Err(Error::invalid(
                "--spare is for a pool on block devices: this one lies on files, and makes its own",
            )),
            (PoolDevices::Block { .. }, Some(spare)) => {
                let has = size_of_device(spare)?;
                if has < size {
                    return Err(Error::invalid(format!(
                        "{} has {has} bytes, and the metadata have {size}",
                        spare.display()
                    )));
                }
                assembly::refuse_filled(spare, head_of(spare)?)?;
                Ok(spare.to_owned())
            }
            (PoolDevices::Block { metadata, .. }, None) => Err(Error::invalid(format!(
                "the metadata on {} have to be repaired into another block device",
                metadata.display()
            ))
            .hinted(format!(
                "plywood pool repair --spare DEVICE, one that is empty and has {size} bytes"
            ))),
        }
    }

    /// The spare is the pool's from now on; gives where the old metadata are.
    fn swap(&self, spare: &Path) -> Result<PathBuf> {
        self.mark.set()?;
        let metadata = self.under.metadata_path();
        if let PoolDevices::Block { data, .. } = &self.record.devices {
            let devices = PoolDevices::Block {
                data: data.clone(),
                metadata: spare.to_owned(),
            };
            let record = PoolRecord {
                devices,
                ..self.record.clone()
            };
            self.store.pool.put(self.lock, &record)?;
            return Ok(metadata);
        }
        let kept = keep(&metadata)?;
        step(|| format!("ln {0} {1} && mv {2} {0}", quote(&metadata), quote(&kept), quote(spare)));
        std::fs::rename(spare, &metadata).context("put the spare in the place of", &metadata)?;
        if let Some(folder) = metadata.parent() {
            durable::sync_folder(folder)?;
        }
        Ok(kept)
    }
}

/// Gives a file a second name, durably: one that is free, or that it has already.
fn keep(metadata: &Path) -> Result<PathBuf> {
    let own = std::fs::metadata(metadata).context("look at", metadata)?.ino();
    for number in 0_u32.. {
        let mut name = metadata.as_os_str().to_owned();
        name.push(".damaged");
        if number > 0 {
            name.push(format!(".{number}"));
        }
        let kept = PathBuf::from(name);
        match std::fs::hard_link(metadata, &kept) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // A repair that was killed before its rename has kept it already.
                if std::fs::symlink_metadata(&kept).context("look at", &kept)?.ino() != own {
                    continue;
                }
            }
            Err(error) => return Err(Error::io("keep the damaged metadata as", kept, error)),
        }
        if let Some(folder) = kept.parent() {
            durable::sync_folder(folder)?;
        }
        return Ok(kept);
    }
    Err(Error::new(Kind::Exists, "there are too many damaged metadata files"))
}

fn sync(path: &Path) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.sync_all())
        .context("sync", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_never_overwritten_and_never_kept_twice() {
        let folder = tempfile::tempdir().unwrap();
        let metadata = folder.path().join("metadata");
        for (content, name) in [("a", "metadata.damaged"), ("b", "metadata.damaged.1")] {
            std::fs::write(folder.path().join("spare"), content).unwrap();
            std::fs::rename(folder.path().join("spare"), &metadata).unwrap();
            for _ in 0..2 {
                assert_eq!(keep(&metadata).unwrap(), folder.path().join(name));
            }
            assert_eq!(std::fs::read_to_string(folder.path().join(name)).unwrap(), content);
        }
    }

    #[test]
    fn a_repair_that_dies_is_told_only_where_it_changed_something() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(&folder.path().join("root"), plywood_store::Driver::Thin).unwrap();
        let lock = store.exclusive().unwrap();
        refuse_unfinished(&store, &lock).unwrap();
        let mark = Mark::take(&store, &lock).unwrap();
        assert_eq!(Mark::take(&store, &lock).unwrap_err().kind(), Kind::InUse);
        assert_eq!(refuse_unfinished(&store, &lock).unwrap_err().kind(), Kind::InUse);
        drop(mark);
        refuse_unfinished(&store, &lock).unwrap();
        let mark = Mark::take(&store, &lock).unwrap();
        mark.set().unwrap();
        drop(mark);
        let refused = refuse_unfinished(&store, &lock).unwrap_err();
        assert_eq!(refused.kind(), Kind::Corrupt);
        assert!(refused.to_string().contains("cut short"), "{refused}");
        let mark = Mark::take(&store, &lock).unwrap();
        assert!(mark.is_set().unwrap());
        mark.done().unwrap();
        refuse_unfinished(&store, &lock).unwrap();
    }
}
