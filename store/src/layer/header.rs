//! The fields of a tar header (POSIX.1-2017, pax, "ustar Interchange Format"; GNU's number form beside it).

/// Bytes of a block: headers are one, contents are filled up to one.
pub(super) const BLOCK: usize = 512;

/// A text field.
pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Prefix and name of a header without extended ones.
pub(super) fn name_of(header: &tar::Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    match header.as_ustar().map(|ustar| until_nul(&ustar.prefix)) {
        Some(prefix) if !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

/// A number field: octal digits between blanks, or (GNU) a big-endian two's
/// complement number whose first bit is set. Empty is 0.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // The first bit marks the form, the second is the sign.
        let sign = if first & 0x40 != 0 { -1_i128 << 6 } else { 0 };
        let head = sign | i128::from(first & 0x3f);
        // Twelve bytes fit; nothing longer is a number field.
        return (field.len() <= 12).then(|| rest.iter().fold(head, |value, byte| value << 8 | i128::from(*byte)));
    }
    let digits = until_nul(field).trim_ascii();
    digits.iter().try_fold(0_i128, |value, byte| match byte {
        b'0'..=b'7' => Some(value << 3 | i128::from(byte - b'0')),
        _ => None,
    })
}

/// Whether the check sum is that of the header.
pub(super) fn is_sound(header: &tar::Header) -> bool {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| i128::from(*byte)).sum::<i128>();
    let field = &header.as_old().cksum;
    // Its own field counts as blanks.
    let right = sum(header.as_bytes()) - sum(field) + 8 * i128::from(b' ');
    number(field) == Some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u19_numbers_in_all_forms() {
        let huge = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"0000008\0", None),
            (b"-000001\0", None),
            (b"12 34\0\0\0", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (&huge, Some(i128::from(i64::MAX))),
            (b"", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
