//! `/dev/mapper/control`: one method per ioctl, and no udev.
//!
//! The `devicemapper` crate makes the calls that it makes well (create, load,
//! status, message, list); resume and remove are [`crate::sys::device_mapper`]'s,
//! because the crate would wait for udevd there. Nodes in `/dev/mapper` are made
//! and removed here, as libdevmapper does where there is no udev, so that
//! plywood works, and `--explain` reads, the same with it and without.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use devicemapper::{DM, DevId, DmError, DmFlags, DmName, DmOptions, DmUuid, errors};
use rustix::fs::{FileType, Mode};

use crate::dm::name::node;
use crate::dm::table::Table;
use crate::error::{Context, Error, Kind, Result, undone};
use crate::explain::{quote, step};
use crate::sys::device_mapper::{Change, change};

/// How long a device that is still held is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Device-mapper.
pub struct Control {
    dm: DM,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

/// A device that is in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The kernel's major number.
    pub major: u32,
    /// The kernel's minor number.
    pub minor: u32,
    /// How many have it open: mounts, other devices, processes.
    pub open_count: i32,
    /// Whether its I/O is held back.
    pub suspended: bool,
    /// Whether it was ever started: a command that is killed while it makes a device leaves one without a table.
    pub has_table: bool,
    /// Its uuid.
    pub uuid: Option<String>,
}

impl Control {
    /// Device-mapper of this kernel.
    ///
    /// # Errors
    /// Where the kernel has none.
    pub fn open() -> Result<Self> {
        let dm = DM::new().map_err(|error| {
            Error::new(
                Kind::Io,
                "this kernel has no device-mapper: /dev/mapper/control cannot be opened",
            )
            .caused_by(error)
            .hinted("modprobe dm-thin-pool, or take the overlay driver: --driver overlay; plywood doctor says more")
        })?;
        Ok(Self { dm })
    }

    /// Makes a device with this table, running, with its node.
    ///
    /// # Errors
    /// The kernel's; then there is no such device.
    pub fn create(&self, name: &str, uuid: &str, table: &Table, read_only: bool) -> Result<()> {
        step(|| {
            let ro = if read_only { " --readonly" } else { "" };
            format!(
                "dmsetup create {} --uuid {}{ro} --table {}",
                quote(name),
                quote(uuid),
                quote(table.to_string())
            )
        });
        self.create_unexplained(name, uuid, table, read_only)
    }

    /// The same for a caller that has shown the step in its own words.
    ///
    /// # Errors
    /// As for [`Control::create`].
    pub fn create_unexplained(&self, name: &str, uuid: &str, table: &Table, read_only: bool) -> Result<()> {
        let id = named(name)?;
        let tag = DmUuid::new(uuid).map_err(|error| refused("name", name, error))?;
        tracing::debug!(name, %table, "creating a device");
        let made = self.dm.device_create(id, Some(tag), options(DmFlags::empty()));
        let device = made.map_err(|error| refused("create", name, error))?.device();
        self.start(name, table, read_only)
            .and_then(|()| make_node_of(name, device.major, device.minor))
            .map_err(|error| undone(error, self.remove_quietly(name)))
    }

    fn start(&self, name: &str, table: &Table, read_only: bool) -> Result<()> {
        self.load_quietly(name, table, read_only)?;
        self.change(name, Change::Resume).context("resume the device", name)
    }

    fn load_quietly(&self, name: &str, table: &Table, read_only: bool) -> Result<()> {
        let line = (
            table.start,
            table.sectors,
            table.target.kind().to_owned(),
            table.target.parameters(),
        );
        let flags = if read_only {
            DmFlags::DM_READONLY
        } else {
            DmFlags::empty()
        };
        self.dm
            .table_load(&DevId::Name(named(name)?), &[line], options(flags))
            .map_err(|error| refused("load a table into", name, error))?;
        Ok(())
    }

    /// Gives a device another table, which counts from its next resume on.
    ///
    /// # Errors
    /// The kernel's; the old table stays then.
    pub fn load(&self, name: &str, table: &Table) -> Result<()> {
        step(|| format!("dmsetup reload {} --table {}", quote(name), quote(table.to_string())));
        self.load_quietly(name, table, false)
    }

    /// Puts another table under a device that may be in use.
    ///
    /// # Errors
    /// As for [`Control::load`].
    pub fn reload(&self, name: &str, table: &Table) -> Result<()> {
        self.load(name, table)?;
        self.suspend(name)?.resume()
    }

