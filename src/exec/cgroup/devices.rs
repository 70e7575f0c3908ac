//! Which devices a container's processes may open: the device cgroup.
//!
//! On cgroup v1 it is a controller with a list; on v2 a BPF program that the kernel asks at every opening and every
//! mknod(2), assembled here ([`program`]). A node that an image brings or a container makes opens nothing anyway,
//! since every mount is `nodev`; this holds where one has been reached all the same.

use crate::exec::device::{Access, Device, Kind};

/// What may be done with some devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// None: both kinds.
    kind: Option<Kind>,
    /// None: all.
    major: Option<u32>,
    /// None: all.
    minor: Option<u32>,
    access: Access,
    /// Somebody asked for it: then it must be.
    pub(super) is_asked: bool,
}

/// Docker's list (moby, oci/devices): any node may be made, and these be used. 136 are the terminals of devpts.
const DEFAULT: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// The rules of a container that was given `devices`.
pub fn rules(devices: &[Device]) -> Vec<Rule> {
    let make = Rule {
        kind: None,
        major: None,
        minor: None,
        access: Access::MAKE,
        is_asked: false,
    };
    let standard = DEFAULT.map(|(major, minor)| Rule {
        kind: Some(Kind::Character),
        major: Some(major),
        minor,
        access: Access::ALL,
        is_asked: false,
    });
    let given = devices.iter().map(|device| Rule {
        kind: Some(device.kind),
        major: Some(device.major),
        minor: Some(device.minor),
        access: device.access,
        is_asked: true,
    });
    [make].into_iter().chain(standard).chain(given).collect()
}

/// The rule as lines of v1's `devices.allow`.
pub(super) fn lines(rule: &Rule) -> Vec<String> {
    let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    let (major, minor) = (number(rule.major), number(rule.minor));
    let kinds = rule.kind.map_or(vec![Kind::Character, Kind::Block], |kind| vec![kind]);
    let line = |kind: Kind| format!("{} {major}:{minor} {}", kind.letter(), rule.access);
    kinds.into_iter().map(line).collect()
}

/// Codes of instructions (linux/bpf_common.h, linux/bpf.h): load a word, and, shift right, move a word, move a number,
/// jump if not equal, exit.
const LOAD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT: u8 = 0x74;
const MOVE: u8 = 0xbc;
const SET: u8 = 0xb7;
const JUMP: u8 = 0x55;
const EXIT: u8 = 0x95;
/// Registers: the answer; the context, free once it is read; and what is read of it.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// `struct bpf_insn` as a little-endian number.
fn instruction(code: u8, to: u8, from: u8, offset: u16, number: u32) -> u64 {
    u64::from(code) | u64::from(to) << 8 | u64::from(from) << 12 | u64::from(offset) << 16 | u64::from(number) << 32
}

/// The rules as a program over `struct bpf_cgroup_dev_ctx` (linux/bpf.h), which is three words: what is wanted in the
/// upper and the kind of device in the lower half of the first, major, minor. Its answer is 1 for yes.
pub(super) fn program(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD, KIND, CONTEXT, 0, 0),
        instruction(MOVE, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT, ACCESS, 0, 0, 16),
        instruction(LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules {
        program.extend(allow(rule));
    }
    program.extend([instruction(SET, ANSWER, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// The instructions that allow what the rule allows, and go on with what follows them otherwise.
fn allow(rule: &Rule) -> Vec<u64> {
    /// A test that does not hold jumps past all that is left.
    enum Step {
        Unless(u8, u32),
        Plain(u64),
    }
    let mut steps = Vec::new();
    let kind = rule.kind.map(|kind| Step::Unless(KIND, kind.number()));
    steps.extend(kind);
    let forbidden = Access::ALL.bits() & !rule.access.bits();
    if forbidden != 0 {
        steps.push(Step::Plain(instruction(MOVE, CONTEXT, ACCESS, 0, 0)));
        steps.push(Step::Plain(instruction(AND, CONTEXT, 0, 0, forbidden)));
        steps.push(Step::Unless(CONTEXT, 0));
    }
    steps.extend(rule.major.map(|major| Step::Unless(MAJOR, major)));
    steps.extend(rule.minor.map(|minor| Step::Unless(MINOR, minor)));
    steps.push(Step::Plain(instruction(SET, ANSWER, 0, 0, 1)));
    steps.push(Step::Plain(instruction(EXIT, 0, 0, 0, 0)));
    let left = (0..steps.len())
        .rev()
        .map(|left| u16::try_from(left).unwrap_or(u16::MAX));
    steps
        .into_iter()
        .zip(left)
        .map(|(step, left)| match step {
            Step::Plain(instruction) => instruction,
            Step::Unless(register, number) => instruction(JUMP, register, 0, left, number),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers: the few instructions that it is made of, done.
    fn answer(program: &[u64], kind: Kind, wanted: Access, major: u32, minor: u32) -> bool {
        let context = [wanted.bits() << 16 | kind.number(), major, minor];
        let mut registers = [0u32; 6];
        let mut at = 0;
        loop {
            let bytes = program[at].to_le_bytes();
            let (to, from) = (usize::from(bytes[1] & 15), usize::from(bytes[1] >> 4));
            let offset = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
            let number = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            at += 1;
            match bytes[0] {
                LOAD => registers[to] = context[offset / 4],
                AND => registers[to] &= number,
                SHIFT => registers[to] >>= number,
                MOVE => registers[to] = registers[from],
                SET => registers[to] = number,
                JUMP if registers[to] != number => at += offset,
                JUMP => {}
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_says_what_the_list_says() {
        let disk = Device {
            kind: Kind::Block,
            major: 7,
            minor: 3,
            access: "r".parse().unwrap(),
            ..Device::default()
        };
        let program = program(&rules(&[disk]));
        let access = |text: &str| text.parse::<Access>().unwrap();
        for (kind, wanted, major, minor, expected) in [
            (Kind::Character, "rw", 1, 3, true),
            (Kind::Character, "r", 1, 9, true),
            (Kind::Character, "rw", 136, 77, true),
            (Kind::Character, "rwm", 5, 2, true),
            (Kind::Block, "r", 1, 3, false),
            (Kind::Character, "r", 1, 1, false),
            (Kind::Character, "rw", 10, 200, false),
            (Kind::Block, "m", 8, 0, true),
            (Kind::Character, "m", 1, 1, true),
            (Kind::Block, "rm", 8, 0, false),
            (Kind::Block, "r", 7, 3, true),
            (Kind::Block, "w", 7, 3, false),
            (Kind::Block, "rw", 7, 3, false),
            (Kind::Block, "r", 7, 4, false),
            (Kind::Character, "r", 7, 3, false),
        ] {
            assert_eq!(
                answer(&program, kind, access(wanted), major, minor),
                expected,
                "{kind:?} {wanted} {major}:{minor}"
            );
        }
    }

    #[test]
    fn the_lists_lines_are_the_kernels() {
        let lines: Vec<String> = rules(&[]).iter().flat_map(lines).collect();
        assert_eq!(lines[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(lines[10], "c 136:* rwm");
    }
}
