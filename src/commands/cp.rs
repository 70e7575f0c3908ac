//! `plywood cp`: files and folders into a container and out of it, running or not.
//!
//! Nothing of the image is executed, and no path of it is resolved as a string: the
//! container's root is a handle, its names are looked up below that handle, and what
//! is copied goes as a layer's tar from one handle to the other, with owners, modes
//! and times.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use plywood_store::layer::Limits;
use plywood_store::layer::apply::apply;
use plywood_store::layer::diff::{Everything, Options, write_layer};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::cli::CpArgs;
use crate::commands::live::{self, Live};
use crate::commands::{Session, container, hold, random_key};
use crate::error::{Context, Error, Result, both};
use crate::exec::ids::as_root_of;
use crate::explain;
use crate::failure::{Failure, OK, Outcome};
use crate::snapshot::Access;
use crate::sys::openat2;

/// Standard input or output, as a tar.
const STREAM: &str = "-";

/// Where something is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// On the host; relative to where plywood was called.
    Host(PathBuf),
    /// In a container, relative to its root.
    Container(String, PathBuf),
    /// A tar on standard input or output.
    Stream,
}

/// Copies.
///
/// # Errors
/// What is not there; a target whose folder is not; a container that `commit` or another command works on.
pub fn run(args: &CpArgs, session: &Session) -> Outcome {
    match (place(&args.source), place(&args.target)) {
        (Place::Container(name, from), Place::Host(to)) => with_root(session, &name, Access::ReadOnly, |root| {
            let (mut source, target) = (Source::find(root, &from)?, Target::find(&Root::Host, &to)?);
            match root.has_other_users() {
                true => carry(&mut source, root, &target, &Root::Host, session),
                false => copy(&mut source, &target, session),
            }
        }),
        (Place::Container(name, from), Place::Stream) => with_root(session, &name, Access::ReadOnly, |root| {
            let mut source = Source::find(root, &from)?;
            root.in_its_users(|| {
                let mut out = std::io::stdout().lock();
                source.write(&mut out)?;
                // A process that ends for another one writes nothing at its end.
                out.flush().context("write", STREAM)
            })
        }),
        (Place::Host(from), Place::Container(name, to)) => {
            let mut source = Source::find(&Root::Host, &from)?;
            with_root(session, &name, Access::ReadWrite, |root| {
                let target = Target::find(root, &to)?;
                match root.has_other_users() {
                    true => carry(&mut source, &Root::Host, &target, root, session),
                    false => copy(&mut source, &target, session),
                }
            })
        }
        (Place::Stream, Place::Container(name, to)) => with_root(session, &name, Access::ReadWrite, |root| {
            let folder = root.folder(&to).context("open the container's folder", &to)?;
            root.in_its_users(|| unpack(&mut std::io::stdin().lock(), &folder))
        }),
        _ => {
            return Err(Failure::usage(
                "one of the two must be in a container, as CONTAINER:PATH",
            ));
        }
    }?;
    Ok(OK)
}

/// `CONTAINER:PATH`, `-`, or a path of the host's; one with a colon is written `./a:b`.
fn place(text: &str) -> Place {
    if text == STREAM {
        return Place::Stream;
    }
    match text.split_once(':') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') => {
            Place::Container(name.to_owned(), PathBuf::from(path))
        }
        _ => Place::Host(PathBuf::from(text)),
    }
}

/// Calls `work` with the container's root: as it sees it itself while it runs, else mounted.
fn with_root(
    session: &Session,
    name: &str,
    access: Access,
    work: impl FnOnce(&Root) -> Result<()>,
) -> Result<(), Failure> {
    let host = live::host(session, name)?;
    let record = host.store.find_container(name)?;
    match Live::of(record)? {
        Ok(live) => {
            let path = format!("/proc/{}/root", live.pid);
            explain::step(|| format!("cd {path}"));
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(&path, flags, Mode::empty()).context("open", &path)?;
            // The number may have become another process's in between.
            if !crate::exec::state::is_alive(&live.record.state) {
                return Err(Error::not_found(format!("container {name} has just ended"))
                    .hinted("try again")
                    .into());
            }
            let users = container::recorded_spec(&live.record)?.ids.map(|_| live.handle);
            Ok(work(&Root::Container(root, users))?)
        }
        Err(record) => {
            let _hold = hold::take(session, &host.store, &record)?;
            container::refuse_shown(&host.store, &record)?;
            let mounted = host.snapshotter.mount(&record.id, access)?;
            let root = mounted.dir().try_clone_to_owned().context("copy", "a handle")?;
            let done = {
                let root = Root::Container(root, None);
                work(&root)
            };
            Ok(both(done, mounted.close())?)
        }
    }
}

/// What is to be copied.
#[derive(Debug)]
enum Source {
    /// A folder, with its name, or all that is in it.
    Folder(OwnedFd, Option<OsString>),
    /// A file.
    File(File, OsString),
    /// A symbolic link, itself, and where it leads.
    Link(Vec<u8>, OsString),
}

