//! `plywood logs`: what a detached container has written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plywood_store::Store;
use plywood_store::record::ContainerRecord;

use crate::cli::LogsArgs;
use crate::commands::{Session, container};
use crate::error::{Context, Error, Result};
use crate::exec::log::{self, Stream};
use crate::exec::state;
use crate::failure::{OK, Outcome};

/// How often a log is looked at for more.
const PAUSE: Duration = Duration::from_millis(50);

/// The log of a container.
///
/// # Errors
/// Where its folder cannot be made.
pub fn path(store: &Store, id: &str) -> Result<PathBuf> {
    Ok(store.folder("logs")?.join(format!("{id}.log")))
}

/// Removes the log of a container that is gone.
///
/// # Errors
/// I/O; none is no error.
pub fn remove(store: &Store, id: &str) -> Result<()> {
    let path = store.root().join("logs").join(format!("{id}.log"));
    for file in [&path, &log::older(&path)] {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("remove", file, error)),
            _ => {}
        }
    }
    Ok(())
}

/// Prints what a container has written, to standard output and error as it was.
///
/// # Errors
/// Where there is no such container, or it was not detached.
pub fn run(args: &LogsArgs, session: &Session) -> Outcome {
    let store = session.store()?.ok_or_else(|| container::none(&args.container))?;
    let record = store.find_container(&args.container)?;
    let path = path(&store, &record.id)?;
    let mut files = Vec::new();
    for path in [log::older(&path), path.clone()] {
        match File::open(&path) {
            Ok(file) => files.push(file),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("open", &path, error).into()),
        }
    }
    let Some(last) = files.last() else {
        return Err(none(&record).into());
    };
    let inode = last.metadata().context("look at", &path)?.ino();
    let mut printer = Printer {
        times: args.timestamps,
        is_within_line: [false; 2],
    };
    let mut left = match args.tail {
        Some(tail) => skipped(&files, &path, tail)?,
        None => 0,
    };
    let mut readers: Vec<_> = files.into_iter().map(BufReader::new).collect();
    for reader in &mut readers {
        printer.print(reader, &path, &mut left)?;
    }
    if let Some(reader) = readers.pop().filter(|_| args.follow) {
        follow(&store, &record, &path, reader, inode, &mut printer)?;
    }
    Ok(OK)
}

fn none(record: &ContainerRecord) -> Error {
    Error::not_found(format!("nothing was kept of what container {} wrote", record.name))
        .hinted("output is kept of containers that run detached (-d) or at a terminal (-it); others write to whoever started them")
}

/// How many entries are before the last `tail` lines.
fn skipped(files: &[File], path: &Path, tail: usize) -> Result<usize> {
    let mut entries = 0usize;
    // Where lines end, of the last ones and the one before them.
    let mut ends = VecDeque::new();
    for file in files {
        for line in BufReader::new(file).split(b'\n') {
            let line = line.context("read", path)?;
            entries += 1;
            if log::parse(&line).is_some_and(|entry| !entry.is_partial) {
                ends.push_back(entries);
            }
            if ends.len() > tail + 1 {
                ends.pop_front();
            }
        }
        (&mut &*file).rewind().context("read", path)?;
    }
    Ok(if ends.len() > tail {
        ends.front().copied().unwrap_or(0)
    } else {
        0
    })
}

/// Prints what comes, until the container has ended.
fn follow(
    store: &Store,
    record: &ContainerRecord,
    path: &Path,
    mut reader: BufReader<File>,
    mut inode: u64,
    printer: &mut Printer,
) -> Result<()> {
    loop {
        // Looked at before reading: what was written until then is read.
        let current = store.containers.get(&record.id)?;
        let lives = current.is_some_and(|current| state::is_alive(&current.state));
        printer.print(&mut reader, path, &mut 0)?;
        match std::fs::metadata(path) {
            Ok(there) if there.ino() != inode => {
                reader = BufReader::new(File::open(path).context("open", path)?);
                inode = there.ino();
                continue;
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("look at", path, error)),
            _ => {}
        }
        if !lives {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Writes entries as the command wrote them.
struct Printer {
    times: bool,
    /// Of standard output, of standard error.
    is_within_line: [bool; 2],
}

impl Printer {
    /// Prints what there is, but for the first `left` entries.
    fn print(&mut self, reader: &mut BufReader<File>, path: &Path, left: &mut usize) -> Result<()> {
        loop {
            let mut line = Vec::new();
            let length = reader.read_until(b'\n', &mut line).context("read", path)?;
            if length == 0 {
                return Ok(());
            }
            if line.pop() != Some(b'\n') {
                // The rest of it is being written.
                let back = i64::try_from(length).unwrap_or(i64::MAX);
                return reader.seek_relative(-back).context("read", path);
            }
            if *left > 0 {
                *left -= 1;
                continue;
            }
            if let Some(entry) = log::parse(&line) {
                match entry.stream {
                    Stream::Stdout => self.write(std::io::stdout().lock(), 0, &entry)?,
                    Stream::Stderr => self.write(std::io::stderr().lock(), 1, &entry)?,
                }
            }
        }
    }

    fn write(&mut self, mut to: impl Write, stream: usize, entry: &log::Entry<'_>) -> Result<()> {
        let mut text = Vec::with_capacity(entry.content.len() + 40);
        if let Some(within) = self.is_within_line.get_mut(stream) {
            if self.times && !*within {
                text.extend_from_slice(entry.time.as_bytes());
                text.push(b' ');
            }
            *within = entry.is_partial;
        }
        text.extend_from_slice(entry.content);
        if !entry.is_partial {
            text.push(b'\n');
        }
        to.write_all(&text)
            .and_then(|()| to.flush())
            .context("write", "the log")
    }
}
