//! The kernel's status lines as types: pure, round-trip tested, total.

/// What a thin pool's status line says (`Documentation/admin-guide/device-mapper/thin-provisioning.rst`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// Moved by `set_transaction_id` only.
    pub transaction_id: u64,
    /// Metadata blocks of 4096 bytes.
    pub metadata_used: u64,
    /// The same, in all.
    pub metadata_total: u64,
    /// Data blocks of the pool's block size.
    pub data_used: u64,
    /// The same, in all.
    pub data_total: u64,
    /// The block of the metadata snapshot.
    pub held_root: Option<u64>,
    /// Whether it can be written.
    pub mode: PoolMode,
    /// A metadata operation failed: thin_check first.
    pub needs_check: bool,
}

/// The pool's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// `rw`.
    ReadWrite,
    /// `ro`.
    ReadOnly,
    /// `out_of_data_space`.
    OutOfDataSpace,
    /// `Fail`: every I/O errors.
    Failed,
}
