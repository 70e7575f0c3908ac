//! Tars by dice: every form that readers know, whole and damaged, with check sums that are right again.

use crate::tars::{records_of, seal};

/// The same numbers for the same seed (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    V7,
    Ustar,
    Gnu,
}

/// A whole archive; a third of them are then damaged.
pub fn archive(dice: &mut Dice) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..1 + dice.below(5) {
        entry(dice, &mut out);
    }
    match dice.below(25) {
        0 => out.extend([0; 512]),
        1 => {}
        2 => out.resize((out.len() + 1024).next_multiple_of(10240), 0),
        3 => {
            out.extend([0; 1024]);
            entry(dice, &mut out);
        }
        4 => {
            out.extend([0; 512]);
            entry(dice, &mut out);
            out.extend([0; 1024]);
        }
        _ => out.extend([0; 1024]),
    }
    if dice.once_in(3) {
        for _ in 0..1 + dice.below(3) {
            damage(dice, &mut out);
        }
    }
    out
}

/// Changes one byte of a block, and mostly puts its check sum right.
fn damage(dice: &mut Dice, tar: &mut Vec<u8>) {
    if tar.len() < 512 {
        return;
    }
    if dice.once_in(20) {
        tar.truncate(dice.below(tar.len()));
        return;
    }
    let start = dice.below(tar.len() / 512) * 512;
    let block = &mut tar[start..start + 512];
    let fields = [
        0, 1, 99, 100, 107, 108, 116, 124, 134, 135, 136, 147, 156, 157, 256, 257, 262, 263, 264, 329, 345, 482, 483,
        500,
    ];
    let at = if dice.once_in(2) {
        dice.pick(&fields)
    } else {
        dice.below(512)
    };
    block[at] = match dice.below(5) {
        0 => 0,
        1 => b' ',
        2 => dice.pick(b"0123456789xgLKS/.-\n\x80\xff"),
        3 => block[at] ^ (1 << dice.below(8)),
        _ => u8::try_from(dice.below(256)).unwrap(),
    };
    let header = block[257..262] == *b"ustar" || block[148..154].iter().all(u8::is_ascii_digit);
    if header && !dice.once_in(5) {
        seal(block);
    }
}

fn name(dice: &mut Dice, longest: usize) -> Vec<u8> {
    let mut name = Vec::new();
    match dice.below(10) {
        0 => name.extend(b"./"),
        1 => name.extend(b"/"),
        2 if dice.once_in(10) => name.extend(b"../"),
        _ => {}
    }
    for _ in 0..1 + dice.below(3) {
        let part: &[u8] = match dice.below(16) {
            0 => b"a b",
            1 => "gr\u{fc}n".as_bytes(),
            2 => b"\xff\xfe",
            3 => b"new\nline",
            4 => b".",
            5 => b".wh.x",
            6 => b"back\\slash",
            7 => b"\x01\x7f\"",
            8 => b"'quoted'",
            9 => b"",
            _ => dice.pick(&[b"a", b"b", b"c", b"d"]),
        };
        name.extend(part);
        if dice.once_in(6) {
            name.extend(std::iter::repeat_n(b'n', dice.below(longest)));
        }
        name.push(b'/');
    }
    if !dice.once_in(20) {
        name.pop();
    }
    if name.is_empty() && !dice.once_in(10) {
        name.push(b'e');
    }
    name.truncate(longest);
    name
}

/// A number as one of the ways to write it in a field of this width.
fn number(dice: &mut Dice, width: usize, value: u64) -> Vec<u8> {
    let octal = format!("{value:o}");
    let odd = if dice.once_in(4) { dice.below(14) } else { 13 };
    let mut field = match odd {
        // GNU's form for what octal digits cannot say.
        0 => {
            let mut field = vec![0; width];
            field[0] = 0x80;
            for (at, byte) in value.to_be_bytes().iter().rev().enumerate().take(width - 1) {
                field[width - 1 - at] = *byte;
            }
            field
        }
        1 => format!("{octal:>width$}", width = width - 1).into_bytes(),
        2 => format!("{octal:0>width$} ", width = width - 1).into_bytes(),
        3 => format!("{octal:0>width$}").into_bytes(),
        4 => format!("{octal} ").into_bytes(),
        5 => format!(" {octal}").into_bytes(),
        6 if dice.once_in(4) => vec![0xff; width],
        7 if dice.once_in(4) => vec![0; width],
        8 if dice.once_in(4) => vec![b' '; width],
        9 if dice.once_in(4) => format!("-{octal}").into_bytes(),
        _ => format!("{octal:0>width$}\0", width = width - 1).into_bytes(),
    };
    field.resize(width, 0);
    field
}

