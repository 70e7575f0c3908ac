//! A volume's devices in the kernel: the volume itself; over a store also its
//! origin and the classic snapshot; under a merge the device that does it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::dm::classic::{Device, Snapshot, Status, store_sectors};
use crate::dm::control::{Control, Info, node_of};
use crate::dm::kernel::KernelPool;
use crate::dm::locks::Gate;
use crate::dm::name::{Kind as Part, Names, node};
use crate::dm::pool::{ThinId, ThinPool};
use crate::dm::room::{Gauge, is_watched};
use crate::dm::table::{Table, Target};
use crate::dm::volume::{Claim, Content, Mode};
use crate::error::{Context, Error, Kind, Result, both};

impl KernelPool {
    /// The device that shows what a volume holds, made where it is not there.
    pub(super) fn make_device(&self, id: ThinId, content: Content) -> Result<PathBuf> {
        let thin = self.make_thin(id, content)?;
        let Content::Store { origin } = content else {
            return Ok(thin);
        };
        let base = self.device(Part::Base, id);
        // Another activation than the one that is mounted: the kernel lets no snapshot sit on that.
        self.make(&base, &self.thin_table(origin, self.sectors()), true)
            .map_err(|error| self.missing(origin, error))?;
        let snapshot = Snapshot {
            top: self.device(Part::Cow, id),
            real: node(&base.name),
            base,
            store: thin,
            sectors: self.sectors(),
        };
        match self.control().info(&snapshot.top.name)? {
            None => snapshot.attach_top(self.control())?,
            Some(info) if info.suspended => self.control().resume(&snapshot.top.name)?,
            Some(_) => {}
        }
        node_of(self.control(), &snapshot.top.name)
    }

    /// The volume's own device.
    pub(super) fn make_thin(&self, id: ThinId, content: Content) -> Result<PathBuf> {
        let sectors = match content {
            Content::Layer | Content::Active => self.sectors(),
            Content::Store { .. } => store_sectors(self.sectors()),
        };
        let table = self.thin_table(id, sectors);
        self.make(&self.device(Part::Thin, id), &table, content == Content::Layer)
            .map_err(|error| self.missing(id, error))
    }

    fn make(&self, device: &Device, table: &Table, read_only: bool) -> Result<PathBuf> {
        match self.control().info(&device.name)? {
            // With its node.
            None => {
                self.control().create(&device.name, &device.uuid, table, read_only)?;
                return Ok(node(&device.name));
            }
            // Who made it quiet did so inside the gate, and was killed there.
            Some(info) if info.suspended => self.control().resume(&device.name)?,
            Some(_) => {}
        }
        node_of(self.control(), &device.name)
    }

