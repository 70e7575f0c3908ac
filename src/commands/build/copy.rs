//! `COPY`, `ADD` and `WORKDIR`: files into a snapshot.
//!
//! What is copied goes as a layer's tar from one handle to the other, by way of an unnamed temporary file: what
//! is [hashed](key::content) for the cache is what is put into the image, whatever happens to the source
//! meanwhile.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use plywood_store::compress;
use plywood_store::layer::read::is_header;
use plywood_store::{ChainId, Digest, Store};
use rustix::fs::{OFlags, ResolveFlags};

use super::contents::{Contents, Place};
use crate::build::context::{Form, Picked, Tree};
use crate::build::ignore::Patterns;
use crate::build::key::{self, Counted, Key};
use crate::build::target::{self, Target};
use crate::build::work::{CopySource, CopyWork, FolderWork};
use crate::error::{Context, Error, Result};
use crate::exec::user;
use crate::explain::{quote, step};
use crate::snapshot::Mounted;
use crate::sys::openat2;

/// Bytes of a file that tell whether it is an archive.
const HEAD: u64 = 512;
/// Bytes that `/etc/passwd` or `/etc/group` may have.
const ACCOUNTS_MAX: u64 = 1 << 20;

/// A source of one `COPY`, found.
#[derive(Debug)]
enum Found {
    /// In the tree.
    Picked(Picked),
    /// A heredoc.
    Document { name: OsString, content: String },
}

impl Found {
    fn name(&self) -> OsString {
        match self {
            Self::Picked(picked) => picked.name().to_owned(),
            Self::Document { name, .. } => name.clone(),
        }
    }

    fn is_folder(&self) -> bool {
        matches!(self, Self::Picked(picked) if picked.is_folder())
    }
}

/// One `COPY`, its sources found.
#[derive(Debug)]
pub(super) struct Copying<'a> {
    work: &'a CopyWork,
    tree: Option<&'a Tree>,
    found: Vec<Found>,
    form: Form,
    store: &'a Store,
    place: Place<'a>,
    contents: &'a Contents<'a>,
}

impl<'a> Copying<'a> {
    /// Finds the sources in `tree`, which is the context or what `--from` names, at `place`; heredocs need none.
    ///
    /// # Errors
    /// What is not there.
    pub(super) fn find(
        store: &'a Store,
        work: &'a CopyWork,
        tree: Option<&'a Tree>,
        place: Place<'a>,
        contents: &'a Contents<'a>,
    ) -> Result<Self> {
        let mut found = Vec::new();
        for source in &work.sources {
            match source {
                CopySource::File { name, content } => found.push(Found::Document {
                    name: name.into(),
                    content: content.clone(),
                }),
                CopySource::Path(path) => {
                    let tree =
                        tree.ok_or_else(|| Error::invalid(format!("there is no context to find {path:?} in")))?;
                    found.extend(tree.pick(path, work.parents)?.into_iter().map(Found::Picked));
                }
            }
        }
        if found.len() > 1 && !work.target.ends_with('/') {
            return Err(
                Error::invalid(format!("{} files cannot become one", found.len())).hinted(format!(
                    "end the target with a slash, to make it a folder: {}/",
                    work.target
                )),
            );
        }
        Ok(Self {
            work,
            tree,
            found,
            form: Form {
                owner: None,
                mode: work.chmod,
                exclude: Arc::new(Patterns::of(&work.exclude)?),
            },
            store,
            place,
            contents,
        })
    }

    /// The key of the step on `parent`.
    ///
    /// # Errors
    /// What cannot be read.
    pub(super) fn key(&self, parent: Option<&ChainId>) -> Result<Digest> {
        let mut contents = Vec::new();
        for found in &self.found {
            contents.push(match self.source(found) {
                Some(source) => {
                    let shown = found.name();
                    self.contents
                        .of(source, &shown.to_string_lossy(), || self.content_of(found))?
                }
                None => self.content_of(found)?,
            });
        }
        Ok(self.key_of(parent, &contents))
    }

    /// Stands for a source of that place, as it is copied here.
    fn source(&self, found: &Found) -> Option<Digest> {
        let Found::Picked(picked) = found else { return None };
        let Counted { names, owners } = self.counted(found);
        let mut source = self.place.source();
        source
            .text("copy")
            .bytes(picked.path.as_os_str().as_encoded_bytes())
            .number(u64::from(names))
            .number(u64::from(owners))
            .option(self.form.mode.map(|mode| mode.to_string()).as_deref())
            .list(&self.work.exclude);
        Some(source.finish())
    }

