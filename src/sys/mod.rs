//! The only unsafe code of plywood: one wrapper, one system call.

pub mod close_range;
pub mod fork;
pub mod keyring;
pub mod mount;
pub mod mount_setattr;
pub mod netdevice;
pub mod signal;