fn small(dice: &mut Dice) -> u64 {
    dice.pick(&[0, 1, 5, 511, 512, 513, 1024, 3000])
}

fn entry(dice: &mut Dice, out: &mut Vec<u8>) {
    let form = dice.pick(&[Form::V7, Form::Ustar, Form::Ustar, Form::Ustar, Form::Gnu, Form::Gnu]);
    let flag = match dice.below(24) {
        0 => b'\0',
        1 => b'1',
        2 | 3 => b'2',
        4 => b'3',
        5 => b'4',
        6..=9 => b'5',
        10 => b'6',
        11 => b'7',
        12 if dice.once_in(10) => dice.pick(b"8AVDMNX%\x80"),
        13 if form == Form::Gnu => b'S',
        _ => b'0',
    };
    let is_file = matches!(flag, b'\0' | b'0' | b'7' | b'S');
    let mut size = if is_file || dice.once_in(100) { small(dice) } else { 0 };
    let mut header = vec![0; 512];
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    extended(dice, flag, size, &mut records);
    let sparse_map = flag == b'S' && dice.once_in(2);
    let mut content = vec![b'c'; usize::try_from(size).unwrap()];
    if flag == b'0' && dice.once_in(15) {
        content = pax_sparse(dice, &mut records);
        size = content.len() as u64;
    }
    fields(dice, &mut header, form, flag, size);
    if flag == b'S' {
        old_sparse(dice, &mut header, size, sparse_map);
    }
    if records.iter().any(|(key, _)| key == "size") && dice.once_in(2) {
        header[124..136].copy_from_slice(b"00000000000\0");
    }
    seal(&mut header);
    let mut before = Vec::new();
    if form == Form::Gnu && dice.once_in(4) || dice.once_in(25) {
        for kind in if dice.once_in(3) { &b"KL"[..] } else { &b"L"[..] } {
            let mut long = name(dice, 300);
            if !dice.once_in(20) {
                long.push(0);
            }
            before.extend(meta(*kind, b"././@LongLink", &long));
        }
    }
    if !records.is_empty() {
        let records: Vec<_> = records
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()))
            .collect();
        let flag = if dice.once_in(25) { b'g' } else { b'x' };
        let x = meta(flag, b"PaxHeaders/x", &records_of(&records));
        if dice.once_in(2) {
            before.splice(0..0, x);
        } else {
            before.extend(x);
        }
    } else if dice.once_in(20) {
        before.extend(meta(b'g', b"pax_global_header", &records_of(&[("comment", b"c0ffee")])));
    }
    out.extend(before);
    out.extend(header);
    out.extend(content);
    out.resize(out.len().next_multiple_of(512), if dice.once_in(10) { b'p' } else { 0 });
}

fn meta(flag: u8, name: &[u8], body: &[u8]) -> Vec<u8> {
    crate::tars::raw(name, flag, b"", 0o644, body)
}

fn fields(dice: &mut Dice, header: &mut [u8], form: Form, flag: u8, size: u64) {
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name(dice, 100));
    let mode = dice.pick(&[0o644, 0o755, 0o4755, 0o1777, 0o100_644, 0o40_755, 0]);
    put(100, &number(dice, 8, mode));
    let owner = dice.pick(&[0, 1000, 65534, 0o7_777_777, 1 << 31]);
    put(108, &number(dice, 8, owner));
    let owner = dice.pick(&[0, 5, 100]);
    put(116, &number(dice, 8, owner));
    put(124, &format!("{size:011o}\0").into_bytes());
    if dice.once_in(5) {
        put(124, &number(dice, 12, size));
    }
    let time = dice.pick(&[0, 1, 1_500_000_000, 0o77_777_777_777, 1 << 33]);
    put(136, &number(dice, 12, time));
    put(156, &[flag]);
    if matches!(flag, b'1' | b'2') || dice.once_in(20) {
        put(157, &name(dice, 100));
    }
    match form {
        Form::V7 => {}
        Form::Ustar => {
            put(257, b"ustar\x0000");
            if dice.once_in(5) {
                put(345, &name(dice, 155));
            }
        }
        Form::Gnu => put(257, b"ustar  \0"),
    }
    if form != Form::V7 {
        put(265, b"user");
        put(297, b"group");
        if matches!(flag, b'3' | b'4') || dice.once_in(2) {
            put(329, b"0000001\x000000003\0");
        }
    }
}

