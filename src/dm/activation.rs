//! The kernel pool's volumes: made active on demand, mounted, given back.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode as FileMode, OFlags};

use crate::dm::classic::{Status, store_sectors};
use crate::dm::control::{Suspended, node_of};
use crate::dm::ext4::{self, Checked, Health};
use crate::dm::kernel::KernelPool;
use crate::dm::locks::{Ended, Taken};
use crate::dm::metadata::Held;
use crate::dm::name;
use crate::dm::pool::{ThinId, ThinPool};
use crate::dm::room::Gauge;
use crate::dm::salvage;
use crate::dm::status::Need;
use crate::dm::volume::{Claim, Content, Guard, Mode, OpenVolume, Part, VolumeDevice, VolumeMount, Volumes, lost};
use crate::error::{Context, Error, Kind, Result, both};
use crate::explain::{quote, step};

/// Tells this process's mount points apart.
static MOUNTS: AtomicU32 = AtomicU32::new(0);

impl KernelPool {
    /// Takes a volume for one user, active: alone to write, together to read.
    fn activate(&self, id: ThinId, content: Content, mode: Mode) -> Result<(PathBuf, File)> {
        let locks = &self.inner.locks;
        let gate = locks.gate()?;
        match locks.take(&gate, id, mode == Mode::ReadOnly)? {
            Taken::Shared(lock) => Ok((self.make_device(id, content)?, lock)),
            Taken::Alone(lock) => {
                self.remove_unused(id, mode)?;
                let device = self.make_device(id, content)?;
                if mode == Mode::ReadOnly {
                    locks.share(&gate, id, &lock)?;
                }
                Ok((device, lock))
            }
        }
    }

    /// One user less; the last one removes the device.
    fn release(&self, id: ThinId, content: Content, lock: &File) -> Result<()> {
        let gate = self.inner.locks.gate()?;
        if self.inner.locks.is_last(&gate, id, lock)? {
            self.remove_if_closed(&gate, &self.made_for(id, content)?)?;
        }
        Ok(())
    }

    /// Notes the writer that begins; what it may find a killed one to have lost is noted first,
    /// because mounting replays the journal and leaves no trace.
    fn note_writer(&self, id: ThinId, device: &Path, mode: Mode) -> Result<()> {
        if mode == Mode::ReadOnly {
            return Ok(());
        }
        let locks = &self.inner.locks;
        if locks.last_writer(id)? == Ended::Killed && ext4::health(device)? != Health::Clean {
            locks.writing_failed(id)?;
        }
        locks.begin_writing(id)
    }

    /// Notes how a writer ended, and passes it on.
    fn note_end(&self, id: ThinId, mode: Mode, ended: Result<()>) -> Result<()> {
        match (mode, ended) {
            (Mode::ReadOnly, ended) => ended,
            (Mode::ReadWrite, Ok(())) => self.inner.locks.end_writing(id),
            (Mode::ReadWrite, Err(error)) => both(Err(error), self.inner.locks.writing_failed(id)),
        }
    }

    /// Why something could not be written back: the pool's state, where that is the reason.
    fn cause_of(&self, error: Error) -> Error {
        let state = self
            .status()
            .and_then(|status| status.require(Need::Space, &self.name()));
        match state {
            Err(state) => state.caused_by(error),
            Ok(()) => error,
        }
    }

    fn mount_active(&self, device: &Path, mode: Mode) -> Result<(PathBuf, std::os::fd::OwnedFd)> {
        let number = MOUNTS.fetch_add(1, Ordering::Relaxed);
        let target = self.inner.mounts.join(format!("{}-{number}", std::process::id()));
        std::fs::create_dir_all(&target).context("make", &target)?;
        let mounted = ext4::mount(device, &target, mode).and_then(|()| {
            let dir = open_dir(&target);
            if dir.is_err() {
                // The mount would keep the device for ever.
                let _ = ext4::unmount(&target);
            }
            dir
        });
        match mounted {
            Ok(dir) => Ok((target, dir)),
            Err(error) => {
                let _ = std::fs::remove_dir(&target);
                Err(error)
            }
        }
    }

    /// `e2fsck` makes a folder for what it finds; an empty one is not the container's.
    fn remove_lost_and_found(&self, device: &Path) -> Result<()> {
        let (target, dir) = self.mount_active(device, Mode::ReadWrite)?;
        let _ = std::fs::remove_dir(target.join("lost+found"));
        drop(dir);
        unmount(&target)
    }