impl Source {
    fn find(root: &Root, path: &Path) -> Result<Self> {
        let absent = |error| match error {
            Errno::NOENT => Error::not_found(format!("there is no {}", path.display())),
            error => Error::io("open", path, error),
        };
        // "folder/." is what is in it, as with cp(1).
        let all = path.as_os_str().as_encoded_bytes().ends_with(b"/.");
        let Some(Component::Normal(name)) = path.components().next_back().filter(|_| !all) else {
            return Ok(Self::Folder(root.folder(path).map_err(absent)?, None));
        };
        let above = root.folder(path.parent().unwrap_or(Path::new(""))).map_err(absent)?;
        let stat = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW).map_err(absent)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let folder = rustix::fs::openat(&above, name, flags | OFlags::DIRECTORY, Mode::empty());
                Ok(Self::Folder(folder.map_err(absent)?, Some(name.to_owned())))
            }
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(&above, name, Vec::new()).map_err(absent)?;
                Ok(Self::Link(to.into_bytes(), name.to_owned()))
            }
            FileType::RegularFile => {
                let file: File = rustix::fs::openat(&above, name, flags, Mode::empty())
                    .map_err(absent)?
                    .into();
                // What it is now; opening another kind in between has done nothing.
                match file.metadata().context("look at", path)?.is_file() {
                    true => Ok(Self::File(file, name.to_owned())),
                    false => Err(Error::invalid(format!(
                        "{} has just become another file",
                        path.display()
                    ))),
                }
            }
            _ => Err(Error::invalid(format!(
                "{} is a device, pipe or socket: those are copied with their folder only",
                path.display()
            ))),
        }
    }

    /// Writes it as a tar.
    fn write(&mut self, out: &mut dyn Write) -> Result<()> {
        let name = match self {
            Self::Folder(folder, _) => {
                return write_layer(None, &folder.as_fd(), &Everything, &Options::default(), out).map(drop);
            }
            Self::File(_, name) | Self::Link(_, name) => name.clone(),
        };
        let path = Path::new(&name);
        let mut tar = tar::Builder::new(out);
        let mut header = tar::Header::new_gnu();
        let written = match self {
            Self::Link(to, _) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, path, OsStr::from_bytes(to))
            }
            Self::File(file, _) => tar.append_file(path, file),
            Self::Folder(..) => Ok(()),
        };
        written.and_then(|()| tar.finish()).context("write", path)
    }
}

/// Where a copy is to be: a folder, and its name there where that is given.
#[derive(Debug)]
struct Target {
    folder: OwnedFd,
    name: Option<OsString>,
}

impl Target {
    /// Makes something beside with `make`, and moves it to `name` in one step.
    fn put(&self, name: &OsStr, make: impl FnOnce(&OwnedFd, &OsStr) -> Result<(), Errno>) -> Result<()> {
        let beside = OsString::from(random_key(".plywood-cp"));
        let made = make(&self.folder, &beside)
            .and_then(|()| rustix::fs::renameat(&self.folder, &beside, &self.folder, name))
            .context("write", Path::new(name));
        if made.is_err() {
            // Not there where it could not even be made.
            let _ = rustix::fs::unlinkat(&self.folder, &beside, AtFlags::empty());
        }
        made
    }

    fn find(root: &Root, path: &Path) -> Result<Self> {
        let ends_with_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        match root.folder(path) {
            Ok(folder) => return Ok(Self { folder, name: None }),
            Err(Errno::NOTDIR | Errno::NOENT) if !ends_with_slash => {}
            Err(Errno::NOENT) => {
                return Err(Error::not_found(format!("there is no folder {}", path.display()))
                    .hinted("without the / at its end, a new folder or file of this name is made"));
            }
            Err(error) => return Err(Error::io("open", path, error)),
        }
        let Some(Component::Normal(name)) = path.components().next_back() else {
            return Err(Error::not_found(format!("there is no {}", path.display())));
        };
        let above = path.parent().unwrap_or(Path::new(""));
        Ok(Self {
            folder: root.folder(above).context("open the folder", above)?,
            name: Some(name.to_owned()),
        })
    }
}

/// Copies, replacing what is in the way.
fn copy(source: &mut Source, target: &Target, session: &Session) -> Result<()> {
    match source {
        Source::Folder(from, called) => {
            // By way of a file: neither end can stop the other half way.
            let store = session.store()?.ok_or_else(|| container::none("there"))?;
            let scratch = store.folder("tmp")?;
            let mut tar: File = tempfile::tempfile_in(&scratch).context("make a file in", &scratch)?;
            write_layer(None, &from.as_fd(), &Everything, &Options::default(), &mut tar)?;
            tar.rewind().context("read", &scratch)?;
            let Some(name) = target.name.as_ref().or(called.as_ref()) else {
                return unpack(&mut tar, &target.folder);
            };
            let folder = make_folder(&target.folder, name)?;
            unpack(&mut tar, &folder)?;
            let stat = rustix::fs::fstat(&*from).context("look at", Path::new(name))?;
            like(&folder, &stat).context("set the owner and mode of", Path::new(name))
        }
        Source::File(file, own) => {
            let name = target.name.as_ref().unwrap_or(own);
            target.put(name, |folder, beside| copy_file(file, folder, beside))
        }
        Source::Link(to, own) => {
            let name = target.name.as_ref().unwrap_or(own);
            target.put(name, |folder, beside| rustix::fs::symlinkat(&to[..], folder, beside))
        }
    }
}

