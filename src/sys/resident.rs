//! madvise(2): pages of files that a process has mapped and does not need for long.
#![allow(unsafe_code, reason = "the system call has no safe wrapper")]

use std::io;
use std::ops::Range;

/// Lets go of all pages that only repeat what a file holds: programs and their constants, which come back
/// from the file when they are needed again. A process that waits for long then has little in memory.
///
/// # Errors
/// Where the kernel does not tell what is mapped.
pub fn let_go_of_files() -> io::Result<()> {
    for range in unchanged(&std::fs::read_to_string("/proc/self/smaps")?) {
        // SAFETY: no page in the range can be written, and none differs from its file, which is a program
        // that runs: reading them again gives the same bytes.
        let outcome = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(range.start),
                range.len(),
                libc::MADV_DONTNEED,
            )
        };
        if outcome != 0 {
            tracing::debug!("cannot let go of memory: {}", io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The mappings of files in a proc_pid_smaps(5) text that are not writable and have no page of their own.
fn unchanged(maps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in maps.lines() {
        if let Some(fields) = line.strip_prefix("Anonymous:") {
            let is_none = fields.split_whitespace().next() == Some("0");
            found.extend(mapping.take().filter(|_| is_none));
        } else if let Some(next) = header(line) {
            mapping = next;
        }
    }
    found
}

/// Where the line begins a mapping: its range, none where it must be let be.
fn header(line: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let parse = |text| usize::from_str_radix(text, 16).ok();
    let range = parse(start)?..parse(end)?;
    let flags = words.next()?;
    let inode = words.nth(2)?;
    Some((flags.starts_with('r') && flags.ends_with('p') && !flags.contains('w') && inode != "0").then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d000000000-55d000001000 r--p 00000000 fe:00 42                         /usr/bin/plywood
Rss:                   4 kB
Anonymous:             0 kB
55d000001000-55d000003000 r-xp 00001000 fe:00 42                         /usr/bin/plywood
Anonymous:             0 kB
55d000003000-55d000004000 r--p 00003000 fe:00 42                         /usr/bin/plywood
Anonymous:             4 kB
55d000004000-55d000005000 rw-p 00004000 fe:00 42                         /usr/bin/plywood
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 00:00 0                          [vvar]
Anonymous:             0 kB
7f0000001000-7f0000002000 r--s 00000000 fe:00 43                         /shared
Anonymous:             0 kB
";

    #[test]
    fn what_is_written_or_nobodys_file_stays() {
        assert_eq!(
            unchanged(MAPS),
            [0x55d0_0000_0000..0x55d0_0000_1000, 0x55d0_0000_1000..0x55d0_0000_3000]
        );
        assert_eq!(unchanged("Anonymous: 0 kB\nx y\n"), []);
    }

    #[test]
    fn a_process_goes_on_without_its_pages() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        let_go_of_files().unwrap();
        assert!(resident() < before);
    }
}
