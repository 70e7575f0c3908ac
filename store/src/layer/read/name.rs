//! Names and link targets: bytes, from which a path under the root is made, or nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::stream::Stream;
use crate::layer::Limits;
use crate::layer::entry::shown;
use crate::{Error, Result};

/// A file name as a path under the root.
pub(super) fn normalise(raw: &[u8], limits: &Limits) -> Result<PathBuf> {
    let short: &[u8] = raw.get(..raw.len().min(limits.path_bytes)).unwrap_or(raw);
    let bad = |what: &str| {
        Error::invalid(format!(
            "the tar has {what}: {}",
            shown(Path::new(OsStr::from_bytes(short)))
        ))
    };
    if raw.len() > limits.path_bytes {
        return Err(bad(&format!("a path of more than {} bytes", limits.path_bytes)));
    }
    if raw.contains(&0) {
        return Err(bad("a path with a NUL byte"));
    }
    if raw.is_empty() {
        return Err(bad("an entry without a name"));
    }
    let mut path = PathBuf::new();
    for (depth, component) in Path::new(OsStr::from_bytes(raw)).components().enumerate() {
        match component {
            // A whiteout names what it hides behind four bytes of its own, and is no file itself.
            Component::Normal(name) if hidden(name).len() > 255 => {
                return Err(bad("a name of more than 255 bytes"));
            }
            Component::Normal(name) => path.push(name),
            Component::ParentDir => return Err(bad("a path with ..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
        if depth > limits.depth {
            return Err(bad(&format!("a path of more than {} names", limits.depth)));
        }
    }
    Ok(path)
}

/// The name without the prefix of a whiteout.
fn hidden(name: &OsStr) -> &[u8] {
    let name = name.as_bytes();
    name.strip_prefix(b".wh.").unwrap_or(name)
}

/// A symbolic link's target: any bytes that a kernel takes.
pub(super) fn target(raw: &[u8], stream: &Stream<'_>, limits: &Limits) -> Result<PathBuf> {
    if raw.is_empty() || raw.contains(&0) {
        return Err(stream.bad("a symbolic link without a target, or with a NUL byte in it"));
    }
    if raw.len() > limits.path_bytes {
        return Err(stream.bad(&format!("a link target of more than {} bytes", limits.path_bytes)));
    }
    Ok(PathBuf::from(OsStr::from_bytes(raw)))
}
