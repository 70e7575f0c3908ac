//! Run: a command in an image's root filesystem, in namespaces of its own.
//!
//! pivot_root first, then everything else happens inside; every file from an
//! image is reached by handle; no descriptor leaks. [`spec::Spec`] says what is
//! wanted, checked; [`run`] makes it so and gives the command's exit code.

pub mod spec;
