//! A root with a small pool of its own, worked on through the library. For the guest.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "helpers of tests panic and print as tests do, and each test crate uses a part of them"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use plywood::dm::assembly::{self, Options};
use plywood::dm::repair::{Means, Metadata};
use plywood::error::Result;
use plywood::image::unpack::Unpacker;
use plywood::snapshot::thin::Thin;
use plywood::snapshot::thin::repair::{Repaired, Wishes, repair};
use plywood::snapshot::{Access, Differ, NewLayer, Snapshotter};
use plywood_store::blob::Descriptor;
use plywood_store::layer::diff::{Options as DiffOptions, write_layer};
use plywood_store::layer::tree;
use plywood_store::record::{LayerRecord, Place};
use plywood_store::{ChainId, DiffId, Digest, Driver, Store};

/// Bytes.
pub const MIB: u64 = 1 << 20;

/// A root of its own, whose pool leaves the kernel with it.
pub struct Root {
    pub folder: tempfile::TempDir,
    pub store: Arc<Store>,
}

impl Root {
    pub fn new(data: u64) -> Self {
        Self::with(&Options {
            data_size: Some(data),
            limit: Some(data),
            volume_size: Some(256 * MIB),
            ..Options::default()
        })
    }

    pub fn with(options: &Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(Store::create(&folder.path().join("root"), Driver::Thin).expect("a store"));
        let lock = store.exclusive().expect("the lock");
        assembly::init(&store, &lock, options).expect("a pool");
        lock.done().expect("letting go");
        Self { folder, store }
    }

    pub fn open(&self) -> Thin {
        Thin::open(self.store.clone()).expect("the driver")
    }

    pub fn detach(&self) -> Result<bool> {
        let lock = self.store.exclusive()?;
        let was_there = assembly::detach(&self.store, &lock)?;
        lock.done()?;
        Ok(was_there)
    }

    /// A layer with one file.
    pub fn layer(&self, driver: &Thin, content: &str) -> LayerRecord {
        driver.prepare("make", None, None).expect("prepare");
        write(driver, "make", content.as_bytes()).expect("write");
        driver.commit("make", &self.describe(content)).expect("commit")
    }

    pub fn describe(&self, content: &str) -> NewLayer {
        let stored = self.store.blobs.put(content.as_bytes()).expect("a blob");
        NewLayer {
            diff_id: DiffId(stored.digest),
            blob: Descriptor {
                media_type: "tar".into(),
                digest: stored.digest,
                size: stored.size,
            },
            size: stored.size,
        }
    }
}

/// Mounts, writes, unmounts: fails where the data could not be written back.
pub fn write(driver: &Thin, key: &str, content: &[u8]) -> Result<()> {
    let mounted = driver.mount(key, Access::ReadWrite)?;
    // Buffered: the failure comes with the closing.
    let _ = std::fs::write(mounted.path().join("file"), content);
    mounted.close()
}

pub fn content(driver: &Thin, layer: &LayerRecord) -> String {
    driver.view("look", &layer.chain_id, None).expect("a view");
    let mounted = driver.mount("look", Access::ReadOnly).expect("a mount");
    let seen = std::fs::read_to_string(mounted.path().join("file")).expect("the file");
    mounted.close().expect("unmounting");
    driver.remove("look").expect("removing a view");
    seen
}

pub fn shell(script: &str) -> String {
    let output = Command::new("sh")
        .arg("-ec")
        .arg(script)
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            eprintln!("{}: {error}", self.folder.path().display());
        }
    }
}

impl Root {
    /// A layer with these files, whose tar is the differ's own, as a commit makes it.
    pub fn commit(&self, driver: &Thin, parent: Option<&ChainId>, files: &[(&str, &[u8])]) -> LayerRecord {
        driver.prepare("make", parent, None).expect("prepare");
        let mounted = driver.mount("make", Access::ReadWrite).expect("a mount");
        for (name, content) in files {
            std::fs::write(mounted.path().join(name), content).expect("writing");
        }
        mounted.close().expect("unmounting");
        let compared = driver.compare("make", Differ::Auto).expect("comparing");
        let mut tar = Vec::new();
        write_layer(
            compared.parent(),
            compared.child(),
            compared.scope.as_ref(),
            &DiffOptions::default(),
            &mut tar,
        )
        .expect("a layer");
        compared.close().expect("closing");
        driver.commit("make", &self.stored(&tar)).expect("commit")
    }

    /// A layer from a tar of another tool's.
    pub fn unpacked(&self, driver: &Thin, parent: Option<&ChainId>, tar: &[u8]) -> LayerRecord {
        driver.prepare("make", parent, None).expect("prepare");
        let mounted = driver.mount("make", Access::Fill).expect("a mount");
        unpacker()
            .unpack(&mounted, &mut &*tar, Path::new("a.tar"))
            .expect("unpacking");
        mounted.close().expect("unmounting");
        driver.commit("make", &self.stored(tar)).expect("commit")
    }

    fn stored(&self, tar: &[u8]) -> NewLayer {
        let stored = self.store.blobs.put(tar).expect("a blob");
        NewLayer {
            diff_id: DiffId(stored.digest),
            blob: Descriptor {
                media_type: "application/vnd.oci.image.layer.v1.tar".into(),
                digest: stored.digest,
                size: stored.size,
            },
            size: stored.size,
        }
    }

    /// As `plywood pool repair`.
    pub fn repair(&self, means: Means<'_>, remove_strangers: bool) -> Result<(Metadata, Repaired)> {
        let wishes = Wishes {
            unpack: &|mounted, tar, shown| unpacker().unpack(mounted, tar, shown),
            remove_strangers,
            at: &|_| (),
        };
        repair(&self.store, means, &wishes)
    }

    /// The pool's file of this name.
    pub fn file(&self, name: &str) -> PathBuf {
        self.store.root().join("pool").join(name)
    }
}

fn unpacker() -> Unpacker {
    Unpacker {
        program: env!("CARGO_BIN_EXE_plywood").into(),
        ..Unpacker::default()
    }
}

/// The digest of everything that can be seen in a layer.
pub fn tree_of(driver: &Thin, chain: &ChainId) -> Result<Digest> {
    driver.remove("look")?;
    driver.view("look", chain, None)?;
    let digest = driver.mount("look", Access::ReadOnly).and_then(|mounted| {
        let digest = tree::digest(&mounted.dir());
        mounted.close()?;
        digest
    });
    driver.remove("look")?;
    digest
}

/// The pool's name in the kernel.
pub fn pool_name() -> String {
    shell("dmsetup ls | grep -o '^plywood-[^ \t]*-pool'")
}

/// The number of a record's volume.
pub fn volume(place: &Place) -> u32 {
    *place.volumes().first().expect("a volume")
}
