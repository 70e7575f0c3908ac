//! The fields of a tar header (POSIX.1-2017, pax, "ustar Interchange Format"; GNU's number form beside it).

/// Bytes of a block: headers are one, contents are filled up to one.
pub(super) const BLOCK: usize = 512;

/// The formats that a header can be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// From before there were formats.
    V7,
    /// POSIX: with a prefix to the name.
    Ustar,
    /// GNU tar's own.
    Gnu,
}

/// Which format a header is of; none where readers take it for different ones. Some look at the
/// magic alone, some at the version too, and some use what is in the prefix's place in any case.
pub(super) fn form_of(header: &tar::Header) -> Option<Form> {
    let (_, magic) = header.as_bytes().split_at(257);
    let no_prefix = magic
        .get(88..243)
        .is_some_and(|prefix| prefix.iter().all(|byte| *byte == 0));
    let is_gnus_alone = matches!(header.as_old().linkflag[0], b'S' | b'L' | b'K');
    match magic {
        [b'u', b's', b't', b'a', b'r', 0, b'0', b'0', ..] => Some(Form::Ustar),
        [b'u', b's', b't', b'a', b'r', b' ', b' ', 0, ..] => Some(Form::Gnu).filter(|_| no_prefix || is_gnus_alone),
        [b'u', b's', b't', b'a', b'r', ..] => None,
        _ => Some(Form::V7).filter(|_| no_prefix),
    }
}

/// Whether every number field is a number. Readers look at different ones of them, also in headers
/// where they mean nothing, and give up where one is none.
pub(super) fn has_numbers(header: &tar::Header) -> bool {
    let old = header.as_old();
    let device = header.as_bytes().get(329..345).unwrap_or_default();
    let fields: [&[u8]; 5] = [&old.mode, &old.uid, &old.gid, &old.size, &old.mtime];
    // Only devices need theirs.
    let is_blank = |field: &[u8]| field.iter().all(|byte| matches!(byte, 0 | b' '));
    fields.iter().all(|field| number(field).is_some())
        && device.chunks(8).all(|field| is_blank(field) || number(field).is_some())
}

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
/// complement number whose first byte says that it is one, and its sign. Empty
/// is 0; blanks alone, anything behind a blank or NUL, tabs, and first bytes with
/// bits of the number in them are nothing: some readers take them, others do not.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let sign = match first {
            0x80 => 0,
            0xff => -1,
            _ => return None,
        };
        // Twelve bytes fit; nothing longer is a number field.
        return (field.len() <= 12).then(|| rest.iter().fold(sign, |value, byte| value << 8 | i128::from(*byte)));
    }
    let is_blank = |byte: &u8| matches!(byte, 0 | b' ');
    let start = field.iter().position(|byte| *byte != b' ')?;
    let (_, field) = field.split_at(start);
    let end = field.iter().position(is_blank).unwrap_or(field.len());
    let (digits, rest) = field.split_at(end);
    let is_empty = digits.is_empty() && (start > 0 || rest.iter().any(|byte| *byte != 0));
    if is_empty || !rest.iter().all(is_blank) {
        return None;
    }
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
    // libarchive takes no other bytes there, not even behind the number.
    let plain = field.iter().all(|byte| matches!(byte, 0 | b' ' | b'0'..=b'7'));
    plain && number(field) == Some(right)
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
            (b"       \0", None),
            (b"        ", None),
            (b"\x000000001", None),
            (b"77777777", Some(0o77_777_777)),
            (b"0000008\0", None),
            (b"-000001\0", None),
            (b"12 34\0\0\0", None),
            (b"\t000001\0", None),
            (b"0001\x0050\0", None),
            (b"1 \0\0 \0\0 ", Some(1)),
            (b"\xcf000001\0", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (&huge, Some(i128::from(i64::MAX))),
            (b"", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
