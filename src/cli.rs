//! What can be typed: clap types, their help and their checks. No logic.
//!
//! Docker's and podman's words and flags where they have one. Every verb's help
//! ends with an example.

mod build;
mod live;
mod network;
mod pool;
mod run;
mod value;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use plywood_store::Reference;

pub use build::{BuildArgs, ProgressChoice};
pub use live::{
    AttachArgs, CpArgs, ExecArgs, KillArgs, LogsArgs, NsenterArgs, StatsArgs, StopArgs, VolumeRmArgs, VolumeVerb,
    WaitArgs,
};
pub use network::NetworkChoice;
pub use pool::{PoolGrowArgs, PoolInitArgs, PoolRepairArgs, PoolVerb};
pub use run::{RunArgs, UsersChoice};
use value::compression;
pub use value::size;

/// Where the store lives unless `--root` says otherwise.
pub const DEFAULT_ROOT: &str = "/var/lib/plywood";
/// Keys that leave a container's terminal, as Docker has them.
const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Layered images on device-mapper thin pools: build, commit, ship and run them, without a daemon
#[derive(Debug, Parser)]
#[command(name = "plywood", version, max_term_width = 100, propagate_version = true)]
#[command(
    after_help = "Example:\n  plywood import debian.tar base:12 && plywood run --rm -it base:12 bash\n  plywood help run\n\nExit codes: 0 done; 1 failed; 2 wrong usage; run and start give the command's own code,\n125 where plywood failed before it, 126 not executable, 127 not found, 128+n killed by signal n."
)]
pub struct Cli {
    /// What applies to every verb.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What applies to every verb.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Folder of the store
    #[arg(long, global = true, value_name = "DIR", env = "PLYWOOD_ROOT", default_value = DEFAULT_ROOT, help_heading = "Global options")]
    pub root: PathBuf,
    /// What keeps the layers; a root keeps the driver it was made with
    #[arg(
        long,
        global = true,
        value_name = "DRIVER",
        env = "PLYWOOD_DRIVER",
        default_value = "auto",
        help_heading = "Global options"
    )]
    pub driver: DriverChoice,
    /// Print one JSON document instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Show each kernel step as the shell command for it, on stderr
    #[arg(long, global = true, help_heading = "Global options")]
    pub explain: bool,
    /// Say more on stderr; twice for every detail. Before the verb: after it, -v is the verb's own
    #[arg(short, long, action = ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// Say only errors on stderr. Before the verb: after it, -q is the verb's own
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: bool,
}