    /// Holds a device's I/O back, flushed and its filesystem frozen, until the guard resumes it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn suspend(&self, name: &str) -> Result<Suspended<'_>> {
        step(|| format!("dmsetup suspend {}", quote(name)));
        self.change(name, Change::Suspend).context("suspend the device", name)?;
        Ok(Suspended {
            control: self,
            name: name.to_owned(),
            resumed: false,
        })
    }

    /// Lets a device's I/O through.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resume(&self, name: &str) -> Result<()> {
        step(|| format!("dmsetup resume {}", quote(name)));
        self.change(name, Change::Resume).context("resume the device", name)
    }

    /// Removes a device and its node; waits a little while somebody still holds it. Not there: a success.
    ///
    /// # Errors
    /// In use, naming who has it mounted.
    pub fn remove(&self, name: &str) -> Result<()> {
        step(|| format!("dmsetup remove {}", quote(name)));
        tracing::debug!(name, "removing a device");
        self.remove_quietly(name)
    }

    fn remove_quietly(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(5);
        loop {
            match self.change(name, Change::Remove) {
                Ok(()) => break,
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) => break,
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(200));
                }
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Err(self.held(name, error)),
                Err(error) => return Err(Error::io("remove the device", name, error)),
            }
        }
        match std::fs::remove_file(node(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", node(name), error)),
            _ => Ok(()),
        }
    }

    fn held(&self, name: &str, error: std::io::Error) -> Error {
        let holders = match self.info(name) {
            Ok(Some(info)) => holders(info.major, info.minor),
            _ => Vec::new(),
        };
        let by = match holders.as_slice() {
            [] => "somebody has it open".to_owned(),
            some => format!("mounted by {}", some.join(", ")),
        };
        Error::new(Kind::InUse, format!("the device {name} cannot be removed: {by}"))
            .caused_by(error)
            .hinted("when that has ended, plywood gc removes the device")
    }

    fn change(&self, name: &str, what: Change) -> std::io::Result<()> {
        change(self.dm.file().as_fd(), name, what)
    }

    /// A device's state, or none where there is no such device.
    ///
    /// # Errors
    /// The kernel's.
    pub fn info(&self, name: &str) -> Result<Option<Info>> {
        match self.dm.device_info(&DevId::Name(named(name)?)) {
            Ok(info) => {
                let device = info.device();
                Ok(Some(Info {
                    major: device.major,
                    minor: device.minor,
                    open_count: info.open_count(),
                    suspended: info.flags().contains(DmFlags::DM_SUSPEND),
                    has_table: info.flags().contains(DmFlags::DM_ACTIVE_PRESENT),
                    uuid: info.uuid().map(ToString::to_string),
                }))
            }
            Err(error) if errno(&error) == Some(libc::ENXIO) => Ok(None),
            Err(error) => Err(refused("ask for", name, error)),
        }
    }

    /// The status words of a device's one target. The kernel commits metadata before it answers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn status(&self, name: &str) -> Result<String> {
        Ok(self.first_line(name, DmFlags::empty())?.3)
    }

    /// The same as it is now: nothing is committed for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn glance(&self, name: &str) -> Result<String> {
        Ok(self.first_line(name, DmFlags::DM_NOFLUSH)?.3)
    }

    /// A device's table, as the kernel tells it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn table(&self, name: &str) -> Result<Table> {
        let (start, sectors, kind, parameters) = self.first_line(name, DmFlags::DM_STATUS_TABLE)?;
        format!("{start} {sectors} {kind} {parameters}").parse()
    }

    fn first_line(&self, name: &str, flags: DmFlags) -> Result<(u64, u64, String, String)> {
        let (_, lines) = self
            .dm
            .table_status(&DevId::Name(named(name)?), options(flags))
            .map_err(|error| refused("ask for the status of", name, error))?;
        lines
            .into_iter()
            .next()
            .ok_or_else(|| Error::corrupt(format!("the device {name} has no table")))
    }

    /// Sends a message to a device's target.
    ///
    /// # Errors
    /// The kernel's errno. A success proves nothing by itself.
    pub fn message(&self, name: &str, text: &str) -> std::result::Result<(), MessageError> {
        step(|| format!("dmsetup message {} 0 {}", quote(name), quote(text)));
        tracing::debug!(name, text, "sending a message");
        let id = named(name).map_err(MessageError::other)?;
        match self.dm.target_msg(&DevId::Name(id), None, text) {
            Ok(_) => Ok(()),
            Err(error) => Err(MessageError {
                errno: errno(&error),
                error: refused(&format!("send {text:?} to"), name, error),
            }),
        }
    }

    /// The names of all devices in the kernel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn list(&self) -> Result<Vec<String>> {
        let devices = self
            .dm
            .list_devices()
            .map_err(|error| refused("list", "devices", error))?;
        Ok(devices.into_iter().map(|(name, _, _)| name.to_string()).collect())
    }

    /// The node of a device, made where it is missing or another's.
    ///
    /// # Errors
    /// Where there is no such device, or the node cannot be made.
    pub fn make_node(&self, name: &str) -> Result<()> {
        let info = self
            .info(name)?
            .ok_or_else(|| Error::not_found(format!("there is no device {name}")))?;
        make_node_of(name, info.major, info.minor)
    }
}

