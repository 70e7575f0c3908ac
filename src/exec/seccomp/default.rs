//! The default: what programs need and a container's keeper need not fear.
//!
//! An allow-list as Docker's (`seccomp/default.json` of moby/profiles, June
//! 2026), grouped by what calls are for. Calls that go with a capability are
//! given where the container has it. What is on no list fails with EPERM, among
//! them mounting, namespaces, the kernel's keys, `io_uring`, `userfaultfd`, BPF,
//! performance counters, modules, `kexec` and swap.
//!
//! Other than Docker's: programs of 32 bits do not run, for their `socketcall`
//! hides its arguments from any filter, and nor do those of x32; a socket's
//! domain is compared as the `int` that it is to the kernel.

use rustix::thread::CapabilitySet;

use super::compile::Rule;
use super::numbers::calls;
use super::profile::{Action, Condition, Test};

/// For what is on no list: EPERM.
pub(super) const REFUSED: Action = Action::Errno(1);
/// For a call that a C library can do without: ENOSYS.
const MISSING: Action = Action::Errno(38);

const FILES: &[u32] = calls![
    cachestat chdir close close_range copy_file_range dup dup3 faccessat faccessat2 fadvise64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate getcwd getdents64 getxattr getxattrat inotify_add_watch
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioctl
    lgetxattr linkat listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr memfd_create mkdirat
    mknodat name_to_handle_at newfstatat openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
    readahead readlinkat readv removexattr removexattrat renameat renameat2 sendfile setxattr setxattrat splice
    statfs statmount statx symlinkat sync sync_file_range syncfs tee truncate umask unlinkat utimensat vmsplice
    write writev
];

const MEMORY: &[u32] = calls![
    brk madvise map_shadow_stack membarrier memfd_secret mincore mlock mlock2 mlockall mmap mprotect mremap mseal
    msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages
];

/// Processes, threads, signals, and how they are scheduled. `clone` is in [`rules`].
const PROCESSES: &[u32] = calls![
    execve execveat exit exit_group futex futex_requeue futex_wait futex_waitv futex_wake get_robust_list getcpu
    getpriority getrlimit getrusage ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace
    restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp set_robust_list set_tid_address setpriority setrlimit sigaltstack
    signalfd4 tgkill tkill wait4 waitid
];

const TIME: &[u32] = calls![
    adjtimex clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
    timerfd_settime times
];

/// Sockets, pipes, System V and POSIX message passing, and waiting for them. `socket` is in [`rules`].
const COMMUNICATION: &[u32] = calls![
    accept accept4 bind connect epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 eventfd2 getpeername getsockname
    getsockopt listen mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv
    msgsnd pipe2 ppoll pselect6 recvfrom recvmmsg recvmsg semctl semget semop semtimedop sendmmsg sendmsg sendto
    setsockopt shmat shmctl shmdt shmget shutdown socketpair
];

/// Users, groups, sessions, and what system this is.
const IDENTITY: &[u32] = calls![
    capget capset getegid geteuid getgid getgroups getpgid getpid getppid getrandom getresgid getresuid getsid
    gettid getuid setfsgid setfsuid setgid setgroups setpgid setregid setresgid setresuid setreuid setsid setuid
    sysinfo uname
];