/// The driver that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DriverChoice {
    /// thin where the kernel has device-mapper, else overlay
    Auto,
    /// Volumes on a device-mapper thin pool
    Thin,
    /// Folders, stacked with overlayfs
    Overlay,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make, watch, grow and verify the thin pool
    #[command(
        subcommand,
        after_help = "Example:\n  plywood pool init --data-size 50G && plywood pool status"
    )]
    Pool(PoolVerb),
    /// Bring in a root filesystem tar, a docker-archive, an OCI archive or an OCI layout
    #[command(visible_alias = "load")]
    Import(ImportArgs),
    /// Write images as archives
    #[command(visible_alias = "save")]
    Export(ExportArgs),
    /// List images
    #[command(after_help = "Example:\n  plywood images")]
    Images(ImagesArgs),
    /// Show the layers of an image and how each came about
    #[command(after_help = "Example:\n  plywood history website-nginx")]
    History(HistoryArgs),
    /// Show everything about images and containers, down to device and file
    #[command(after_help = "Example:\n  plywood inspect website-nginx --json")]
    Inspect(InspectArgs),
    /// Give an image another name
    #[command(after_help = "Example:\n  plywood tag ops-nginx ops-nginx:1.0")]
    Tag(TagArgs),
    /// Remove names, and images that have none left
    #[command(
        after_help = "Examples:\n  plywood rmi website-nginx\n  plywood rmi --dry-run website-nginx    what it would free"
    )]
    Rmi(RmiArgs),
    /// Show images as a tree of shared layers
    #[command(after_help = "Example:\n  plywood tree")]
    Tree,
    /// Run a command in a new container from an image
    Run(Box<RunArgs>),
    /// Run an ended container again
    Start(StartArgs),
    /// Be at a detached container's terminal, or its streams
    #[command(after_help = "Example:\n  plywood attach website    ctrl-p ctrl-q leaves it")]
    Attach(AttachArgs),
    /// Run a command more in a running container
    #[command(after_help = "Examples:\n  plywood exec -it website bash\n  plywood exec -u www-data website nginx -t")]
    Exec(ExecArgs),
    /// Run a program of the host's in a running container's namespaces
    #[command(
        after_help = "The program sees the host's files, and has the host's rights. Without options it joins the\nnetwork, the host name and IPC. There is no mount namespace to join: a program with the host's\nrights would load the image's libraries there; plywood exec runs the image's own.\n\nExamples:\n  plywood nsenter website ip address\n  plywood nsenter website --net ss -ltn"
    )]
    Nsenter(NsenterArgs),
    /// Copy files and folders into a container, or out of it
    #[command(
        after_help = "As cp(1) does: a folder that is there takes the copy in, else the copy gets that name; FOLDER/. is what\nis in it. Owners, modes and times are kept. - is a tar on standard input or output.\n\nExamples:\n  plywood cp website:/etc/nginx/nginx.conf .\n  plywood cp site/. website:/var/www\n  plywood cp website:/var/log - | tar -tv"
    )]
    Cp(CpArgs),
    /// Show what running containers use
    #[command(after_help = "Example:\n  plywood stats --no-stream website")]
    Stats(StatsArgs),
    /// Folders that outlive containers
    #[command(
        subcommand,
        after_help = "Example:\n  plywood volume create data && plywood run -v data:/var/lib/data website"
    )]
    Volume(VolumeVerb),
    /// Print what a detached container has written
    #[command(after_help = "Example:\n  plywood logs -f --tail 20 website")]
    Logs(LogsArgs),
    /// Ask containers to end, and kill those that do not
    #[command(after_help = "Example:\n  plywood stop -t 5 website")]
    Stop(StopArgs),
    /// Send containers a signal
    #[command(after_help = "Example:\n  plywood kill -s HUP website")]
    Kill(KillArgs),
    /// Wait until containers end, and print their exit codes
    #[command(after_help = "Example:\n  plywood wait website")]
    Wait(WaitArgs),
    /// List containers
    #[command(after_help = "Example:\n  plywood ps -a")]
    Ps(PsArgs),
    /// Remove containers
    #[command(after_help = "Example:\n  plywood rm website")]
    Rm(RmArgs),
    /// Make a container's changes a new image: one layer more
    #[command(
        after_help = "A container that runs is frozen for the moment in which its files are captured, and goes on: on the thin\ndriver for some milliseconds, on overlay for as long as reading its changes takes.\n\nExamples:\n  plywood commit -m \"nginx set up\" -c 'CMD [\"nginx\"]' ops ops-nginx\n  plywood commit --pause=false website website:nightly"
    )]
    Commit(CommitArgs),
    /// Build an image from a Dockerfile
    #[command(
        after_help = "Every instruction of Dockerfiles is known, but for what fetches from the network (ADD of an address).\nEach RUN, COPY and ADD is a layer and is kept: the next build does only what changed. What a failed\nstep left can be entered, as its message says. With SOURCE_DATE_EPOCH the same context gives the same\nimage everywhere. Prints the image's id.\n\nExamples:\n  plywood build -t website-nginx .\n  plywood build -t app --target release --build-arg VERSION=1.2 -f docker/Dockerfile .\n  plywood build -t app --secret id=token,src=token.txt --net host ."
    )]
    Build(BuildArgs),
    /// Fold a --cow container's changes into its image: one layer more, under the same name
    #[command(
        after_help = "What has been cut short, also by a full pool, goes on when it is given again. Other containers of the\nimage stay as they are, and so does this one. Prints the new image's id.\n\nExamples:\n  plywood run --cow --name site website-nginx sh -c 'echo hello > /var/www/index.html'\n  plywood merge site"
    )]
    Merge(MergeArgs),
    /// Run a command on a classic snapshot over an ext4 file that plywood exported
    #[command(
        after_help = "The file changes only with --merge, when the command has ended with 0; a merge that is cut short is\nfinished by the next plywood try. The command has no network.\n\nExamples:\n  plywood export --format ext4 -o site.ext4 website-nginx\n  plywood try site.ext4 --merge -- sh -c 'echo hello > /var/www/index.html'\n  mount -o loop,ro site.ext4 /mnt"
    )]
    Try(TryArgs),
    /// List what a container changed, or what differs between two images
    #[command(
        after_help = "A new, C changed, D deleted; one path a line.\n\nExamples:\n  plywood diff website\n  plywood diff ops-nginx website-nginx"
    )]
    Diff(DiffArgs),
    /// Show an image or a container in the host's tree, read-only, without running it
    #[command(
        after_help = "Without DIR the mount point is made under the root folder and printed.\n\nExamples:\n  plywood mount website-nginx /mnt\n  ls $(plywood mount website-nginx)"
    )]
    Mount(MountArgs),
    /// Undo a mount
    #[command(visible_alias = "unmount", after_help = "Example:\n  plywood umount website-nginx")]
    Umount(UmountArgs),
    /// Remove what nothing needs
    #[command(
        after_help = "Removes images without a name that no container uses, layers that no image and no step of a build\nstands on, blobs that nothing names, and what killed commands left behind. The build cache stays,\nunless --build-cache is given.\n\nExamples:\n  plywood gc --dry-run\n  plywood gc --build-cache --unused-for 30d"
    )]
    Gc(GcArgs),
    /// Verify the store against its index and against the pool
    #[command(after_help = "Example:\n  plywood check --data    read every blob and compare it with its digest")]
    Check(CheckArgs),
    /// Show where the space went
    #[command(
        after_help = "A layer's or container's SIZE is SHARED, what others have too, and EXCLUSIVE, what its removal frees.\nOWN is what the layer below does not have: its own change. On thin all of it is exact, by the pool's\nmetadata. Of the kinds each has what none above it has; volumes and the folders of\nRUN --mount=type=cache are files below the root.\n\nExample:\n  plywood df"
    )]
    Df,
    /// Tell what this kernel offers, what is missing, and what to do about it
    #[command(after_help = "Example:\n  plywood doctor")]
    Doctor,
    /// Print a shell's completion script
    #[command(after_help = "Example:\n  plywood completion bash > /etc/bash_completion.d/plywood")]
    Completion(CompletionArgs),
}

