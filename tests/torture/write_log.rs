//! What dm-log-writes has logged, written again up to any entry. Format: Linux, drivers/md/dm-log-writes.c.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// Bytes of an entry's head; the rest of its sector is a mark's text.
const HEAD: usize = 32;

/// One entry.
#[derive(Debug)]
pub struct Entry {
    flags: u64,
    /// The text of a mark.
    pub mark: Option<String>,
    /// Where it goes, bytes.
    to: u64,
    length: u64,
    /// Where its content is in the log, bytes.
    from: u64,
}

impl Entry {
    /// Whether all that was logged before it is on the disk: a flush, or a write that goes through.
    pub fn is_barrier(&self) -> bool {
        self.flags & (FLUSH | FUA) != 0
    }
}

/// A log that is complete: its device is gone.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// In the order in which the disk had them: writes at the flush that made them lasting.
    pub entries: Vec<Entry>,
}

impl Log {
    /// Reads the heads.
    pub fn read(path: &Path) -> Self {
        let file = File::open(path).expect("the log");
        let head = bytes(&file, 0, HEAD);
        assert_eq!((word(&head, 0), word(&head, 1)), (MAGIC, VERSION), "a log's superblock");
        let (count, sector) = (word(&head, 2), word(&head, 3) & u64::from(u32::MAX));
        let mut at = sector;
        let mut entries = Vec::new();
        for _ in 0..count {
            let head = bytes(&file, at, HEAD);
            let flags = word(&head, 2);
            let text = |length| {
                let text = bytes(&file, at + HEAD as u64, usize::try_from(length).expect("a length"));
                String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned()
            };
            let entry = Entry {
                flags,
                mark: (flags & MARK != 0).then(|| text(word(&head, 3))),
                to: word(&head, 0) * sector,
                length: word(&head, 1) * sector,
                from: at + sector,
            };
            let has_content = flags & DISCARD == 0;
            at += sector + if has_content { entry.length } else { 0 };
            entries.push(entry);
        }
        Self { file, entries }
    }

    /// Does to a disk what this entry did.
    pub fn apply(&self, entry: &Entry, disk: &File) {
        if entry.flags & DISCARD != 0 {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(disk, flags, entry.to, entry.length).expect("a hole");
        } else if entry.length > 0 {
            let content = bytes(&self.file, entry.from, usize::try_from(entry.length).expect("a length"));
            disk.write_all_at(&content, entry.to).expect("a write");
        }
    }

    /// The writes after the first `done` entries of which a power cut may keep any: none of them waited for another.
    pub fn unsettled(&self, done: usize) -> impl Iterator<Item = &Entry> {
        let rest = self.entries[done..].iter();
        rest.take_while(|entry| !entry.is_barrier() && entry.flags & (MARK | DISCARD) == 0)
    }
}

fn bytes(file: &File, at: u64, length: usize) -> Vec<u8> {
    let mut content = vec![0; length];
    file.read_exact_at(&mut content, at).expect("the log's content");
    content
}

fn word(head: &[u8], number: usize) -> u64 {
    u64::from_le_bytes(head[8 * number..8 * number + 8].try_into().expect("eight bytes"))
}