    /// What a source holds now.
    fn content_of(&self, found: &Found) -> Result<Digest> {
        key::content_of(self.counted(found), |out| {
            self.write(found, &found.name(), &self.form, out)
        })
    }

    /// A file may get another name, and who is asked to be the owner is in the key by itself.
    fn counted(&self, found: &Found) -> Counted {
        Counted {
            names: found.is_folder(),
            owners: self.work.chown.is_none(),
        }
    }

    fn key_of(&self, parent: Option<&ChainId>, contents: &[Digest]) -> Digest {
        let CopyWork {
            target,
            unpack,
            chown,
            parents,
            link,
            ..
        } = self.work;
        let mut key = Key::new("copy", parent);
        key.text(target).option(chown.as_deref());
        key.number(u64::from(*unpack))
            .number(u64::from(*parents))
            .number(u64::from(*link));
        key.number(self.found.len() as u64);
        for (found, content) in self.found.iter().zip(contents) {
            key.bytes(found.name().as_encoded_bytes()).text(&content.to_string());
            if let (Found::Picked(picked), true) = (found, self.work.parents) {
                key.bytes(picked.path.as_os_str().as_encoded_bytes());
            }
        }
        key.finish()
    }

    fn write(&self, found: &Found, name: &OsString, form: &Form, out: &mut dyn Write) -> Result<()> {
        match (found, self.tree) {
            (Found::Picked(picked), Some(tree)) => tree.write(picked, name, form, out),
            (Found::Picked(picked), None) => Err(Error::not_found(format!("{} is nowhere", picked.path.display()))),
            (Found::Document { content, .. }, _) => {
                let mut file = temporary(self.store)?;
                file.set_permissions(std::fs::Permissions::from_mode(0o644))
                    .and_then(|()| file.write_all(content.as_bytes()))
                    .context("write", Path::new(name))?;
                Tree::write_file(file, name, form, out)
            }
        }
    }

    /// Copies into a mounted root filesystem, which stands on `parent`; gives the key of what was copied.
    ///
    /// # Errors
    /// What is in the way; a user who is not there; I/O.
    pub(super) fn copy_into(&self, mounted: &Mounted, parent: Option<&ChainId>) -> Result<Digest> {
        let root = mounted.dir();
        let owner = self.work.chown.as_deref().map(|chown| owner(root, chown)).transpose()?;
        let form = Form {
            owner,
            ..self.form.clone()
        };
        let mut contents = Vec::new();
        for found in &self.found {
            self.explain(found, mounted.path());
            let content = self.copy_one(found, root, &form)?;
            if let Some(source) = self.source(found) {
                self.contents.learn(source, content);
            }
            contents.push(content);
        }
        Ok(self.key_of(parent, &contents))
    }

    /// What a person would type for it.
    fn explain(&self, found: &Found, root: &Path) {
        step(|| {
            let place = format!("{}{}", root.display(), self.place(found));
            match (found, self.tree) {
                (Found::Picked(picked), Some(tree)) => {
                    let source = tree.path().join(&picked.path);
                    let all = if picked.is_folder() { "/." } else { "" };
                    format!("cp -a {}{all} {}", quote(&source), quote(&place))
                }
                (found, _) => format!("cat > {}/{} <<EOF", quote(&place), found.name().display()),
            }
        });
    }

    fn copy_one(&self, found: &Found, root: BorrowedFd<'_>, form: &Form) -> Result<Digest> {
        let new_owner = form.owner.unwrap_or((0, 0));
        if let (Found::Picked(picked), true) = (found, self.work.unpack) {
            let content = self.content_of(found)?;
            if let Some(mut tar) = self.unpacked(picked)? {
                let target = target::folder(root, &self.place(found), new_owner)?.with_the_folder_itself();
                target.fill(&mut tar)?;
                target.give(&mut tar, form)?;
                return match content == self.content_of(found)? {
                    true => Ok(content),
                    false => Err(
                        Error::invalid(format!("{} changes while it is read", picked.path.display()))
                            .hinted("build again when nothing writes to it"),
                    ),
                };
            }
        }
        let target = self.target(found, root, new_owner)?;
        let name = target.name.clone().unwrap_or_else(|| found.name());
        let mut tar = temporary(self.store)?;
        {
            let mut out = BufWriter::with_capacity(256 << 10, &mut tar);
            self.write(found, &name, form, &mut out)?;
            out.flush().context("write", "the copy")?;
        }
        target.fill(&mut tar)?;
        tar.rewind().context("read", "the copy")?;
        key::content(&mut tar, self.counted(found))
    }

