//! Whether a container runs: what its record says, held against the process table.

use plywood_store::record::ContainerState;

/// The exit code of a command that died of SIGKILL, as one does whose plywood was killed.
pub const CODE_KILLED: i32 = 137;

/// When process `pid` was started, in clock ticks since boot (`/proc/<pid>/stat`,
/// field 22); none where there is no such process, or it has ended and was not waited for.
pub fn start_ticks(pid: u32) -> Option<u64> {
    parse_start_ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The parent of process `pid` (`/proc/<pid>/stat`, field 4); none where there is none to be seen.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    (parent > 0).then_some(parent)
}

fn parse_start_ticks(stat: &str) -> Option<u64> {
    // The second field is the command's name in parentheses, and may hold any of them.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(ticks)
}

/// Whether the very process that a running container's record names lives.
pub fn is_alive(state: &ContainerState) -> bool {
    match state {
        ContainerState::Running {
            pid,
            start_ticks: recorded,
            ..
        } => start_ticks(*pid) == Some(*recorded),
        ContainerState::Created | ContainerState::Exited { .. } => false,
    }
}

/// The state as it is: a record that says *running* of a dead process is one of a
/// container that was killed together with its plywood.
#[must_use]
pub fn settled(state: &ContainerState) -> ContainerState {
    match state {
        ContainerState::Running { started_at, .. } if !is_alive(state) => ContainerState::Exited {
            code: CODE_KILLED,
            ended_at: *started_at,
        },
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_process_name_does_not_move_the_fields() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(parse_start_ticks(&format!("7 (sh) {tail}")), Some(4242));
        assert_eq!(parse_start_ticks(&format!("7 (a) S 9 9 (b) c) {tail}")), Some(4242));
        assert_eq!(
            parse_start_ticks(&format!("7 (sh) {}", tail.replacen('S', "Z", 1))),
            None
        );
        for bad in ["", "7", "7 (sh", "7 (sh) S 1"] {
            assert_eq!(parse_start_ticks(bad), None);
        }
    }

    #[test]
    fn a_number_that_was_reused_is_another_process() {
        let pid = std::process::id();
        let ticks = start_ticks(pid).unwrap();
        let running = |start_ticks| ContainerState::Running {
            pid,
            start_ticks,
            started_at: 5,
            made: None,
        };
        assert!(is_alive(&running(ticks)));
        assert!(!is_alive(&running(ticks + 1)));
        assert_eq!(
            settled(&running(ticks + 1)),
            ContainerState::Exited { code: 137, ended_at: 5 }
        );
        assert_eq!(settled(&running(ticks)), running(ticks));
    }
}