/// What other processors never had.
#[cfg(target_arch = "x86_64")]
const OLD: &[u32] = calls![
    access alarm arch_prctl chmod chown creat dup2 epoll_create epoll_ctl_old epoll_wait epoll_wait_old eventfd
    fork futimesat get_thread_area getdents getpgrp inotify_init lchown link lstat mkdir mknod modify_ldt open
    pause pipe poll readlink rename rmdir select set_thread_area signalfd stat symlink time unlink uretprobe
    utime utimes vfork
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[u32] = &[];

const ALLOWED: [&[u32]; 7] = [FILES, MEMORY, PROCESSES, TIME, COMMUNICATION, IDENTITY, OLD];

/// What goes with a capability.
const GIVEN: [(CapabilitySet, &[u32]); 14] = [
    (CapabilitySet::DAC_READ_SEARCH, calls![open_by_handle_at]),
    (
        CapabilitySet::SYS_ADMIN,
        calls![
            bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
            lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
            quotactl_fd setdomainname sethostname setns syslog umount2 unshare
        ],
    ),
    (CapabilitySet::SYS_BOOT, calls![reboot]),
    (CapabilitySet::SYS_CHROOT, calls![chroot]),
    (
        CapabilitySet::SYS_MODULE,
        calls![delete_module finit_module init_module],
    ),
    (CapabilitySet::SYS_PACCT, calls![acct]),
    (CapabilitySet::SYS_PTRACE, calls![kcmp pidfd_getfd process_madvise]),
    (CapabilitySet::SYS_RAWIO, RAW_IO),
    (CapabilitySet::SYS_TIME, calls![clock_settime settimeofday]),
    (CapabilitySet::SYS_TTY_CONFIG, calls![vhangup]),
    (
        CapabilitySet::SYS_NICE,
        calls![get_mempolicy mbind set_mempolicy set_mempolicy_home_node],
    ),
    (CapabilitySet::SYSLOG, calls![syslog]),
    (CapabilitySet::BPF, calls![bpf]),
    (CapabilitySet::PERFMON, calls![perf_event_open]),
];

#[cfg(target_arch = "x86_64")]
const RAW_IO: &[u32] = calls![ioperm iopl];
#[cfg(not(target_arch = "x86_64"))]
const RAW_IO: &[u32] = &[];

/// Every `CLONE_NEW*` that fits into clone's flags: cgroup, uts, ipc, user, pid, net, and mount.
const NAMESPACES: u64 = 0x7e02_0000;

/// Domains of sockets that reach past the namespaces: the kernel's cryptography (`AF_ALG`), whose faults were a way
/// into others' files (CVE-2026-31431), and the hypervisor (`AF_VSOCK`), which knows no network namespace.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

const SOCKETS: [&[Condition]; 3] = [
    &[first(Test::Less(AF_ALG))],
    &[first(Test::Equal(AF_ALG + 1))],
    &[first(Test::Greater(AF_VSOCK))],
];

/// Linux's own, and those with 32-bit addresses, a short version number, both; all bits ask and change nothing.
const PERSONALITIES: [&[Condition]; 5] = [
    &[first(Test::Equal(0))],
    &[first(Test::Equal(0x0008))],
    &[first(Test::Equal(0x2_0000))],
    &[first(Test::Equal(0x2_0008))],
    &[first(Test::Equal(0xffff_ffff))],
];

const NO_NAMESPACE: &[Condition] = &[first(Test::Masked {
    mask: NAMESPACES,
    value: 0,
})];

const fn first(test: Test) -> Condition {
    Condition { argument: 0, test }
}

/// What a container with these capabilities may call.
pub(super) fn rules(capabilities: CapabilitySet) -> Vec<Rule<'static>> {
    const fn allow(calls: &'static [u32], conditions: &'static [Condition]) -> Rule<'static> {
        Rule {
            calls,
            conditions,
            action: Action::Allow,
        }
    }
    let mut rules: Vec<Rule<'static>> = ALLOWED.map(|calls| allow(calls, &[])).into();
    let given = GIVEN.iter().filter(|(with, _)| capabilities.contains(*with));
    rules.extend(given.map(|(_, calls)| allow(calls, &[])));
    rules.extend(SOCKETS.map(|conditions| allow(calls![socket], conditions)));
    rules.extend(PERSONALITIES.map(|conditions| allow(calls![personality], conditions)));
    if !capabilities.contains(CapabilitySet::SYS_ADMIN) {
        rules.push(allow(calls![clone], NO_NAMESPACE));
        // Its flags are in memory, where no filter sees them.
        rules.push(Rule {
            calls: calls![clone3],
            conditions: &[],
            action: MISSING,
        });
    }
    rules
}
