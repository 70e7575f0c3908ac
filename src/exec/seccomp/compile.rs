//! Rules to a BPF program that is quick to load and quick to run.
//!
//! `seccompiler` makes the instructions that compare arguments. Which rule a
//! call's number leads to is a search tree over ranges of numbers, made here:
//! the crate asks number after number, 1555 instructions for the default
//! profile's calls without their conditions, and the kernel, which tries a new
//! filter on every number, takes 0.65 ms to load them at each start of a
//! container. The tree has 184, conditions included, and takes 0.05 ms. Besides,
//! the crate has one error number for a whole filter, and its loader sets
//! `no_new_privs`.
//!
//! ```text
//! other architecture?         kill: its calls have other numbers
//! number, halved and halved:  a range of calls with one answer, or one call with conditions
//! above all that rules name:  ENOSYS, so that a C library falls back to an older call
//! ```

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, sock_filter,
};

use super::numbers::calls;
use super::profile::{Action, Condition, Test};

/// The kernel's `BPF_MAXINSNS`.
const INSTRUCTIONS_MAX: usize = 4096;
/// Where the kernel puts number and architecture of a call (`struct seccomp_data`).
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
/// This processor's, 64 bits (`AUDIT_ARCH_*` of linux/audit.h).
#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_00b7;

/// The error number for calls that a filter could not know.
const ENOSYS: u16 = 38;

/// Calls whose first, second and third argument is an `int` to the kernel: it does not look at the upper half,
/// so neither may a rule, or `socket(AF_ALG + 2^32, …)` would be a domain above all that are forbidden.
const INTEGERS: [(u8, &[u32]); 3] = [
    (0, calls![socket socketpair personality prctl]),
    (1, calls![socket socketpair ioctl fcntl kill]),
    (2, calls![socket socketpair]),
];

/// A rule whose calls are numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule<'a> {
    pub(super) calls: &'a [u32],
    pub(super) conditions: &'a [Condition],
    pub(super) action: Action,
}

/// Why rules are no filter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// What the crate says of a condition.
    Condition(seccompiler::BackendError),
    /// That many instructions.
    Length(usize),
}

/// A call's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Always(Action),
    /// This call's conditions decide.
    Asks(u32),
}

/// Answers, each from a number on up to the next one's.
type Ranges = [(u32, Answer)];

/// The program for these rules, and `default` for what they do not meet.
pub(super) fn compile(default: Action, rules: &[Rule<'_>]) -> Result<BpfProgram, Fault> {
    let answers = Answers::of(default, rules);
    let mut program = vec![
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, ARCHITECTURE_OFFSET),
        jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
        give(Action::KillProcess),
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER_OFFSET),
    ];
    search(&answers.ranges(), &mut program, &|number, into| {
        for rule in answers.asked.get(&number).into_iter().flatten() {
            into.extend(conditions(number, rule).map_err(Fault::Condition)?);
            into.push(give(rule.action));
        }
        into.push(give(answers.always(number)));
        Ok(())
    })?;
    match program.len() {
        length if length > INSTRUCTIONS_MAX => Err(Fault::Length(length)),
        _ => Ok(program),
    }
}

/// The rules by the calls' numbers.
struct Answers<'a> {
    default: Action,
    /// Of the rules without conditions, from number 0 to the highest that any rule names.
    fixed: Vec<Option<Action>>,
    /// The rules with conditions.
    asked: BTreeMap<u32, Vec<&'a Rule<'a>>>,
}

impl<'a> Answers<'a> {
    fn of(default: Action, rules: &'a [Rule<'a>]) -> Self {
        let newest = rules.iter().flat_map(|rule| rule.calls).max();
        let mut fixed: Vec<Option<Action>> = vec![None; newest.map_or(0, |newest| *newest as usize + 1)];
        let mut asked: BTreeMap<u32, Vec<&Rule<'_>>> = BTreeMap::new();
        for rule in rules {
            for number in rule.calls {
                if !rule.conditions.is_empty() {
                    asked.entry(*number).or_default().push(rule);
                } else if let Some(answer) = fixed.get_mut(*number as usize) {
                    // Of two that contradict each other, the stricter counts.
                    let is_stricter = |other: &Action| other.leniency() <= rule.action.leniency();
                    *answer = answer.filter(is_stricter).or(Some(rule.action));
                }
            }
        }
        Self { default, fixed, asked }
    }

    /// What becomes of a call whose conditions do not hold, or that has none.
    fn always(&self, number: u32) -> Action {
        let fixed = self.fixed.get(number as usize).copied().flatten();
        fixed.unwrap_or(self.default)
    }

    /// In order, from 0 to the highest number there can be.
    fn ranges(&self) -> Vec<(u32, Answer)> {
        let beyond = match self.default {
            Action::Errno(_) => Action::Errno(ENOSYS),
            other => other,
        };
        let answers = (0..).zip(&self.fixed).map(|(number, _)| {
            let answer = match self.asked.contains_key(&number) {
                true => Answer::Asks(number),
                false => Answer::Always(self.always(number)),
            };
            (number, answer)
        });
        let after = u32::try_from(self.fixed.len()).unwrap_or(u32::MAX);
        let mut ranges: Vec<(u32, Answer)> = Vec::new();
        for (number, answer) in answers.chain([(after, Answer::Always(beyond))]) {
            if ranges.last().is_none_or(|(_, last)| *last != answer) {
                ranges.push((number, answer));
            }
        }
        ranges
    }
}