/// [`copy`] where the two ends number their users differently: each is read or written with its own numbers, and a
/// tar, which has them as they are, lies between.
fn carry(source: &mut Source, from: &Root, target: &Target, to: &Root, session: &Session) -> Result<()> {
    let store = session.store()?.ok_or_else(|| container::none("there"))?;
    let scratch = store.folder("tmp")?;
    let mut tar: File = tempfile::tempfile_in(&scratch).context("make a file in", &scratch)?;
    let rewind = |mut tar: &File| tar.rewind().context("read", &scratch);
    let called = match source {
        Source::Folder(_, called) => target.name.clone().or(called.take()),
        Source::File(_, own) | Source::Link(_, own) => {
            if let Some(name) = &target.name {
                own.clone_from(name);
            }
            None
        }
    };
    let options = Options {
        with_root: called.is_some(),
        ..Options::default()
    };
    from.in_its_users(|| match source {
        Source::Folder(folder, _) => write_layer(None, &folder.as_fd(), &Everything, &options, &mut tar).map(drop),
        Source::File(..) | Source::Link(..) => source.write(&mut tar),
    })?;
    rewind(&tar)?;
    to.in_its_users(|| match &called {
        Some(name) => apply(make_folder(&target.folder, name)?.as_fd(), &mut tar, &Limits::default()).map(drop),
        None => unpack(&mut tar, &target.folder),
    })
}

/// Unpacks into a folder that is there, whose own attributes stay.
fn unpack(tar: &mut dyn Read, folder: &OwnedFd) -> Result<()> {
    let at = Path::new("the target");
    let stat = rustix::fs::fstat(folder).context("look at", at)?;
    apply(folder.as_fd(), tar, &Limits::default())?;
    like(folder, &stat).context("set the owner and mode of", at)
}

/// A new file with the content, owner, mode and times of `file`.
fn copy_file(file: &mut File, folder: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(&*file)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let new = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600))?;
    let mut new = File::from(new);
    std::io::copy(file, &mut new).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let new = OwnedFd::from(new);
    like(&new, &stat)?;
    let time = |seconds: i64, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let nanoseconds = |part| i64::try_from(part).unwrap_or(0);
    let times = Timestamps {
        last_access: time(stat.st_atime, nanoseconds(stat.st_atime_nsec)),
        last_modification: time(stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
    };
    rustix::fs::futimens(&new, &times)
}

fn make_folder(above: &OwnedFd, name: &OsString) -> Result<OwnedFd> {
    let path = Path::new(name);
    match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(Error::io("make the folder", path, error)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty()).context("open the folder", path)
}

fn like(folder: &OwnedFd, stat: &rustix::fs::Stat) -> Result<(), Errno> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(stat.st_uid),
        rustix::fs::Gid::from_raw(stat.st_gid),
    );
    rustix::fs::fchown(folder, Some(uid), Some(gid))?;
    rustix::fs::fchmod(folder, Mode::from_raw_mode(stat.st_mode))
}

/// Below which names are looked up.
enum Root {
    /// The host's, or where plywood was called.
    Host,
    /// A container's, which no name leads out of; and a process of it, where its users are not the host's.
    Container(OwnedFd, Option<OwnedFd>),
}

impl Root {
    /// Whether owners are other numbers there than on the host.
    fn has_other_users(&self) -> bool {
        matches!(self, Self::Container(_, Some(_)))
    }

    /// Calls `work` where owners have the numbers that they have there.
    fn in_its_users(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        match self {
            Self::Container(_, Some(process)) => as_root_of(process.as_fd(), work),
            _ => work(),
        }
    }

    /// The folder at `path`, following links.
    fn folder(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match self {
            Self::Host => rustix::fs::openat(CWD, path, flags, Mode::empty()),
            Self::Container(root, _) => {
                let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                openat2::open(root, path, flags, resolve)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let container = |name: &str, path: &str| Place::Container(name.to_owned(), path.into());
        assert_eq!(place("web:/etc"), container("web", "/etc"));
        assert_eq!(place("web:"), container("web", ""));
        assert_eq!(place("-"), Place::Stream);
        for host in ["/a:b", "./a:b", "a", ":b"] {
            assert_eq!(place(host), Place::Host(host.into()));
        }
    }
}
