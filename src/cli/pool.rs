//! `plywood pool`, as it is typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::value::size;

/// `plywood pool …`
#[derive(Debug, Subcommand)]
pub enum PoolVerb {
    /// Make the pool; without it the first use makes the default one
    #[command(
        after_help = "Making the same pool again is a success. A data file that becomes low while something writes is doubled,\nup to --limit, and never so far that it could take the last tenth of its disk.\n\nExamples:\n  plywood pool init --data-size 50G\n  plywood pool init --data-size 10G --limit 80G\n  plywood pool init --data-device /dev/sdb1 --metadata-device /dev/sdb2"
    )]
    Init(PoolInitArgs),
    /// State and fill of data and metadata
    #[command(after_help = "Example:\n  plywood pool status")]
    Status,
    /// Enlarge data or metadata, or the limit up to which data grow by themselves
    #[command(
        after_help = "A pool on files grows by itself where it is low, up to its limit; this does it at once, and beyond.\n\nExamples:\n  plywood pool grow --data-size 200G\n  plywood pool grow --limit 300G"
    )]
    Grow(PoolGrowArgs),
    /// Give unused space back to the disk
    #[command(after_help = "Example:\n  plywood pool trim")]
    Trim,
    /// Verify the pool's metadata with thin_check
    #[command(after_help = "Example:\n  plywood pool check")]
    Check,
    /// Repair the pool's metadata, and verify and repair what stands on it
    #[command(
        after_help = "Refuses while volumes are in use. Damaged metadata is repaired with thin_repair into a new file; the\ndamaged one is kept as pool/metadata.damaged. Then every layer is compared with its digest and, where\nit differs, unpacked again from its blob; every container's filesystem is checked with e2fsck, and a\n--cow container's store that the kernel gave up on a full pool is taken back (grow the pool first).\nWhat was done and what is lost is told; the exit code is 0 when everything is whole afterwards. Cut\nshort, it goes on when it is given again; until then other commands refuse the pool.\n\nExamples:\n  plywood pool repair\n  plywood pool repair --spare /dev/sdc1    a pool on block devices"
    )]
    Repair(PoolRepairArgs),
    /// Take the pool out of the kernel; the next use brings it back
    #[command(after_help = "Example:\n  plywood pool detach")]
    Detach,
}

/// `plywood pool init`
#[derive(Debug, Args)]
pub struct PoolInitArgs {
    /// Size of the data file, which is sparse [default: 100G]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub data_size: Option<u64>,
    /// Size up to which the data file grows by itself [default: as far as its disk keeps a tenth free]
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "data_device")]
    pub limit: Option<u64>,
    /// Size of the metadata file, which is allocated at once [default: by the data size]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub metadata_size: Option<u64>,
    /// Block device for the data, instead of a file
    #[arg(
        long,
        value_name = "DEVICE",
        requires = "metadata_device",
        conflicts_with = "data_size"
    )]
    pub data_device: Option<PathBuf>,
    /// Block device for the metadata, instead of a file
    #[arg(
        long,
        value_name = "DEVICE",
        requires = "data_device",
        conflicts_with = "metadata_size"
    )]
    pub metadata_device: Option<PathBuf>,
    /// What one volume can hold; a limit, not a cost [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub volume_size: Option<u64>,
}

/// `plywood pool repair`
#[derive(Debug, Args)]
pub struct PoolRepairArgs {
    /// An empty block device for the repaired metadata, where the pool lies on block devices
    #[arg(long, value_name = "DEVICE")]
    pub spare: Option<PathBuf>,
    /// Delete the pool's volumes that no record mentions; without it they are only named
    #[arg(long)]
    pub remove_strangers: bool,
    /// Go on where what containers have written cannot be saved; images come back from their blobs all the same
    #[arg(long)]
    pub accept_loss: bool,
}

/// `plywood pool grow`
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct PoolGrowArgs {
    /// New size of the data
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub data_size: Option<u64>,
    /// New size of the metadata
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub metadata_size: Option<u64>,
    /// Size up to which the data file grows by itself, for commands that begin from now on
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub limit: Option<u64>,
}
