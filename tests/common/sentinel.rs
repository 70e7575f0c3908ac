//! What lies beside a root and must stay as it is.

#![allow(dead_code, reason = "each test crate has a copy of its own and uses a part of it")]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use plywood_store::Digest;
use plywood_store::layer::tree;

/// A tree beside the root, and its digest.
pub struct Sentinel {
    path: PathBuf,
    digest: Digest,
}

impl Sentinel {
    pub fn new(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        fs::write(path.join("secret"), "secret").unwrap();
        fs::create_dir(path.join("folder")).unwrap();
        Self {
            path: path.to_owned(),
            digest: Self::digest(path),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    #[track_caller]
    pub fn check(&self, after: &str) {
        assert_eq!(
            Self::digest(&self.path),
            self.digest,
            "{after}: the tree beside the root was touched"
        );
    }

    fn digest(path: &Path) -> Digest {
        tree::digest(&File::open(path).unwrap().as_fd()).unwrap()
    }
}
