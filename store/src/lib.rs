//! What exists: the truth of plywood, as files.
//!
//! ```text
//! ROOT/                       0700, root:root
//! ├── meta.json               format version, features, driver, the root's UUID
//! ├── lock                    flock: shared to read, exclusive for the short steps that change
//! ├── blobs/sha256/<hex>      content under its own digest: layer tars, configs, manifests
//! ├── records/<kind>/<key>    one checksummed JSON record per layer, snapshot, image, name, container, pool
//! ├── intents/<id>            what a live process is about to do; owned through an flock
//! ├── index/, index.pending   sled: look-ups over the records, disposable; what it must look at again
//! ├── tmp/                    blobs that are being written
//! ├── pool/                   the thin driver's loop files
//! ├── overlay/                the overlay driver's folders
//! ├── mnt/                    where plywood mounts, in its own mount namespace
//! └── locks/                  flock: who may mount, start or remove a container
//! ```
//!
//! Nothing here needs root rights, a device or a terminal: this crate is handed
//! directories, and gives facts. [`Store`] is the way in. [`layer`] turns trees
//! into OCI layer tars and back.

#![forbid(unsafe_code)]
// Not for the whole workspace: a test fails by panicking, and may print.
#![warn(clippy::expect_used, clippy::panic, clippy::todo, clippy::unwrap_used)]
#![warn(clippy::print_stderr, clippy::print_stdout, unreachable_pub)]

pub mod blob;
mod boot;
pub mod check;
pub mod compress;
pub mod digest;
pub mod durable;
pub mod error;
pub mod find;
#[cfg(test)]
mod fixture;
pub mod gc;
pub mod index;
pub mod intent;
pub mod layer;
pub mod lock;
pub mod piece;
pub mod record;
pub mod reference;
pub mod store;
mod write_back;

pub use digest::{ChainId, DiffId, Digest, ImageId};
pub use error::{Error, Kind, Result};
pub use reference::Reference;
pub use store::{Driver, Store};