/// Adds the instructions that find the number's range, and its answer. `ask` adds those of one call's conditions.
fn search(
    ranges: &Ranges,
    into: &mut BpfProgram,
    ask: &dyn Fn(u32, &mut BpfProgram) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    match (lower, upper) {
        (_, []) => Ok(()),
        ([], [(_, Answer::Asks(number)), ..]) => ask(*number, into),
        ([], [(_, Answer::Always(action)), ..]) => {
            into.push(give(*action));
            Ok(())
        }
        (_, [(first, _), ..]) => {
            let mut below = Vec::new();
            search(lower, &mut below, ask)?;
            // A conditional jump reaches 255 instructions.
            if let Ok(length) = u8::try_from(below.len()) {
                into.push(jump(libc::BPF_JGE, *first, length, 0));
            } else {
                let length = u32::try_from(below.len()).map_err(|_| Fault::Length(below.len()))?;
                into.push(jump(libc::BPF_JGE, *first, 0, 1));
                into.push(statement(libc::BPF_JMP | libc::BPF_JA, length));
            }
            into.append(&mut below);
            search(upper, into, ask)
        }
    }
}

/// The instructions that compare the arguments of call `number`: they go on behind the next one where they do not
/// hold.
fn conditions(number: u32, rule: &Rule<'_>) -> Result<BpfProgram, seccompiler::BackendError> {
    let made = rule.conditions.iter().map(|condition| {
        let is_integer = |(argument, calls): &(u8, &[u32])| *argument == condition.argument && calls.contains(&number);
        let length = match INTEGERS.iter().any(is_integer) {
            true => SeccompCmpArgLen::Dword,
            false => SeccompCmpArgLen::Qword,
        };
        let (operator, value) = match condition.test {
            Test::Equal(value) => (SeccompCmpOp::Eq, value),
            Test::NotEqual(value) => (SeccompCmpOp::Ne, value),
            Test::Less(value) => (SeccompCmpOp::Lt, value),
            Test::LessOrEqual(value) => (SeccompCmpOp::Le, value),
            Test::Greater(value) => (SeccompCmpOp::Gt, value),
            Test::GreaterOrEqual(value) => (SeccompCmpOp::Ge, value),
            Test::Masked { mask, value } => (SeccompCmpOp::MaskedEq(mask), value),
        };
        SeccompCondition::new(condition.argument, length, operator, value)
    });
    Ok(SeccompRule::new(made.collect::<Result<_, _>>()?)?.into())
}

/// Ends the program with what becomes of the call.
fn give(action: Action) -> sock_filter {
    let action = match action {
        Action::KillProcess => SeccompAction::KillProcess,
        Action::KillThread => SeccompAction::KillThread,
        Action::Trap => SeccompAction::Trap,
        Action::Errno(number) => SeccompAction::Errno(number.into()),
        Action::Trace(number) => SeccompAction::Trace(number.into()),
        Action::Log => SeccompAction::Log,
        Action::Allow => SeccompAction::Allow,
    };
    statement(libc::BPF_RET | libc::BPF_K, action.into())
}

fn statement(code: u32, operand: u32) -> sock_filter {
    instruction(code, operand, 0, 0)
}

/// Goes on behind `then` instructions where the comparison holds, behind `otherwise` where not.
fn jump(comparison: u32, operand: u32, then: u8, otherwise: u8) -> sock_filter {
    instruction(libc::BPF_JMP | comparison | libc::BPF_K, operand, then, otherwise)
}

