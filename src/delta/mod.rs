//! From changed blocks to changed files: what a commit costs follows what changed, not what is there.
//!
//! A source (thin metadata, an exception store, a comparison of bytes) says which blocks differ between a
//! parent volume and its child. ext4's own structures say whose blocks those are. The result is a
//! [scope](plywood_store::layer::diff::Scope) for the walk that writes layers, and both volumes as trees that need
//! no mount: the same code writes the same bytes, and looks only where something changed.

pub mod account;
pub mod bytewise;
pub mod changes;
pub mod exceptions;
pub mod names;
pub mod noted;
pub mod source;
pub mod thin;