    fn target(&self, found: &Found, root: BorrowedFd<'_>, owner: (u32, u32)) -> Result<Target> {
        let place = self.place(found);
        match (found.is_folder(), self.work.parents) {
            (true, true) => Ok(target::folder(root, &place, owner)?.with_the_folder_itself()),
            (true, false) => target::folder(root, &place, owner),
            (false, _) => target::file(root, &place, owner),
        }
    }

    /// Where it goes; with `--parents`, into the folders that it is in.
    fn place(&self, found: &Found) -> String {
        let (Found::Picked(picked), true) = (found, self.work.parents) else {
            return self.work.target.clone();
        };
        let folder = match picked.is_folder() {
            true => picked.path.as_path(),
            false => picked.path.parent().unwrap_or(Path::new("")),
        };
        format!("{}/{}/", self.work.target.trim_end_matches('/'), folder.display())
    }

    /// The tar that an archive holds, whole; none where it is no archive.
    fn unpacked(&self, picked: &Picked) -> Result<Option<File>> {
        if picked.is_folder() {
            return Ok(None);
        }
        let mut tar = decoded(picked)?;
        let mut head = Vec::new();
        // What looks packed and cannot be unpacked is a file like others.
        if tar.by_ref().take(HEAD).read_to_end(&mut head).is_err() || !is_header(&head) {
            return Ok(None);
        }
        let mut whole = temporary(self.store)?;
        let copied = std::io::copy(&mut head.as_slice().chain(tar), &mut whole);
        copied.context("unpack", &picked.path)?;
        Ok(Some(whole))
    }
}

/// The content of a file, unpacked where it is packed.
fn decoded(picked: &Picked) -> Result<Box<dyn Read + Send>> {
    let mut magic = Vec::new();
    picked
        .file()?
        .take(6)
        .read_to_end(&mut magic)
        .context("read", &picked.path)?;
    let file = picked.file()?;
    if magic.starts_with(b"\xfd7zXZ\0") {
        return Ok(Box::new(lzma_rust2::XzReader::new(file, true)));
    }
    if magic.starts_with(b"BZh") {
        return Ok(Box::new(bzip2::read::MultiBzDecoder::new(file)));
    }
    Ok(compress::decoder(Box::new(file))?.1)
}

/// Makes the folder of a `WORKDIR` in `root`.
///
/// # Errors
/// Something else is in the way; no such user.
pub(super) fn make_folder(mounted: &Mounted, work: &FolderWork) -> Result<()> {
    let root = mounted.dir();
    step(|| {
        format!(
            "mkdir -p {}",
            quote(format!("{}{}", mounted.path().display(), work.path))
        )
    });
    let owner = owner(root, &work.user)?;
    target::make(root, &work.path, owner).map(drop)
}

/// The numbers of `USER[:GROUP]`. A number alone, which no account has, is the group's as well.
///
/// # Errors
/// Not found where the image has no such user or group.
fn owner(root: BorrowedFd<'_>, text: &str) -> Result<(u32, u32)> {
    let passwd = accounts(root, "etc/passwd")?;
    let group = accounts(root, "etc/group")?;
    let found = user::find(text, &passwd, &group).map_err(|error| {
        Error::not_found(error.to_string())
            .hinted("names are looked up in the image's own files; a number always works")
    })?;
    let is_number = text.parse::<u32>().is_ok();
    let has_account = passwd
        .split(|byte| *byte == b'\n')
        .any(|line| line.split(|byte| *byte == b':').nth(2) == Some(text.as_bytes()));
    match is_number && !has_account {
        true => Ok((found.uid, found.uid)),
        false => Ok((found.uid, found.gid)),
    }
}

/// A file of the image's, or nothing where there is none or it is no file.
fn accounts(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(file) = openat2::open(root, path, flags, how) else {
        return Ok(Vec::new());
    };
    let file = File::from(file);
    let mut content = Vec::new();
    if file.metadata().context("look at", path)?.is_file() {
        file.take(ACCOUNTS_MAX)
            .read_to_end(&mut content)
            .context("read", path)?;
    }
    Ok(content)
}

/// A file without a name.
fn temporary(store: &Store) -> Result<File> {
    let folder = store.folder("tmp")?;
    tempfile::tempfile_in(&folder).context("make a temporary file in", &folder)
}