fn instruction(code: u32, operand: u32, jt: u8, jf: u8) -> sock_filter {
    // Codes of classic BPF are a byte.
    let code = (code & 0xff) as u16;
    sock_filter {
        code,
        jt,
        jf,
        k: operand,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel would say to a call: number, architecture, arguments.
    pub(in super::super) fn ask(program: &[sock_filter], number: u32, architecture: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [number, architecture, 0, 0].to_vec();
        data.extend(
            arguments
                .iter()
                .flat_map(|argument| [(argument & 0xffff_ffff) as u32, (argument >> 32) as u32]),
        );
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let when = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                0x20 => accumulator = data[k as usize / 4],
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x15 => at += when(accumulator == k),
                0x25 => at += when(accumulator > k),
                0x35 => at += when(accumulator >= k),
                0x06 => return k,
                other => panic!("an instruction that no filter has: {other:#x}"),
            }
        }
    }

    /// The same to a call of this processor, by the rules themselves.
    fn judge(default: Action, rules: &[Rule<'_>], number: u32, arguments: [u64; 6]) -> u32 {
        let holds = |condition: &Condition| {
            let argument = arguments[usize::from(condition.argument)];
            match condition.test {
                Test::Equal(value) => argument == value,
                Test::NotEqual(value) => argument != value,
                Test::Less(value) => argument < value,
                Test::LessOrEqual(value) => argument <= value,
                Test::Greater(value) => argument > value,
                Test::GreaterOrEqual(value) => argument >= value,
                Test::Masked { mask, value } => argument & mask == value & mask,
            }
        };
        let of = |with: bool| {
            rules
                .iter()
                .filter(move |rule| rule.conditions.is_empty() != with && rule.calls.contains(&number))
        };
        let met = of(true)
            .find(|rule| rule.conditions.iter().all(holds))
            .or(of(false).min_by_key(|rule| rule.action.leniency()));
        let newest = rules.iter().flat_map(|rule| rule.calls).max();
        give(match (met, default) {
            (Some(rule), _) => rule.action,
            (None, Action::Errno(_)) if newest.is_none_or(|newest| number > *newest) => Action::Errno(ENOSYS),
            (None, default) => default,
        })
        .k
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            Just(Action::Allow),
            Just(Action::Log),
            Just(Action::KillProcess),
            Just(Action::KillThread),
            Just(Action::Trap),
            (0..4096_u16).prop_map(Action::Errno),
            (0..9_u16).prop_map(Action::Trace),
        ]
    }

    /// Few values, near each other and near where the halves meet.
    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..4_u64,
            (1 << 32) - 2..(1 << 32) + 2_u64,
            (3 << 32)..(3 << 32) + 3_u64,
            Just(u64::MAX)
        ]
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let test = (0..7, value(), value()).prop_map(|(kind, value, mask)| match kind {
            0 => Test::Equal(value),
            1 => Test::NotEqual(value),
            2 => Test::Less(value),
            3 => Test::LessOrEqual(value),
            4 => Test::Greater(value),
            5 => Test::GreaterOrEqual(value),
            _ => Test::Masked { mask, value },
        });
        (0..2_u8, test).prop_map(|(argument, test)| Condition { argument, test })
    }

    type Owned = (Vec<u32>, Vec<Condition>, Action);

    fn rules() -> impl Strategy<Value = Vec<Owned>> {
        // None of INTEGERS: those are compared in another way.
        let number = prop_oneof![300..320_u32, 0..470_u32].prop_filter("an integer's", |number| {
            INTEGERS.iter().all(|(_, calls)| !calls.contains(number))
        });
        let rule = (
            prop::collection::vec(number, 1..40),
            prop::collection::vec(condition(), 0..3),
            action(),
        );
        prop::collection::vec(rule, 0..12)
    }

    proptest! {
        #[test]
        fn the_program_says_what_the_rules_say(
            default in action(),
            owned in rules(),
            asked in prop::collection::vec((prop_oneof![300..320_u32, 0..480_u32, Just(0x4000_0000), Just(u32::MAX)],
                [value(), value(), value(), value(), value(), value()]), 200),
        ) {
            let rules: Vec<Rule<'_>> = owned
                .iter()
                .map(|(calls, conditions, action)| Rule { calls, conditions, action: *action })
                .collect();
            let program = compile(default, &rules).unwrap();
            for (number, arguments) in asked {
                prop_assert_eq!(
                    ask(&program, number, ARCHITECTURE, arguments),
                    judge(default, &rules, number, arguments),
                    "{} {:?}", number, arguments
                );
                prop_assert_eq!(ask(&program, number, 0x4000_0003, arguments), libc::SECCOMP_RET_KILL_PROCESS);
            }
        }
    }

    #[test]
    fn a_program_that_no_kernel_takes_is_refused() {
        let conditions: Vec<Condition> = (0..6)
            .map(|argument| Condition {
                argument,
                test: Test::Equal(1),
            })
            .collect();
        let calls: Vec<u32> = (0..400).collect();
        let rule = Rule {
            calls: &calls,
            conditions: &conditions,
            action: Action::Allow,
        };
        assert!(matches!(compile(Action::Trap, &[rule]), Err(Fault::Length(_))));
    }
}
