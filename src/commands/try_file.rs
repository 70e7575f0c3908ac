//! `plywood try`: a command on a classic snapshot over an ext4 file that plywood exported.
//!
//! The command sees the file's filesystem and writes what it likes; the file itself
//! changes only with `--merge`, after the command has ended well. A merge that is cut
//! short leaves the file half merged; it is marked so beforehand, and the next
//! `plywood try` of the file finishes that first.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use clap::Parser;
use plywood_store::durable::{remove, sync_folder, try_flock};
use rustix::fs::FlockOperation;

use crate::cli::{RunArgs, TryArgs};
use crate::commands::container::{self, before_command};
use crate::commands::{Session, layer, request};
use crate::dm::ext4;
use crate::dm::plain::Plain;
use crate::dm::volume::Mode;
use crate::error::{Context, Error, Kind, Result, both};
use crate::exec::{self, Attendant, Streams, Surroundings};
use crate::failure::Outcome;
use crate::image::filesystem::{self, Mark};
use crate::image::oci::RunConfig;
use crate::image::whole::folder_of;
use crate::output::Bars;

/// What becomes of the changes.
enum End {
    Merge,
    Keep,
    Discard,
}

/// A file on trial.
struct Trial<'a> {
    file: &'a Path,
    cow: PathBuf,
    end: End,
    bars: &'a Bars,
    /// Nobody else tries it meanwhile.
    _lock: File,
}

/// Runs the verb.
///
/// # Errors
/// The command's code; 125 where plywood failed, with the file as it was.
pub fn run(args: &TryArgs, session: &Session) -> Outcome {
    crate::dm::require().map_err(before_command)?;
    let trial = Trial::begin(args, session).map_err(before_command)?;
    let ended = trial.run(args);
    let code = trial.end(session, ended).map_err(before_command)?;
    code.map(container::exit_code).map_err(container::failure)
}

impl<'a> Trial<'a> {
    fn begin(args: &'a TryArgs, session: &'a Session) -> Result<Self> {
        let file = args.file.as_path();
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .open(file)
            .context("open", file)?;
        if !try_flock(&lock, FlockOperation::NonBlockingLockExclusive).context("lock", file)? {
            return Err(Error::new(
                Kind::InUse,
                format!("another plywood try works on {}", file.display()),
            ));
        }
        let mark = filesystem::mark(&lock).context("read the mark of", file)?;
        let mark = mark.ok_or_else(|| {
            Error::invalid(format!("{} is no filesystem that plywood has exported", file.display())).hinted(format!(
                "plywood export --format ext4 makes one. A copy has lost its mark; to vouch for it: setfattr -n {} -v whole {}",
                filesystem::MARK,
                file.display()
            ))
        })?;
        let bars = session.output.bars();
        let beside = cow_beside(file);
        if mark == Mark::Merging {
            finish(file, &lock, &beside, bars)?;
            session.output.note(format!(
                "finished the merge into {}, which had been cut short",
                file.display()
            ));
        }
        let (cow, end) = match (&args.keep, args.merge) {
            (Some(cow), _) => (cow.clone(), End::Keep),
            (None, true) => (beside, End::Merge),
            (None, false) => (beside, End::Discard),
        };
        if !matches!(end, End::Keep) {
            // Of a try that was killed.
            remove(&cow)?;
        }
        Ok(Self {
            file,
            cow,
            end,
            bars,
            _lock: lock,
        })
    }

    /// The command on the snapshot; its devices are gone afterwards, unless they are to be merged.
    fn run(&self, args: &TryArgs) -> Result<(Plain, exec::Result<i32>)> {
        let plain = Plain::attach(self.file, &self.cow)?;
        match self.run_on(&plain, args) {
            Ok(code) => Ok((plain, code)),
            Err(error) => both(Err(error), plain.detach()),
        }
    }

    fn run_on(&self, plain: &Plain, args: &TryArgs) -> Result<exec::Result<i32>> {
        let spec = request::spec(&run_args(args)?, &RunConfig::default(), "try")?;
        let target = tempfile::tempdir().context("make a folder in", std::env::temp_dir())?;
        ext4::mount(&plain.device()?, target.path(), Mode::ReadWrite)?;
        let watch = File::open(target.path()).context("open", target.path());
        let code = exec::run(
            target.path(),
            &spec,
            Surroundings::default(),
            Attendant::Caller(Streams::own()),
            |_, _| Ok(()),
        );
        let synced = watch.and_then(|watch| rustix::fs::syncfs(&watch).context("sync", target.path()));
        let unmounted = both(synced, ext4::unmount(target.path()));
        both(unmounted, plain.require_whole())?;
        Ok(code)
    }

    fn end(&self, session: &Session, ended: Result<(Plain, exec::Result<i32>)>) -> Result<exec::Result<i32>> {
        let (plain, code) = match ended {
            Ok(ended) => ended,
            Err(error) => return both(Err(error), self.forget_cow()),
        };
        let ended_well = matches!(code, Ok(0));
        match self.end {
            End::Merge if ended_well => self.merge(&plain)?,
            End::Merge => {
                plain.detach()?;
                session
                    .output
                    .note(format!("the command failed: {} stays as it was", self.file.display()));
            }
            End::Keep | End::Discard => plain.detach()?,
        }
        self.forget_cow()?;
        Ok(code)
    }

    fn merge(&self, plain: &Plain) -> Result<()> {
        sync_folder(&folder_of(&self.cow))?;
        filesystem::set_mark(&self._lock, Mark::Merging).context("mark", self.file)?;
        let merged = layer::merging(self.bars, "merging", |progress| plain.merge(progress));
        both(merged, plain.detach())?;
        filesystem::set_mark(&self._lock, Mark::Whole).context("mark", self.file)
    }

    fn forget_cow(&self) -> Result<()> {
        match self.end {
            End::Keep => Ok(()),
            End::Merge | End::Discard
                if filesystem::mark(&self._lock).is_ok_and(|mark| mark == Some(Mark::Merging)) =>
            {
                Ok(())
            }
            End::Merge | End::Discard => remove(&self.cow).map(drop),
        }
    }
}

/// Finishes a merge that was cut short.
fn finish(file: &Path, lock: &File, cow: &Path, bars: &Bars) -> Result<()> {
    if !cow.exists() {
        return Err(Error::corrupt(format!(
            "{} is half merged, and the exception store {} is gone",
            file.display(),
            cow.display()
        ))
        .hinted("bring that file back from where it went: without it the filesystem is damaged"));
    }
    layer::merging(bars, "merging", |progress| Plain::finish_merge(file, cow, progress))?;
    filesystem::set_mark(lock, Mark::Whole).context("mark", file)?;
    remove(cow).map(drop)
}

/// Where the exceptions are that nobody wants to keep.
fn cow_beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".plywood-cow");
    folder_of(file).join(name)
}

/// A run with the defaults of `plywood run --net none`.
fn run_args(args: &TryArgs) -> Result<RunArgs> {
    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        run: RunArgs,
    }
    let flags = [(args.interactive, "--interactive"), (args.tty, "--tty")];
    let flags = flags.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag.to_owned());
    let head = ["plywood", "--net", "none"].map(str::to_owned).into_iter();
    let words = head
        .chain(flags)
        .chain(["file".to_owned()])
        .chain(args.command.iter().cloned());
    let parsed = Words::try_parse_from(words).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(parsed.run)
}