/// `plywood import`
#[derive(Debug, Args)]
#[command(
    after_help = "The kind of archive and its compression (none, gzip, zstd) are recognised by content. Archives\nwith names of their own keep them, unless NAME is given for a single image. Prints each image's id.\n\nExamples:\n  plywood import -c 'CMD [\"/bin/bash\"]' debian.tar base:12\n  skopeo copy docker://debian:12 docker-archive:/dev/stdout | plywood import -\n  plywood import --layer --parent base:12 layer.tar ops"
)]
pub struct ImportArgs {
    /// Change the config: a Dockerfile line such as 'CMD ["/bin/bash"]'; may be repeated
    #[arg(short = 'c', long = "change", value_name = "CHANGE")]
    pub changes: Vec<String>,
    /// Message for the history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Refuse anything whose file (or layout's manifest) has another digest
    #[arg(long, value_name = "DIGEST")]
    pub digest: Option<plywood_store::Digest>,
    /// Let what is packed unpack to this much, such as 200G [default: 100 times what came, at least 4G]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_unpacked: Option<u64>,
    /// FILE is one layer's tar, to go on top of --parent
    #[arg(long, requires = "parent", requires = "name")]
    pub layer: bool,
    /// The image that the layer goes on top of
    #[arg(long, value_name = "IMAGE", requires = "layer")]
    pub parent: Option<String>,
    /// The archive, an OCI layout folder, or - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Name for the image
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<Reference>,
}

