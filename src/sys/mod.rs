//! The only unsafe code of plywood: one wrapper, one system call.

pub mod close_range;
pub mod mount;
