//! Device-mapper is really there: a thin pool on loop files, a volume, a snapshot of it.
//!
//! Uses nothing of plywood, so that a failure here means the machine and not the program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use devicemapper::{DM, DevId, DmName, DmOptions};
use loopdev::{LoopControl, LoopDevice};

const SECTOR: u64 = 512;
const DATA: u64 = 256 << 20;
const METADATA: u64 = 16 << 20;
const VOLUME: u64 = 64 << 20;

/// A device that is removed when the test ends, well or badly.
struct Device<'a> {
    dm: &'a DM,
    name: String,
    node: PathBuf,
}

impl<'a> Device<'a> {
    fn create(dm: &'a DM, name: &str, size: u64, target: &str, params: String) -> Self {
        let id = DmName::new(name).expect("a good name");
        let info = dm.device_create(id, None, DmOptions::default()).expect("device_create");
        let device = Self {
            dm,
            name: name.to_owned(),
            node: PathBuf::from(format!("/dev/dm-{}", info.device().minor)),
        };
        let table = [(0, size / SECTOR, target.to_owned(), params)];
        dm.table_load(&DevId::Name(id), &table, DmOptions::default())
            .expect("table_load");
        dm.device_suspend(&DevId::Name(id), DmOptions::default())
            .expect("resume");
        device
    }

    fn message(&self, text: &str) {
        let id = DmName::new(&self.name).expect("a good name");
        self.dm
            .target_msg(&DevId::Name(id), Some(0), text)
            .unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    fn status(&self) -> String {
        let id = DmName::new(&self.name).expect("a good name");
        let (_, lines) = self
            .dm
            .table_status(&DevId::Name(id), DmOptions::default())
            .expect("table_status");
        lines.into_iter().next().expect("one target").3
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        if let Ok(id) = DmName::new(&self.name) {
            let _ = self.dm.device_remove(&DevId::Name(id), DmOptions::default());
        }
    }
}

/// A file on a loop device, detached when the test ends.
struct Loop(LoopDevice);

impl Loop {
    fn attach(file: &Path, size: u64) -> Self {
        File::create(file)
            .and_then(|made| made.set_len(size))
            .expect("a sparse file");
        let device = LoopControl::open()
            .and_then(|control| control.next_free())
            .expect("a free loop device");
        device.attach_file(file).expect("attach");
        Self(device)
    }

    fn number(&self) -> String {
        let (major, minor) = (self.0.major().expect("major"), self.0.minor().expect("minor"));
        format!("{major}:{minor}")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = self.0.detach();
    }
}

fn sh(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status();
    assert!(
        status.as_ref().is_ok_and(|status| status.success()),
        "{program} {args:?}: {status:?}"
    );
}

fn mount(device: &Device<'_>, at: &Path, options: &str) {
    let (node, at) = (device.node.to_str(), at.to_str());
    sh("mount", &["-o", options, node.expect("utf-8"), at.expect("utf-8")]);
}

#[test]
fn dm_thin_pool_holds_a_volume_and_its_snapshot() {
    let dm = DM::new().expect("device-mapper: is this the guest? see tests/run");
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path().join("mnt");
    fs::create_dir(&at).expect("a mount point");
    let data = Loop::attach(&dir.path().join("data"), DATA);
    let metadata = Loop::attach(&dir.path().join("metadata"), METADATA);

    let params = format!("{} {} 128 0 1 error_if_no_space", metadata.number(), data.number());
    let pool = Device::create(&dm, "plywood-smoke-pool", DATA, "thin-pool", params);
    pool.message("create_thin 0");
    let thin = |id: u32| {
        let params = format!("{} {id}", pool.node.display());
        Device::create(&dm, &format!("plywood-smoke-{id}"), VOLUME, "thin", params)
    };

    let base = thin(0);
    sh("mkfs.ext4", &["-q", base.node.to_str().expect("utf-8")]);
    mount(&base, &at, "rw");
    fs::write(at.join("file"), "from the base").expect("write");
    sh("umount", &[at.to_str().expect("utf-8")]);
    drop(base);

    pool.message("create_snap 1 0");
    pool.message("set_transaction_id 0 1");
    let status = pool.status();
    assert!(status.starts_with("1 "), "transaction id in '{status}'");
    assert!(status.contains(" rw "), "mode in '{status}'");

    let snapshot = thin(1);
    mount(&snapshot, &at, "rw");
    let seen = fs::read_to_string(at.join("file"));
    fs::write(at.join("file"), "from the snapshot").expect("write");
    sh("umount", &[at.to_str().expect("utf-8")]);
    assert_eq!(seen.expect("read"), "from the base");
    drop(snapshot);

    let base = thin(0);
    mount(&base, &at, "ro");
    let seen = fs::read_to_string(at.join("file"));
    sh("umount", &[at.to_str().expect("utf-8")]);
    assert_eq!(seen.expect("read"), "from the base");
}