/// `plywood export`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  plywood export -o website.tar website-nginx\n  plywood export --format layer -o top.tar website-nginx      sha256sum of it is the layer's DiffID\n  plywood export --since ops-nginx -o update.tar website-nginx   only what ops-nginx lacks\n  plywood export --format docker-archive -o - website-nginx | podman load"
)]
pub struct ExportArgs {
    /// What to write
    #[arg(long, value_name = "FORMAT", default_value = "oci-archive")]
    pub format: ExportFormat,
    /// Only the layers that this image lacks; importable where it is
    #[arg(long, value_name = "IMAGE")]
    pub since: Option<String>,
    /// Pack the layers anew: none, gzip, zstd or zstd:LEVEL [default: as they are stored]
    #[arg(long, value_name = "HOW", value_parser = compression)]
    pub compress: Option<plywood_store::compress::Compression>,
    /// Bytes of the ext4 filesystem, sparse [default: 128 MiB and twice the image]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub size: Option<u64>,
    /// Where to: a file, a folder for oci-dir, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// The formats of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// An OCI layout in a tar
    OciArchive,
    /// An OCI layout as a folder
    OciDir,
    /// What docker load takes
    DockerArchive,
    /// The whole tree as one tar, without image data
    Rootfs,
    /// The top layer's uncompressed tar
    Layer,
    /// The whole tree as an ext4 filesystem: mount -o loop, or plywood try
    Ext4,
}

/// `plywood images`
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Print ids only
    #[arg(short = 'q', long = "quiet", id = "ids")]
    pub ids: bool,
    /// Full ids
    #[arg(long)]
    pub no_trunc: bool,
}

/// `plywood history`
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The image
    pub image: String,
    /// Full ids and commands
    #[arg(long)]
    pub no_trunc: bool,
}

/// `plywood inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Images and containers
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// `plywood tag`
#[derive(Debug, Args)]
pub struct TagArgs {
    /// The image
    pub image: String,
    /// The new name
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Reference,
}

/// `plywood rmi`
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Remove all names of an image given by id, and do not fail on a missing one
    #[arg(short, long)]
    pub force: bool,
    /// Only tell what would go and what it would free: blobs, and of layers what nothing else has
    #[arg(long)]
    pub dry_run: bool,
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// `plywood start`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  plywood start -a website")]
pub struct StartArgs {
    /// Stay with it: its output is plywood's, and its exit code
    #[arg(short, long)]
    pub attach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that leave the terminal, and let the container go on
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    pub detach_keys: String,
    /// Name or id
    pub container: String,
}

/// `plywood ps`
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Ended ones too
    #[arg(short, long)]
    pub all: bool,
    /// Print ids only
    #[arg(short = 'q', long = "quiet", id = "ids")]
    pub ids: bool,
    /// Full ids and commands
    #[arg(long)]
    pub no_trunc: bool,
}

/// `plywood rm`
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Kill a running one first, and do not fail on a missing one
    #[arg(short, long)]
    pub force: bool,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `plywood commit`