    /// Mounts a claimed volume for writing, does something in it, unmounts.
    fn visit(&self, claim: &Claim, visit: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.with_device(claim, Content::Active, |device| {
            let (target, dir) = self.mount_active(device, Mode::ReadWrite)?;
            let visited = visit(&target).and_then(|()| rustix::fs::syncfs(&dir).context("sync", &target));
            drop(dir);
            both(visited, unmount(&target))
        })
    }
}

fn unmount(target: &Path) -> Result<()> {
    ext4::unmount(target)?;
    step(|| format!("rmdir {}", quote(target)));
    std::fs::remove_dir(target).context("remove", target)
}

fn open_dir(target: &Path) -> Result<std::os::fd::OwnedFd> {
    rustix::fs::open(
        target,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        FileMode::empty(),
    )
    .context("open", target)
}

impl Volumes for KernelPool {
    fn format(&self, id: ThinId) -> Result<()> {
        let claim = self.claim(id)?;
        self.with_device(&claim, Content::Active, ext4::format)?;
        self.visit(&claim, ext4::empty)?;
        self.seal(&claim, false)
    }

    fn mount(&self, id: ThinId, content: Content, mode: Mode) -> Result<VolumeMount> {
        let (device, lock) = self.activate(id, content, mode)?;
        let pool = self.clone();
        let deactivate = Guard::new(format!("give back the volume {id}"), move || {
            pool.release(id, content, &lock)
        });
        let mounted = self
            .note_writer(id, &device, mode)
            .and_then(|()| self.mount_active(&device, mode))
            .and_then(|(path, dir)| Ok((path, dir.try_clone().context("open", &device)?, dir)));
        let (path, dir, watch) = match mounted {
            Ok(mounted) => mounted,
            Err(error) => {
                return both(Err(error), deactivate.close());
            }
        };
        let (target, writers) = (path.clone(), self.clone());
        let undo = Guard::new(format!("unmount {}", path.display()), move || {
            // This descriptor was opened before the first write: it hears of every failed one.
            let synced = match mode {
                Mode::ReadWrite => rustix::fs::syncfs(&watch).context("sync", &target),
                Mode::ReadOnly => Ok(()),
            };
            drop(watch);
            let ended = both(synced, unmount(&target)).map_err(|error| writers.cause_of(error));
            both(writers.note_end(id, mode, ended), deactivate.close())
        });
        Ok(VolumeMount { path, dir, undo })
    }

    fn open(&self, id: ThinId, content: Content) -> Result<Option<OpenVolume>> {
        let (device, lock) = self.activate(id, content, Mode::ReadOnly)?;
        let pool = self.clone();
        let undo = Guard::new(format!("give back the volume {id}"), move || {
            pool.release(id, content, &lock)
        });
        let store = match content {
            Content::Store { .. } => {
                let device = node_of(self.control(), &self.inner.names.thin(id))?;
                Some((device, store_sectors(self.sectors()) * 512))
            }
            Content::Layer | Content::Active => None,
        };
        Ok(Some(OpenVolume {
            device,
            store,
            size: self.sectors() * 512,
            undo,
        }))
    }

    fn device(&self, id: ThinId) -> Result<Option<VolumeDevice>> {
        let mode = Mode::ReadWrite;
        let content = Content::Active;
        let (path, lock) = self.activate(id, content, mode)?;
        let pool = self.clone();
        let deactivate = Guard::new(format!("give back the volume {id}"), move || {
            pool.release(id, content, &lock)
        });
        let opened = self.note_writer(id, &path, mode).and_then(|()| {
            let file = File::options().read(true).write(true).open(&path);
            let file = file.context("open", &path)?;
            Ok((file.try_clone().context("open", &path)?, file))
        });
        let (file, watch) = match opened {
            Ok(opened) => opened,
            Err(error) => return both(Err(error), deactivate.close()),
        };
        let (device, writers) = (path.clone(), self.clone());
        let undo = Guard::new(format!("close {}", path.display()), move || {
            // This descriptor was opened before the first write: it hears of every failed one.
            let ended = watch.sync_all().context("sync", &device);
            drop(watch);
            let ended = ended.map_err(|error| writers.cause_of(error));
            both(writers.note_end(id, mode, ended), deactivate.close())
        });
        Ok(Some(VolumeDevice { path, file, undo }))
    }

    fn mount_at(&self, id: ThinId, content: Content, target: &Path) -> Result<()> {
        let (device, lock) = self.activate(id, content, Mode::ReadOnly)?;
        match ext4::mount(&device, target, Mode::ReadOnly) {
            // The mount itself holds the device from here on.
            Ok(()) => Ok(()),
            Err(error) => both(Err(error), self.release(id, content, &lock)),
        }
    }