    /// The kernel says ENODATA where the pool has no such volume, and EINVAL also where it has failed.
    fn missing(&self, id: ThinId, error: Error) -> Error {
        let status = self.status();
        if let Some(Err(failed)) = status.ok().map(|status| status.require_known(&self.name())) {
            return failed.caused_by(error);
        }
        let code = std::error::Error::source(&error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .and_then(std::io::Error::raw_os_error);
        match code {
            Some(libc::ENODATA | libc::EINVAL) => {
                Error::not_found(format!("the pool {} has no volume {id}", self.name()))
                    .caused_by(error)
                    .hinted("somebody deleted it, or the pool is an older one: plywood pool repair brings layers back, and tells what is lost")
            }
            _ => error,
        }
    }

    /// The merge of a store into a volume, both claimed; their devices are gone afterwards.
    pub(super) fn merge(&self, store: ThinId, target: ThinId, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let snapshot = Snapshot {
            top: self.device(Part::Cow, store),
            base: self.device(Part::Merge, target),
            real: self.make_thin(target, Content::Active)?,
            store: self.make_thin(store, Content::Store { origin: target })?,
            sectors: self.sectors(),
        };
        let merged = snapshot.merge(self.control(), &mut |left, all| {
            progress(left, all);
            match is_watched() {
                true => self.keep_room(),
                false => Ok(()),
            }
        });
        let removed = both(self.remove_devices(target), self.remove_devices(store));
        both(merged, removed)
    }

    /// Refuses to go on in a pool that is nearly full and cannot grow.
    fn keep_room(&self) -> Result<()> {
        let Err(error) = self.look()?.require(0) else {
            return Ok(());
        };
        match self.make_room(0) {
            Ok(()) => self.look()?.require(0),
            Err(cause) => Err(error.caused_by(cause)),
        }
    }

    /// What the kernel says of a store that is active, or of a merge into this volume.
    pub(super) fn status_of_store(&self, id: ThinId) -> Result<Option<Status>> {
        status_of_store(self.control(), &self.inner.names, id)
    }

    fn device(&self, part: Part, id: ThinId) -> Device {
        Device {
            name: self.inner.names.of(part, id),
            uuid: self.inner.names.uuid_of(part, id),
        }
    }

    /// A table for a volume of so many sectors.
    fn thin_table(&self, id: ThinId, sectors: u64) -> Table {
        let pool = node(&self.name()).display().to_string();
        Table {
            start: 0,
            sectors,
            target: Target::Thin { pool, id },
        }
    }

    /// What of a volume is in the kernel, the uppermost first.
    pub(super) fn devices_of(&self, id: ThinId) -> Result<Vec<(String, Info)>> {
        self.parts_of(id, &Part::ALL)
    }

    /// The same while the volume's own device is there, which is made first and removed last; else nothing. What
    /// somebody has left over it by removing that by hand is [`KernelPool::devices_of`]'s to find.
    pub(super) fn devices_over(&self, id: ThinId) -> Result<Vec<(String, Info)>> {
        let name = self.inner.names.thin(id);
        let Some(info) = self.control().info(&name)? else {
            return Ok(Vec::new());
        };
        let mut found = self.parts_of(id, &[Part::Merge, Part::Cow, Part::Base])?;
        found.push((name, info));
        Ok(found)
    }

    fn parts_of(&self, id: ThinId, parts: &[Part]) -> Result<Vec<(String, Info)>> {
        let mut found = Vec::new();
        for part in parts {
            let name = self.inner.names.of(*part, id);
            if let Some(info) = self.control().info(&name)? {
                found.push((name, info));
            }
        }
        Ok(found)
    }

    /// The volumes that have a device in the kernel.
    pub(super) fn ids_in_kernel(&self) -> Result<BTreeSet<ThinId>> {
        let names = self.control().list()?.into_iter();
        Ok(names
            .filter_map(|name| Some(self.inner.names.parse(&name)?.1))
            .collect())
    }

    /// Removes all devices of a volume.
    pub(super) fn remove_devices(&self, id: ThinId) -> Result<()> {
        self.remove_found(&self.devices_of(id)?)
    }

    fn remove_found(&self, devices: &[(String, Info)]) -> Result<()> {
        devices.iter().try_for_each(|(name, _)| self.control().remove(name))
    }

    /// What [`KernelPool::make_device`] makes of a volume that nobody else has.
    pub(super) fn made_for(&self, id: ThinId, content: Content) -> Result<Vec<(String, Info)>> {
        match content {
            Content::Layer | Content::Active => self.parts_of(id, &[Part::Thin]),
            Content::Store { .. } => self.devices_of(id),
        }
    }

    /// Removes devices that no lock holder uses, so that they are made afresh as they have to be.
    /// One that is mounted in the host's tree may be read beside, never written or deleted.
    pub(super) fn remove_unused(&self, id: ThinId, mode: Mode) -> Result<()> {
        let devices = self.devices_over(id)?;
        match devices.first() {
            None => Ok(()),
            Some((_, info)) if info.open_count == 0 => self.remove_found(&devices),
            Some(_) if mode == Mode::ReadOnly => Ok(()),
            Some(_) => Err(Error::new(Kind::InUse, format!("the volume {id} is mounted elsewhere"))
                .hinted("plywood umount undoes what plywood mount did")),
        }
    }

    /// Removes these devices of a volume that nobody has locked any more, but for one that somebody has open.
    pub(super) fn remove_if_closed(&self, _gate: &Gate, devices: &[(String, Info)]) -> Result<()> {
        match devices.first() {
            // Another namespace may let go a moment later than we do.
            Some((_, info)) if info.open_count == 0 || !is_mounted_visibly(info)? => self.remove_found(devices),
            _ => Ok(()),
        }
    }

    /// Whether this process sees a mount of the volume.
    pub(super) fn is_mounted_visibly(&self, id: ThinId) -> Result<bool> {
        match self.devices_of(id)?.first() {
            Some((_, info)) => is_mounted_visibly(info),
            None => Ok(false),
        }
    }

    /// A claimed volume's device, for as long as `work` takes.
    pub(super) fn with_device(
        &self,
        claim: &Claim,
        content: Content,
        work: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let worked = work(&self.make_device(claim.id(), content)?);
        let made = self.made_for(claim.id(), content);
        both(worked, made.and_then(|made| self.remove_found(&made)))
    }
}

/// What the kernel says of the store in this volume, or of a merge into it; none where neither is in use.
pub(super) fn status_of_store(control: &Control, names: &Names, id: ThinId) -> Result<Option<Status>> {
    for name in [Part::Cow, Part::Merge].map(|part| names.of(part, id)) {
        if control.info(&name)?.is_none() {
            continue;
        }
        return match control.status(&name) {
            Ok(line) => line.parse().map(Some),
            // It has just gone.
            Err(_) if control.info(&name)?.is_none() => Ok(None),
            Err(error) => Err(error),
        };
    }
    Ok(None)
}

/// Whether this process sees a mount of the device.
fn is_mounted_visibly(info: &Info) -> Result<bool> {
    let number = format!("{}:{}", info.major, info.minor);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read", "/proc/self/mountinfo")?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some(number.as_str())))
}