#[derive(Debug, Args)]
#[command(
    after_help = "The config is the image's, not the run's overrides, plus every --change. Prints the new image's id.\n\nExamples:\n  plywood commit -m \"ops nginx image\" ops ops-nginx\n  plywood commit -c 'CMD [\"nginx\", \"-g\", \"daemon off;\"]' -c 'EXPOSE 80' website website-nginx"
)]
pub struct CommitArgs {
    /// Message for the history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Who made it
    #[arg(short, long, value_name = "NAME")]
    pub author: Option<String>,
    /// Change the config: a Dockerfile line such as 'EXPOSE 80'; may be repeated
    #[arg(short = 'c', long = "change", value_name = "CHANGE")]
    pub changes: Vec<String>,
    /// How to find the changes
    #[arg(long, value_name = "DIFFER", default_value = "auto")]
    pub diff: DiffChoice,
    /// Freeze a container that runs while its files are captured; with false its files are taken as they come
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub pause: bool,
    /// Name or id of the container, running or not
    pub container: String,
    /// Name for the image; without it the image has only its id
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<Reference>,
}

/// `plywood merge`
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Message for the history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Name or id of the container
    pub container: String,
}

/// `plywood try`
#[derive(Debug, Args)]
pub struct TryArgs {
    /// Fold the changes into the file when the command has ended with 0
    #[arg(long, conflicts_with_all = ["keep", "discard"])]
    pub merge: bool,
    /// Keep the changes in this file, and go on from those that are in it
    #[arg(long, value_name = "COW", conflicts_with = "discard")]
    pub keep: Option<PathBuf>,
    /// Forget the changes; the default
    #[arg(long)]
    pub discard: bool,
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal of its own
    #[arg(short, long)]
    pub tty: bool,
    /// The file
    pub file: PathBuf,
    /// Command and arguments
    #[arg(value_name = "CMD", required = true, last = true)]
    pub command: Vec<String>,
}

/// The differs of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiffChoice {
    /// What costs least: changed blocks on thin, the upper folder on overlay, else a walk
    Auto,
    /// By changed blocks; an error where those cannot tell
    Block,
    /// Walk both trees
    Walk,
    /// As auto, and beside it a walk that reads everything; an error where their bytes differ
    Verify,
}

/// `plywood diff`
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A container, or the older image
    #[arg(value_name = "CONTAINER|IMAGE")]
    pub from: String,
    /// The newer image
    #[arg(value_name = "IMAGE")]
    pub to: Option<String>,
}

/// `plywood mount`
#[derive(Debug, Args)]
pub struct MountArgs {
    /// An image or a container
    #[arg(value_name = "IMAGE|CONTAINER")]
    pub object: String,
    /// An empty folder
    pub dir: Option<PathBuf>,
}

/// `plywood umount`
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Everything that is mounted
    #[arg(short, long)]
    pub all: bool,
    /// What was mounted, or the folder
    #[arg(value_name = "IMAGE|CONTAINER|DIR", required_unless_present = "all")]
    pub objects: Vec<String>,
}

/// `plywood gc`
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Only tell what would go
    #[arg(long)]
    pub dry_run: bool,
    /// The build cache too: the next build does all of its steps again
    #[arg(long)]
    pub build_cache: bool,
    /// Of the build cache only what no build has needed for so long: 12h, 30d
    #[arg(long, value_name = "DURATION", value_parser = value::duration, requires = "build_cache")]
    pub unused_for: Option<std::time::Duration>,
}

/// `plywood check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Make the index anew from the records
    #[arg(long)]
    pub rebuild: bool,
    /// Read every blob and compare it with its digest
    #[arg(long)]
    pub data: bool,
}

/// `plywood completion`
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    pub shell: Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        fn examples_missing(command: &clap::Command) -> Vec<String> {
            let shown = |help: &clap::builder::StyledStr| help.to_string().contains("Example");
            let own = !command.get_after_help().is_some_and(shown);
            let below = command.get_subcommands().flat_map(examples_missing);
            below.chain(own.then(|| command.get_name().to_owned())).collect()
        }
        assert_eq!(examples_missing(&Cli::command()), Vec::<String>::new());
    }
}
