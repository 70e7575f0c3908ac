//! A root whose pool lies on devices, one of which can be made to fail. For the guest.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "helpers of tests are made for several, and each test crate uses a part of them"
)]

use std::process::Command;

use crate::common::Plywood;
use crate::pool_root::shell;

/// The device between the pool and the loop device, in the kernel.
pub const DEVICE: &str = "failing";

const SECTORS_OF_MIB: u64 = (1 << 20) / 512;
const DATA_MIB: u64 = 256;
const METADATA_MIB: u64 = 16;

/// A pool, and the device of its that can fail.
#[derive(Debug)]
pub struct Failing {
    /// The binary on the pool's root.
    pub plywood: Plywood,
    /// The loop device under the pool's metadata.
    pub metadata: String,
    loops: [String; 2],
    below: String,
    sectors: u64,
}

impl Failing {
    /// A pool whose metadata can be made to fail.
    pub fn metadata() -> Self {
        Self::new(DATA_MIB, false)
    }

    /// A pool of so many MiB, whose data can be made to fail.
    pub fn data(mib: u64) -> Self {
        Self::new(mib, true)
    }

    fn new(data_mib: u64, is_data: bool) -> Self {
        let plywood = Plywood::new("thin");
        let device = |name: &str, mib: u64| {
            let path = plywood.beside(name);
            let path = path.display();
            shell(&format!("truncate -s {mib}M {path}; losetup --find --show {path}"))
        };
        let (data, metadata) = (device("data", data_mib), device("meta", METADATA_MIB));
        let (below, mib) = if is_data {
            (&data, data_mib)
        } else {
            (&metadata, METADATA_MIB)
        };
        let sectors = mib * SECTORS_OF_MIB;
        shell(&format!(
            "dmsetup create {DEVICE} --table '0 {sectors} linear {below} 0'"
        ));
        let above = format!("/dev/mapper/{DEVICE}");
        let used = if is_data { [&above, &metadata] } else { [&data, &above] };
        plywood.ok([
            "pool",
            "init",
            "--data-device",
            used[0],
            "--metadata-device",
            used[1],
            "--volume-size",
            "256M",
        ]);
        Self {
            plywood,
            below: below.clone(),
            metadata: metadata.clone(),
            loops: [data, metadata],
            sectors,
        }
    }

    /// Puts a table, in which `{}` is the loop device, into the kernel; [`RESUME`] makes it the one in use.
    pub fn load(&self, table: &str) {
        let table = table.replace("{}", &self.below);
        shell(&format!("dmsetup load {DEVICE} --table '0 {} {table}'", self.sectors));
    }

    /// Puts a table, as for [`Failing::load`], in the place of the one in use.
    pub fn switch(&self, table: &str) {
        shell(&format!("dmsetup suspend --nolockfs {DEVICE}"));
        self.load(table);
        shell(RESUME);
    }

    /// It fails no more.
    pub fn heal(&self) {
        self.switch("linear {} 0");
    }
}

/// What makes a table that was loaded the one in use.
pub const RESUME: &str = "dmsetup resume failing";

impl Drop for Failing {
    fn drop(&mut self) {
        let _ = self.plywood.run(["pool", "detach"]);
        let [data, metadata] = &self.loops;
        // What is left is told by the guest's suite.
        let script = format!("dmsetup remove {DEVICE}; losetup -d {data} {metadata}");
        let _ = Command::new("sh").args(["-c", &script]).status();
    }
}
