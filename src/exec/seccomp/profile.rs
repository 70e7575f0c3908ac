//! What a filter says: for which system calls, with which arguments, what becomes of the call.
//!
//! Kept in a container's record by the calls' names, so that a record means the
//! same on another processor.

use serde::{Deserialize, Serialize};

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The whole process is killed with SIGSYS.
    KillProcess,
    /// The calling thread is.
    KillThread,
    /// The thread gets a SIGSYS that it may handle.
    Trap,
    /// It fails with this number, at most 4095.
    Errno(u16),
    /// A tracer is told, with this number.
    Trace(u16),
    /// It is made, and the kernel's log says so.
    Log,
    /// It is made.
    Allow,
}

impl Action {
    /// How much it lets through: 0 is least. The kernel's own order between two filters (seccomp(2)).
    pub(super) fn leniency(self) -> u8 {
        match self {
            Self::KillProcess => 0,
            Self::KillThread => 1,
            Self::Trap => 2,
            Self::Errno(_) => 3,
            Self::Trace(_) => 4,
            Self::Log => 5,
            Self::Allow => 6,
        }
    }
}

/// How an argument is compared, unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// It is the value.
    Equal(u64),
    /// It is not.
    NotEqual(u64),
    /// It is below the value.
    Less(u64),
    /// It is not above.
    LessOrEqual(u64),
    /// It is above.
    Greater(u64),
    /// It is not below.
    GreaterOrEqual(u64),
    /// Of the bits in the mask, exactly these are set.
    Masked {
        /// The bits that count.
        mask: u64,
        /// What they are.
        value: u64,
    },
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// What it must be.
    pub test: Test,
}

/// A rule: calls, of which all conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Names of calls; those of other processors are passed over.
    pub calls: Vec<String>,
    /// On different arguments; none means always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What becomes of the call then.
    pub action: Action,
}

/// A filter, as a file says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// For calls that no rule meets.
    pub default: Action,
    /// Of a call's rules, those with conditions are asked first, in this order; of the others, the strictest counts.
    pub rules: Vec<Rule>,
    /// The kernel's log names what is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
}
