//! Builds a classic snapshot's exception store.

#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "helpers of tests panic as tests do"
)]

/// The chunks of the origin that have an exception, in the order in which they were written.
pub type Entries = Vec<u64>;

/// A store of these with chunks of `chunk` bytes, and where in it each of them is. What is in the chunks is no
/// origin's.
pub fn store(chunk: u64, entries: &Entries) -> (Vec<u8>, Vec<u64>) {
    let per_area = chunk / 16;
    // As the kernel does it: the chunk of the next area is there and empty.
    let areas = entries.len() as u64 / per_area + 1;
    let mut image = vec![0; ((1 + areas * (per_area + 1)) * chunk) as usize];
    for (at, word) in [(0, 0x7041_6e53), (4, 1), (8, 1), (12, (chunk / 512) as u32)] {
        image[at..at + 4].copy_from_slice(&u32::to_le_bytes(word));
    }
    let mut news = Vec::new();
    for (number, old) in (0..).zip(entries) {
        let (area, entry) = (number / per_area, number % per_area);
        let list = 1 + area * (per_area + 1);
        let new = list + 1 + entry;
        let at = (list * chunk + 16 * entry) as usize;
        image[at..at + 8].copy_from_slice(&old.to_le_bytes());
        image[at + 8..at + 16].copy_from_slice(&new.to_le_bytes());
        image[(new * chunk) as usize..((new + 1) * chunk) as usize].fill(!(*old as u8));
        news.push(new);
    }
    (image, news)
}