    fn unmount_at(&self, id: ThinId, target: &Path) -> Result<()> {
        if self.is_mounted_visibly(id)? {
            ext4::unmount(target)?;
        }
        let gate = self.inner.locks.gate()?;
        match self.inner.locks.take(&gate, id, false) {
            Ok(_alone) => self.remove_if_closed(&gate, &self.devices_of(id)?),
            Err(error) if error.kind() == Kind::InUse => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn fold(&self, store: &Claim, target: &Claim, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let gone = [store.id(), target.id()].map(|id| self.inner.locks.last_writer(id));
        for ended in gone {
            if ended? == Ended::Failed {
                return Err(lost(store.id()));
            }
        }
        self.merge(store.id(), target.id(), progress)
            .map_err(|error| self.cause_of(error))
    }

    fn store_status(&self, store: ThinId) -> Result<Option<Status>> {
        self.status_of_store(store)
    }

    fn quiesce(&self, id: ThinId) -> Result<Guard<'_>> {
        // The gate stays shut meanwhile: its last user would remove a device that is to be resumed, and a
        // sweep would resume one that is to be quiet.
        let gate = self.inner.locks.gate()?;
        // A snapshot before its store: what it holds back would never arrive.
        let mut suspended = Vec::new();
        for (name, _) in self.devices_over(id)? {
            suspended.push(self.control().suspend(&name)?);
        }
        Ok(Guard::new(format!("resume volume {id}"), move || {
            let resumed = suspended.into_iter().rev().map(Suspended::resume);
            let resumed = resumed.fold(Ok(()), both);
            drop(gate);
            resumed
        }))
    }

    fn claim(&self, id: ThinId) -> Result<Claim> {
        let gate = self.inner.locks.gate()?;
        match self.inner.locks.take(&gate, id, false)? {
            Taken::Alone(lock) | Taken::Shared(lock) => {
                self.remove_unused(id, Mode::ReadWrite)?;
                Ok(Claim::new(id, Some(lock)))
            }
        }
    }

    fn forget(&self, id: ThinId) -> Result<()> {
        self.inner.locks.forget(&self.inner.locks.gate()?, id)
    }

    fn forget_others(&self, kept: &BTreeSet<u32>) -> Result<()> {
        self.inner.locks.forget_others(&self.inner.locks.gate()?, kept)
    }

    fn seal(&self, claim: &Claim, is_clean: bool) -> Result<()> {
        let id = claim.id();
        let ended = self.inner.locks.last_writer(id)?;
        let mut health = Health::Clean;
        if !is_clean {
            self.with_device(claim, Content::Active, |device| {
                health = ext4::health(device)?;
                Ok(())
            })?;
        }
        match (health, ended) {
            (_, Ended::Failed) | (Health::Errors, _) | (Health::NeedsRecovery, Ended::Killed) => Err(lost(id)),
            (Health::Clean, _) => self.inner.locks.forget_writer(id),
            (Health::NeedsRecovery, _) => {
                // The machine went down: mounting replays the journal.
                self.visit(claim, |_| Ok(()))?;
                self.inner.locks.forget_writer(id)
            }
        }
    }

    fn has_lost_writes(&self, id: ThinId) -> Result<bool> {
        Ok(self.inner.locks.last_writer(id)? == Ended::Failed)
    }

    fn discard(&self, claim: &Claim) -> Result<()> {
        // A store is larger than a volume; what is past a volume's end has no blocks.
        let content = Content::Store { origin: claim.id() };
        let size = store_sectors(self.sectors()) * 512;
        let discarded = self.with_thin(claim, content, |device| {
            step(|| format!("blkdiscard {}", quote(device)));
            let file = File::options().write(true).open(device).context("open", device)?;
            crate::sys::block::discard(file.as_fd(), 0, size).context("discard", device)
        });
        match discarded {
            Err(error) if error.kind() != Kind::NotFound => Err(error),
            _ => self.inner.locks.forget_writer(claim.id()),
        }
    }

    fn mapped(&self, id: ThinId) -> Result<u64> {
        let held = self.hold()?;
        let bytes = held.metadata().and_then(|metadata| {
            let details = metadata.details_of(id.get())?;
            Ok(details.map(|details| details.mapped_blocks.saturating_mul(metadata.block_size())))
        });
        both(bytes, held.close())?.ok_or_else(|| Error::not_found(format!("the pool has no volume {id}")))
    }

    fn describe(&self, id: ThinId, content: Content) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        if let Content::Store { origin } = content {
            let snapshot = self.inner.names.of(name::Kind::Cow, id);
            parts.push(self.describe_device(&snapshot)?);
            parts.push(Part::new("origin", format!("thin {origin}")));
        }
        parts.push(Part::new("thin", id.to_string()));
        parts.push(self.describe_device(&self.inner.names.thin(id))?);
        parts.push(Part::new("pool", self.name()).with(self.control().table(&self.name())?.to_string()));
        parts.extend(self.inner.underlay.describe()?);
        Ok(parts)
    }

