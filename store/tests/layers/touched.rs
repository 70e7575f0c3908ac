//! Where two trees can differ, by comparing everything: a sound scope that owes the differ nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use plywood_store::layer::diff::{Candidates, Scope};

use crate::trees::paths;

/// The names at which two trees can differ, found by another way than the differ's own.
#[derive(Debug)]
pub struct Touched(std::collections::BTreeMap<PathBuf, Vec<std::ffi::OsString>>);

impl Touched {
    /// Those of these two.
    pub fn between(parent: &Path, child: &Path) -> Self {
        let mut touched = Self(std::collections::BTreeMap::new());
        let relative = |root: &Path| -> std::collections::BTreeSet<PathBuf> {
            paths(root)
                .into_iter()
                .map(|path| path.strip_prefix(root).unwrap().to_owned())
                .collect()
        };
        for path in relative(parent).union(&relative(child)) {
            let facts = |root: &Path| {
                let path = root.join(path);
                let meta = fs::symlink_metadata(&path).ok()?;
                let content = if meta.is_file() {
                    fs::read(&path).unwrap()
                } else {
                    Vec::new()
                };
                let link = if meta.is_symlink() {
                    fs::read_link(&path).unwrap()
                } else {
                    PathBuf::new()
                };
                let mut names = vec![0; 4096];
                let length = rustix::fs::llistxattr(&path, &mut names).unwrap();
                names.truncate(length);
                let values: Vec<_> = names
                    .split(|byte| *byte == 0)
                    .filter(|name| !name.is_empty())
                    .map(|name| {
                        let mut value = vec![0; 4096];
                        let length = rustix::fs::lgetxattr(&path, name, &mut value).unwrap();
                        value.truncate(length);
                        (name.to_vec(), value)
                    })
                    .collect();
                let size = if meta.is_dir() { 0 } else { meta.size() };
                let links = if meta.is_dir() { 0 } else { meta.nlink() };
                // Another file under the same name, as an upper folder would show it.
                let group = if links > 1 {
                    paths_of(root, meta.ino())
                } else {
                    Vec::new()
                };
                let rest = (meta.rdev(), meta.mtime(), meta.mtime_nsec(), size);
                Some((meta.mode(), meta.uid(), meta.gid(), rest, content, link, values, group))
            };
            if facts(parent) != facts(child) {
                let mut below = path.as_path();
                while let (Some(above), Some(name)) = (below.parent(), below.file_name()) {
                    touched.0.entry(above.to_owned()).or_default().push(name.to_owned());
                    below = above;
                }
            }
        }
        touched
    }
}

fn paths_of(root: &Path, inode: u64) -> Vec<PathBuf> {
    let same = |path: &PathBuf| fs::symlink_metadata(path).unwrap().ino() == inode;
    let own = |path: PathBuf| path.strip_prefix(root).unwrap().to_owned();
    paths(root).into_iter().filter(same).map(own).collect()
}

impl Scope for Touched {
    fn names(&self, path: &Path) -> plywood_store::Result<Candidates> {
        Ok(Candidates::Only(self.0.get(path).cloned().unwrap_or_default()))
    }
}
