//! Device-mapper: what of it plywood uses, and nothing else.
//!
//! - [`control`]: `/dev/mapper/control`, one method per ioctl, no udev;
//! - [`table`] and [`status`]: the kernel's text lines as types, pure;
//! - [`name`]: every device name and uuid that plywood makes, in one place;
//! - [`pool`]: the pool messages ([`pool::ThinPool`]);
//! - [`volume`]: what a pool does with its volumes beside them ([`volume::Volumes`]);
//! - [`kernel`] and [`activation`]: both, by the kernel; [`sim`]: both, simulated, with faults;
//! - [`assembly`]: from files or block devices to a running pool; [`underlay`] and [`loops`] beneath it;
//! - [`metadata`]: a pool's metadata, held still while they are read; [`direct`] reads past the page cache;
//! - [`repair`]: damaged metadata, and the mark of a repair that goes on;
//! - [`ext4`]: the one filesystem that plywood makes and mounts;
//! - [`locks`]: who uses which volume; [`program`]: the external programs.

pub mod activation;
pub mod assembly;
mod available;
pub mod classic;
pub mod control;
mod devices;
pub mod direct;
pub mod ext4;
mod growth;
pub mod kernel;
pub mod locks;
pub mod loops;
pub mod mappings;
pub mod metadata;
pub mod name;
pub mod plain;
pub mod pool;
pub mod program;
pub mod repair;
pub mod room;
mod salvage;
pub mod sim;
mod sim_copy;
pub mod status;
pub mod table;
pub mod underlay;
pub mod volume;

pub use available::{is_available, require};
