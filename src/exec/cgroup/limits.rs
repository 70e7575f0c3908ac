//! What a container may use at most: pure data, kept in its record.

use serde::{Deserialize, Serialize};

use super::io::{IoLimit, WEIGHTS};
use crate::exec::error::{Error, Result, Stage};

/// Bytes of memory below which not even a small program starts (Docker refuses the same).
const MEMORY_MIN: u64 = 6 << 20;
/// Thousandths of a processor that the kernel can still hand out: 1 ms of its 100 ms.
const CPUS_MIN: u32 = 10;
/// Processes that a container may have where nothing else was asked for: a fork bomb ends here.
pub const DEFAULT_PIDS: u64 = 4096;

/// Memory and swap together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Swap {
    /// As much swap as there is.
    Unlimited,
    /// This many bytes of both.
    Total(u64),
}

/// A container's limits; none is none, but for processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory, page cache included.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Memory and swap together; none with [`Limits::memory`]: twice that, as in Docker.
    #[serde(default)]
    pub memory_swap: Option<Swap>,
    /// Thousandths of one processor.
    #[serde(default)]
    pub cpus: Option<u32>,
    /// Processes and threads; zero: no limit; none: [`DEFAULT_PIDS`], where the kernel can.
    #[serde(default)]
    pub pids: Option<u64>,
    /// What goes to disks, and comes from them.
    #[serde(default)]
    pub io: Vec<IoLimit>,
    /// Its share of a busy disk, 10 to 1000.
    #[serde(default)]
    pub io_weight: Option<u16>,
}

impl Limits {
    /// Whether something can run within these.
    ///
    /// # Errors
    /// At stage [`Stage::Request`], naming the limit.
    pub fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::new(Stage::Request, what));
        if let Some(memory) = self.memory
            && memory < MEMORY_MIN
        {
            return bad(format!(
                "limit the memory to {memory} bytes: less than {} MiB holds no program",
                MEMORY_MIN >> 20
            ));
        }
        match (self.memory_swap, self.memory) {
            (Some(_), None) => return bad("limit memory and swap together without a limit of memory (-m)".to_owned()),
            (Some(Swap::Total(total)), Some(memory)) if total < memory => {
                return bad(format!(
                    "limit memory and swap together to {total} bytes: that is less than the {memory} of memory alone"
                ));
            }
            _ => {}
        }
        if let Some(limit) = self
            .io
            .iter()
            .find(|limit| limit.rate == 0 || !limit.device.is_absolute())
        {
            return bad(format!(
                "limit {} to {} a second: a disk is an absolute path, and a limit more than nothing",
                limit.device.display(),
                limit.rate
            ));
        }
        if let Some(weight) = self.io_weight.filter(|weight| !WEIGHTS.contains(weight)) {
            return bad(format!("weigh the use of disks {weight}: it is 10 to 1000"));
        }
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let most = u32::try_from(processors).unwrap_or(u32::MAX).saturating_mul(1000);
        match self.cpus {
            Some(cpus) if cpus < CPUS_MIN || cpus > most => bad(format!(
                "limit the processors to {}.{:03}: this machine has {processors}, and 0.01 is the least",
                cpus / 1000,
                cpus % 1000
            )),
            _ => Ok(()),
        }
    }

    /// The bytes of memory and swap together; none for no limit.
    pub(super) fn memory_and_swap(&self) -> Option<u64> {
        match self.memory_swap {
            Some(Swap::Unlimited) => None,
            Some(Swap::Total(total)) => Some(total),
            None => self.memory.map(|memory| memory.saturating_mul(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_nothing_can_run_within_are_refused() {
        let memory = |memory, memory_swap| Limits {
            memory: Some(memory),
            memory_swap,
            ..Limits::default()
        };
        let cpus = |cpus| Limits {
            cpus: Some(cpus),
            ..Limits::default()
        };
        Limits::default().check().unwrap();
        memory(64 << 20, Some(Swap::Total(64 << 20))).check().unwrap();
        cpus(500).check().unwrap();
        let swap_alone = Limits {
            memory_swap: Some(Swap::Unlimited),
            ..Limits::default()
        };
        for bad in [
            memory(1 << 20, None),
            memory(64 << 20, Some(Swap::Total(63 << 20))),
            swap_alone,
            cpus(9),
            cpus(u32::MAX),
        ] {
            assert_eq!(bad.check().unwrap_err().exit_code(), 125, "{bad:?}");
        }
    }

    #[test]
    fn swap_is_as_much_again_as_in_docker() {
        let with = |memory_swap| Limits {
            memory: Some(10),
            memory_swap,
            ..Limits::default()
        };
        assert_eq!(with(None).memory_and_swap(), Some(20));
        assert_eq!(with(Some(Swap::Total(10))).memory_and_swap(), Some(10));
        assert_eq!(with(Some(Swap::Unlimited)).memory_and_swap(), None);
        assert_eq!(Limits::default().memory_and_swap(), None);
    }
}
