//! What a cgroup uses, out of the kernel's files.

use super::{Cgroup, Group, Version};

/// What a container uses now. None: the kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of processor time since it began.
    pub processor: Option<u64>,
    /// Bytes of memory, without page cache that could go at once.
    pub memory: Option<u64>,
    /// Bytes of memory that it may have.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes read from disks since it began.
    pub read: Option<u64>,
    /// Bytes written to disks since it began.
    pub written: Option<u64>,
}

impl Cgroup {
    /// What it uses now.
    pub fn usage(&self) -> Usage {
        let (read, written) = self.with("blkio").and_then(transferred).unzip();
        Usage {
            processor: self.processor_time(),
            memory: self.with("memory").and_then(memory),
            memory_limit: self.with("memory").and_then(memory_limit),
            pids: self.with("pids").and_then(|group| number(group, "pids.current")),
            read,
            written,
        }
    }

    /// Bytes that all containers of the root with this `uuid` have written and the kernel has not.
    pub fn all_unwritten(uuid: &str) -> u64 {
        let groups = Self::names(uuid).unwrap_or_default().into_iter();
        let groups = groups.filter_map(|name| Self::of(&name).ok());
        groups.fold(0, |sum, group| match group.with("memory") {
            Some(_) => sum.saturating_add(group.unwritten()),
            // That is the whole machine's already.
            None => group.unwritten().max(sum),
        })
    }

    /// Bytes that it has written and the kernel has not; without a memory controller those of the whole machine.
    pub fn unwritten(&self) -> u64 {
        let of = |text: &str, names: [&str; 2]| names.into_iter().filter_map(|name| field(text, name)).sum();
        let stat = self
            .with("memory")
            .and_then(|group| Some((group.version, group.read("memory.stat")?)));
        match stat {
            Some((Version::V1, stat)) => of(&stat, ["total_dirty", "total_writeback"]),
            Some((Version::V2, stat)) => of(&stat, ["file_dirty", "file_writeback"]),
            None => {
                let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
                of(&text, ["Dirty:", "Writeback:"]) * 1024
            }
        }
    }

    fn processor_time(&self) -> Option<u64> {
        match self.with("cpuacct") {
            Some(group) => number(group, "cpuacct.usage"),
            None => {
                let group = self.with("cpu")?;
                Some(field(&group.read("cpu.stat")?, "usage_usec")? * 1000)
            }
        }
    }
}

/// As Docker's figure: without the inactive page cache.
fn memory(group: &Group) -> Option<u64> {
    let (current, cache) = match group.version {
        Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
        Version::V2 => ("memory.current", "inactive_file"),
    };
    let cache = field(&group.read("memory.stat")?, cache).unwrap_or(0);
    Some(number(group, current)?.saturating_sub(cache))
}

fn memory_limit(group: &Group) -> Option<u64> {
    match group.version {
        // What v1 calls no limit is the largest number of whole pages.
        Version::V1 => number(group, "memory.limit_in_bytes").filter(|limit| *limit < 1 << 62),
        Version::V2 => number(group, "memory.max"),
    }
}

/// Bytes read and written.
fn transferred(group: &Group) -> Option<(u64, u64)> {
    match group.version {
        Version::V1 => {
            let text = group.read("blkio.throttle.io_service_bytes")?;
            Some((sum(&text, "Read "), sum(&text, "Write ")))
        }
        Version::V2 => {
            let text = group.read("io.stat")?;
            Some((sum(&text, "rbytes="), sum(&text, "wbytes=")))
        }
    }
}

/// The sum of the numbers that come right after `word`.
fn sum(text: &str, word: &str) -> u64 {
    let numbers = text.split(word).skip(1).filter_map(|rest| {
        let digits = rest.split(|byte: char| !byte.is_ascii_digit()).next()?;
        digits.parse::<u64>().ok()
    });
    numbers.fold(0, u64::saturating_add)
}

fn number(group: &Group, file: &str) -> Option<u64> {
    group.read(file)?.trim().parse().ok()
}

/// The number in the line `key number`.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    let words = text.lines().map(|line| line.split_once(' '));
    let mut values = words.filter_map(|words| words.filter(|(word, _)| *word == key));
    values.next()?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(field("low 0\noom 2\noom_kill 1\n", "oom_kill"), Some(1));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\n", "oom_kill"), None);
        assert_eq!(
            sum("8:0 Read 4096\n8:0 Write 10\n8:16 Read 4\nTotal 4110\n", "Read "),
            4100
        );
        assert_eq!(
            sum("8:0 rbytes=1 wbytes=20 rios=3\n8:1 rbytes=5 wbytes=2\n", "wbytes="),
            22
        );
        assert_eq!(sum("", "Read "), 0);
    }
}