    fn sweep(&self) -> Result<Vec<String>> {
        let mut done = Vec::new();
        let gate = self.inner.locks.gate()?;
        for id in self.ids_in_kernel()? {
            let devices = self.devices_of(id)?;
            for (name, _) in devices.iter().rev().filter(|(_, info)| info.suspended) {
                self.control().resume(name)?;
                done.push(format!(
                    "resumed the device {name}, which a killed command left suspended"
                ));
            }
            if let Some((name, info)) = devices.first()
                && info.open_count == 0
                && self.inner.locks.take(&gate, id, false).is_ok()
            {
                self.remove_devices(id)?;
                done.push(format!("removed the device {name}, which nobody uses"));
            }
        }
        drop(gate);
        self.sweep_mount_points()?;
        Ok(done)
    }

    fn check_filesystem(&self, claim: &Claim, content: Content, fix: bool) -> Result<Checked> {
        let mut found = Checked::Clean;
        self.with_device(claim, content, |device| {
            found = ext4::check(device, fix)?;
            match found {
                Checked::Fixed(_) => self.remove_lost_and_found(device),
                Checked::Clean | Checked::Damaged(_) => Ok(()),
            }
        })?;
        Ok(found)
    }

    fn revive(&self, store: &Claim, content: Content) -> Result<bool> {
        let mut revived = false;
        self.with_thin(store, content, |device| {
            if salvage::is_given_up(device)? {
                self.ensure_room()?;
                salvage::revive(device)?;
                revived = true;
            }
            Ok(())
        })?;
        Ok(revived)
    }

    fn distrust(&self, claim: &Claim) -> Result<()> {
        self.inner.locks.writing_failed(claim.id())
    }

    fn forgive(&self, claim: &Claim) -> Result<()> {
        self.inner.locks.forget_writer(claim.id())
    }

    fn ensure_room(&self) -> Result<()> {
        self.inner.underlay.ensure_room(self)
    }

    fn gauge(&self) -> Option<Box<dyn Gauge>> {
        Some(Box::new(self.clone()))
    }

    fn ids(&self) -> Result<Vec<ThinId>> {
        let held = self.hold()?;
        held.explain("thin_ls --no-headers --format DEV");
        let volumes = held.metadata().and_then(|metadata| metadata.volumes());
        let volumes = both(volumes, held.close())?.into_iter();
        Ok(volumes.filter_map(|(id, _)| ThinId::new(id)).collect())
    }

    fn hold_metadata(&self) -> Result<Option<Held<'_>>> {
        self.hold().map(Some)
    }
}

impl KernelPool {
    /// The names of this pool's volumes that are in the kernel now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn active_volumes(&self) -> Result<Vec<String>> {
        let names = self.control().list()?.into_iter();
        Ok(names.filter(|name| self.inner.names.parse(name).is_some()).collect())
    }

    /// A claimed volume's own device, for as long as `work` takes.
    fn with_thin(&self, claim: &Claim, content: Content, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let worked = work(&self.make_thin(claim.id(), content)?);
        both(worked, self.remove_devices(claim.id()))
    }

    fn describe_device(&self, name: &str) -> Result<Part> {
        let device = Part::new("dm", name);
        Ok(match self.control().info(name)? {
            Some(_) => device.with(self.control().table(name)?.to_string()),
            None => device.with("not active"),
        })
    }

    /// Removes the mount points of processes that are gone.
    fn sweep_mount_points(&self) -> Result<()> {
        let folder = &self.inner.mounts;
        for entry in std::fs::read_dir(folder).context("list", folder)?.flatten() {
            let name = entry.file_name();
            let Some((pid, _)) = name.to_str().and_then(|name| name.split_once('-')) else {
                continue;
            };
            if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
                // Never with what is in it: an empty folder goes, anything else stays.
                let _ = std::fs::remove_dir(entry.path());
            }
        }
        Ok(())
    }
}
