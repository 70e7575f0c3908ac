//! The only unsafe code of plywood: one wrapper, one system call.

pub mod block;
pub mod bpf;
pub mod close_range;
pub mod device_mapper;
pub mod file_user;
pub mod fork;
pub mod keyring;
pub mod loop_device;
pub mod mount;
pub mod mount_setattr;
pub mod netdevice;
pub mod openat2;
pub mod resident;
pub mod seccomp;
pub mod signal;
pub mod with_parent;