/// Makes the node of the device that has this number.
fn make_node_of(name: &str, major: u32, minor: u32) -> Result<()> {
    let path = node(name);
    let number = rustix::fs::makedev(major, minor);
    match std::fs::metadata(&path) {
        Ok(found) if found.file_type().is_block_device() && found.rdev() == number => return Ok(()),
        Ok(_) => std::fs::remove_file(&path).context("remove", &path)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // A link into nothing is in the way just as well.
            let _ = std::fs::remove_file(&path);
        }
        Err(error) => return Err(Error::io("look at", &path, error)),
    }
    match rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        FileType::BlockDevice,
        Mode::from_raw_mode(0o600),
        number,
    ) {
        Err(rustix::io::Errno::EXIST) | Ok(()) => Ok(()),
        Err(error) => Err(Error::io("make", &path, error)),
    }
}

/// A message that the kernel refused.
#[derive(Debug)]
pub struct MessageError {
    /// The kernel's number, where it was the kernel.
    pub errno: Option<i32>,
    /// The failure.
    pub error: Error,
}

impl MessageError {
    fn other(error: Error) -> Self {
        Self { errno: None, error }
    }
}

/// A suspended device. [`Suspended::resume`] reports; dropping it resumes and only logs.
#[derive(Debug)]
#[must_use = "a suspended device holds everybody up"]
pub struct Suspended<'a> {
    control: &'a Control,
    name: String,
    resumed: bool,
}

impl Suspended<'_> {
    /// Lets the I/O through.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resume(mut self) -> Result<()> {
        self.resumed = true;
        self.control.resume(&self.name)
    }
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        if !self.resumed
            && let Err(error) = self.control.resume(&self.name)
        {
            tracing::warn!("{error}: it stays suspended; dmsetup resume {}", self.name);
        }
    }
}

/// The path of a node that exists for sure.
///
/// # Errors
/// As for [`Control::make_node`].
pub fn node_of(control: &Control, name: &str) -> Result<PathBuf> {
    control.make_node(name)?;
    Ok(node(name))
}

/// No cookie, and udev's rules kept off.
fn options(flags: DmFlags) -> DmOptions {
    DmOptions::private().set_flags(flags)
}

fn named(name: &str) -> Result<&DmName> {
    DmName::new(name).map_err(|error| refused("name", name, error))
}

fn errno(error: &DmError) -> Option<i32> {
    match error {
        DmError::Core(errors::Error::Ioctl(_, _, _, errno)) => Some(**errno as i32),
        _ => None,
    }
}

/// The crate's error as ours: the kernel's number says more than its dump of both headers.
fn refused(verb: &str, name: &str, error: DmError) -> Error {
    match errno(&error) {
        Some(code) => Error::io(verb, format!("device {name}"), std::io::Error::from_raw_os_error(code)),
        None => Error::new(Kind::Io, format!("cannot {verb} device {name}")).caused_by(error),
    }
}

/// The processes in whose mount namespace the device is mounted, one for each namespace.
fn holders(major: u32, minor: u32) -> Vec<String> {
    let wanted = format!("{major}:{minor}");
    let mut namespaces = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return found;
    };
    for process in processes.flatten() {
        let folder = process.path();
        let Some(pid) = folder
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        let Ok(mounts) = std::fs::read_to_string(folder.join("mountinfo")) else {
            continue;
        };
        let Some(line) = mounts
            .lines()
            .find(|line| line.split(' ').nth(2) == Some(wanted.as_str()))
        else {
            continue;
        };
        let Ok(namespace) = std::fs::read_link(folder.join("ns/mnt")) else {
            continue;
        };
        if namespaces.insert(namespace) {
            let comm = std::fs::read_to_string(folder.join("comm")).unwrap_or_default();
            let point = line.split(' ').nth(4).unwrap_or("?");
            found.push(format!("process {pid} ({}) on {point}", comm.trim()));
        }
    }
    found
}