/// PAX records, more or less right.
fn extended(dice: &mut Dice, flag: u8, size: u64, records: &mut Vec<(String, Vec<u8>)>) {
    if !dice.once_in(3) {
        return;
    }
    let strange = dice.once_in(5);
    for _ in 0..1 + dice.below(3) {
        let (key, value): (&str, Vec<u8>) = match dice.below(15) {
            0 => ("path", name(dice, 200)),
            1 => ("path", name(dice, 30)),
            2 if matches!(flag, b'1' | b'2') => ("linkpath", name(dice, 200)),
            3 => (
                "mtime",
                dice.pick(&[
                    &b"1500000000.25"[..],
                    b"1.5",
                    b"-1.5",
                    b"7",
                    b"0.000000001",
                    b"-3",
                    b"9999999999.1",
                ])
                .to_vec(),
            ),
            4 => (
                "uid",
                dice.pick(&[&b"7"[..], b"4294967294", b"0", b"-1", b"+5", b"1e3", b" 5", b"007"])
                    .to_vec(),
            ),
            5 if strange => ("gid", dice.pick(&[&b"8"[..], b"4294967295", b"100000", b"x"]).to_vec()),
            6 => ("size", size.to_string().into_bytes()),
            7 => (
                "size",
                dice.pick(&[&b"-1"[..], b"512", b"0x10", b"99999999999999999999", b"1 "])
                    .to_vec(),
            ),
            8 => ("comment", b"no matter".to_vec()),
            9 => ("SCHILY.xattr.user.a", b"v\n=\0".to_vec()),
            10 => ("uname", b"somebody".to_vec()),
            11 => (dice.pick(&["path", "linkpath", "mtime", "uid", "size"]), Vec::new()),
            12 => ("hdrcharset", b"BINARY".to_vec()),
            13 => ("uid", dice.pick(&[&b"7"[..], b"0", b"2097152", b"100000"]).to_vec()),
            _ => ("atime", b"1.5".to_vec()),
        };
        records.push((key.to_owned(), value));
    }
}

/// An old GNU map: pieces of 512 bytes with holes between, adding up to what is stored or not.
fn old_sparse(dice: &mut Dice, header: &mut [u8], stored: u64, right: bool) {
    let mut at = 386;
    let mut offset = dice.pick(&[0, 512, 4096]);
    let mut left = stored;
    for _ in 0..4 {
        if left == 0 {
            break;
        }
        let length = if right {
            left.min(512)
        } else {
            dice.pick(&[0, 512, 100]).min(left)
        };
        header[at..at + 24].copy_from_slice(format!("{offset:011o}\0{length:011o}\0").as_bytes());
        at += 24;
        offset += length + dice.pick(&[0, 512, 1024]);
        left -= length;
    }
    let real = if dice.once_in(8) { small(dice) } else { offset + 10 };
    header[483..495].copy_from_slice(format!("{real:011o}\0").as_bytes());
}

/// A sparse file in one of PAX's three forms; gives what is stored.
fn pax_sparse(dice: &mut Dice, records: &mut Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let mut put = |key: &str, value: String| records.push((format!("GNU.sparse.{key}"), value.into_bytes()));
    match dice.below(3) {
        0 => {
            put("size", "5000".to_owned());
            put("numblocks", "2".to_owned());
            for (offset, length) in [(0, 512), (2048, 512)] {
                put("offset", format!("{offset}"));
                put("numbytes", format!("{length}"));
            }
            vec![b's'; 1024]
        }
        1 => {
            put("size", "5000".to_owned());
            put("numblocks", "2".to_owned());
            put("map", "0,512,2048,512".to_owned());
            put("name", "sparse01".to_owned());
            vec![b's'; 1024]
        }
        _ => {
            put("major", "1".to_owned());
            put("minor", "0".to_owned());
            put("name", "sparse10".to_owned());
            put("realsize", "5000".to_owned());
            let mut stored = b"2\n0\n512\n2048\n512\n".to_vec();
            stored.resize(512, 0);
            stored.extend([b's'; 1024]);
            stored
        }
    }
}
