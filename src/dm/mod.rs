//! Device-mapper: what of it plywood uses, and nothing else.
//!
//! - [`control`]: `/dev/mapper/control`, one method per ioctl, no udev;
//! - [`table`] and [`status`]: the kernel's text lines as types, pure;
//! - [`name`]: every device name and uuid that plywood makes, in one place;
//! - [`pool`]: the pool messages ([`pool::ThinPool`]), in the kernel and simulated;
//! - [`volume`]: a thin device, activated, formatted, mounted: guards.

pub mod pool;
pub mod status;
