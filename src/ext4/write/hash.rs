//! The hash by which ext4 sorts large directories: half MD4 of the name, keyed by the volume.
//!
//! Format: `Documentation/filesystems/ext4/directory.rst`; the rounds are MD4's (RFC 1320), over eight words.

/// What directories of a volume are hashed with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hasher {
    /// `s_hash_seed`.
    pub(super) seed: [u32; 4],
    /// Whether bytes of names count as signed: `s_flags`, as the machine that formatted has them.
    pub(super) signed: bool,
}

/// Hashes of this value and the next mean the end of a directory to its readers.
const END: u32 = 0xFFFF_FFFE;
const INITIAL: [u32; 4] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];
/// Bytes of a name in one round.
const PIECE: usize = 32;

impl Hasher {
    /// The hash of a name, its lowest bit clear, and the minor hash that sorts equal ones.
    pub(super) fn hash(&self, name: &[u8]) -> (u32, u32) {
        let mut state = if self.seed == [0; 4] { INITIAL } else { self.seed };
        for at in (0..name.len()).step_by(PIECE) {
            // Each piece is padded with the length of all that is left.
            let rest = name.get(at..).unwrap_or_default();
            transform(&mut state, &self.words(rest));
        }
        let [_, hash, minor, _] = state;
        let hash = hash & !1;
        (if hash == END { END - 2 } else { hash }, minor)
    }

    fn words(&self, rest: &[u8]) -> [u32; 8] {
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX) & 0xFF;
        let padding = length.wrapping_mul(0x0101_0101);
        let mut words = [padding; 8];
        for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
            for byte in bytes {
                let value = if self.signed {
                    i32::from(byte.cast_signed()).cast_unsigned()
                } else {
                    u32::from(*byte)
                };
                *word = value.wrapping_add(*word << 8);
            }
        }
        words
    }
}

/// One round function with its constant, the order of the words and the shifts.
type Round = (fn(u32, u32, u32) -> u32, u32, [usize; 8], [u32; 4]);

const ROUNDS: [Round; 3] = [
    (|x, y, z| z ^ (x & (y ^ z)), 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
    (
        |x, y, z| (x & y).wrapping_add((x ^ y) & z),
        0x5A82_7999,
        [1, 3, 5, 7, 0, 2, 4, 6],
        [3, 5, 9, 13],
    ),
    (
        |x, y, z| x ^ y ^ z,
        0x6ED9_EBA1,
        [3, 7, 2, 6, 1, 5, 0, 4],
        [3, 9, 11, 15],
    ),
];

fn transform(state: &mut [u32; 4], words: &[u32; 8]) {
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, shifts) in ROUNDS {
        for (word, shift) in order.into_iter().zip(shifts.into_iter().cycle()) {
            let word = words.get(word).copied().unwrap_or_default();
            let turned = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(word)
                .wrapping_add(constant)
                .rotate_left(shift);
            (a, b, c, d) = (d, turned, b, c);
        }
    }
    for (state, word) in state.iter_mut().zip([a, b, c, d]) {
        *state = state.wrapping_add(word);
    }
}
