//! Images: OCI configs and manifests, import and export.
//!
//! An image is a config over a stack of layers; its id is the config's digest.
//!
//! - [`oci`]: the documents, as types: what is read is capped and checked, what
//!   is written has the same bytes each time; `json` reads them in one way only;
//! - [`change`]: the Dockerfile words that `-c` takes, onto a config; [`words`]: their quotes and variables,
//!   `pattern`: what `${NAME#pattern}` matches;
//! - [`compose`]: config, manifest, image record, name: in the durable order;
//! - [`source`]: what kind of archive a file, folder or stream is, by content;
//!   [`archive`]: one in a tar, indexed; `guess`: what it is instead;
//! - [`import`]: an archive into the store, nothing visible before all is verified;
//!   `layout` and `docker` read the two kinds as `foreign` images, `pipeline` brings in their
//!   layers, which `ahead` reads while those before are unpacked and `along` brings to the disk, [`budget`] stops
//!   what unpacks without end;
//! - [`export`]: images out of the store; [`sink`]: into a tar, a folder, a file; [`whole`]: which are there
//!   whole or not at all;
//! - [`undo`]: what a failed import or commit made is taken out again;
//! - [`unpack`]: a layer tar into a mounted snapshot, by a child that is
//!   [confined](confine) to it.

mod ahead;
mod along;
pub mod archive;
pub mod budget;
pub mod change;
pub mod compose;
pub mod confine;
mod docker;
pub mod export;
pub mod filesystem;
mod foreign;
mod guess;
pub mod import;
mod json;
mod layout;
pub mod oci;
mod pattern;
mod pipeline;
pub mod sink;
pub mod source;
pub mod undo;
pub mod unpack;
pub mod whole;
pub mod words;

/// Where long work tells how far it is. All of it may be called from any thread.
pub trait Progress: Sync {
    /// Work on `what` begins; `total` bytes, where that is known.
    fn begin(&self, what: &str, total: Option<u64>);
    /// This many bytes more are done.
    fn advance(&self, bytes: u64);
    /// The work that began last ends.
    fn end(&self);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}
