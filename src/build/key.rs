//! The cache key of a step: the digest of all that its result depends on.
//!
//! Fields go in with their lengths before them, so that no two lists of fields run into the same bytes. A
//! change of what goes in, or of what a step does with it, needs a new [`VERSION`].

use std::io::{BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;

use plywood_store::digest::Hasher;
use plywood_store::layer::Limits;
use plywood_store::layer::read::{EntryKind, Reader};
use plywood_store::{ChainId, Digest};

use crate::error::{Context, Error, Result};

/// Bytes that go into the pipe at a time.
const BUFFER: usize = 256 << 10;
/// Of the keys.
const VERSION: &str = "plywood step 1";

/// A key that is being made.
#[derive(Debug)]
pub struct Key(Hasher);

impl Key {
    /// Of a step that does `what` on the stack `parent`.
    pub fn new(what: &str, parent: Option<&ChainId>) -> Self {
        let mut key = Self(Hasher::default());
        key.text(VERSION);
        key.text(what);
        key.text(&parent.map(ToString::to_string).unwrap_or_default());
        key
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Adds something that may not be there.
    pub fn option(&mut self, text: Option<&str>) -> &mut Self {
        self.number(u64::from(text.is_some())).text(text.unwrap_or_default())
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    /// Adds a list.
    pub fn list<T: AsRef<str>>(&mut self, texts: &[T]) -> &mut Self {
        self.number(texts.len() as u64);
        for text in texts {
            self.text(text.as_ref());
        }
        self
    }

    /// The key.
    pub fn finish(self) -> Digest {
        self.0.digest()
    }
}

/// What of a tar's entries counts besides kinds, modes, attributes and contents.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// Their names.
    pub names: bool,
    /// Their owners.
    pub owners: bool,
}

/// The [`content`] of the tar that `write` writes: into a pipe, and read there.
///
/// # Errors
/// The writer's, which says why the pipe broke; else as for [`content`].
pub fn content_of(counted: Counted, write: impl FnOnce(&mut dyn Write) -> Result<()> + Send) -> Result<Digest> {
    let (mut from, to) = std::io::pipe().context("make", "a pipe")?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut to = BufWriter::with_capacity(BUFFER, to);
            write(&mut to)?;
            to.flush().context("write to", "a pipe")
        });
        let read = content(&mut from, counted);
        // Else the writer would wait for ever.
        drop(from);
        let written = writing.join();
        let written = written.unwrap_or_else(|_| Err(Error::invalid("reading what is copied has failed")));
        written.and(read)
    })
}

/// What a layer's tar puts into a tree, but for the times.
///
/// # Errors
/// A tar that is none; a failed read.
pub fn content(tar: &mut dyn Read, counted: Counted) -> Result<Digest> {
    let mut key = Key(Hasher::default());
    let limits = Limits::default();
    let mut reader = Reader::new(tar, &limits);
    while let Some(entry) = reader.next_entry()? {
        if counted.names {
            key.bytes(entry.path.as_os_str().as_bytes());
        }
        match &entry.kind {
            EntryKind::File => key.text("file"),
            EntryKind::Directory => key.text("folder"),
            EntryKind::Symlink(to) => key.text("symlink").bytes(to.as_os_str().as_bytes()),
            EntryKind::HardLink(to) => key.text("link").bytes(to.as_os_str().as_bytes()),
            EntryKind::Character(device) => key
                .text("character")
                .number(device.major.into())
                .number(device.minor.into()),
            EntryKind::Block(device) => key
                .text("block")
                .number(device.major.into())
                .number(device.minor.into()),
            EntryKind::Fifo => key.text("fifo"),
        };
        key.number(entry.mode.into());
        if counted.owners {
            key.number(entry.uid.into()).number(entry.gid.into());
        }
        key.number(entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            key.bytes(name).bytes(value);
        }
        key.number(entry.size);
        if entry.kind == EntryKind::File {
            let mut at = 0;
            while let Some((offset, piece)) = reader.content()? {
                // After a hole.
                if offset != at {
                    key.0.update(&offset.to_le_bytes());
                }
                key.0.update(piece);
                at = offset + piece.len() as u64;
            }
        }
    }
    Ok(key.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_into_each_other() {
        let key = |fields: &[&str]| {
            let mut key = Key::new("x", None);
            for field in fields {
                key.text(field);
            }
            key.finish()
        };
        let keys = [
            &["ab", "c"][..],
            &["a", "bc"],
            &["abc"],
            &["abc", ""],
            &["", "abc"],
            &[],
        ]
        .map(key);
        for (number, one) in keys.iter().enumerate() {
            assert!(!keys[number + 1..].contains(one), "{number}");
        }
        let some = |value| {
            let mut key = Key::new("x", None);
            key.option(value);
            key.finish()
        };
        assert_ne!(some(None), some(Some("")));
    }

    fn tar(path: &str, content: &[u8], mtime: u64, mode: u32) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mtime(mtime);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, path, content).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn contents_are_told_apart_by_all_but_their_times() {
        let of = |tar: Vec<u8>, unnamed: bool| {
            let counted = Counted {
                names: !unnamed,
                owners: true,
            };
            content(&mut &tar[..], counted).unwrap()
        };
        let one = of(tar("a", b"x", 1, 0o644), false);
        assert_eq!(one, of(tar("a", b"x", 2, 0o644), false));
        assert_ne!(one, of(tar("b", b"x", 1, 0o644), false));
        assert_ne!(one, of(tar("a", b"y", 1, 0o644), false));
        assert_ne!(one, of(tar("a", b"x", 1, 0o755), false));
        assert_eq!(of(tar("a", b"x", 1, 0o644), true), of(tar("b", b"x", 1, 0o644), true));
    }
}
