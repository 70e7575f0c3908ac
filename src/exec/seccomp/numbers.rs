//! The system calls' numbers: names in the order in which the kernel numbers them.
//!
//! From the kernel's own tables (`arch/x86/entry/syscalls/syscall_64.tbl`,
//! `include/uapi/asm-generic/unistd.h`, as of Linux 6.17); `-` is a number
//! without a call. From [`COMMON_FIRST`] on, every processor counts alike.

/// The first number that means the same on every processor.
const COMMON_FIRST: u32 = 424;

const COMMON: &str = "pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen \
    fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 process_madvise \
    epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule landlock_restrict_self \
    memfd_secret process_mrelease futex_waitv set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack \
    futex_wake futex_wait futex_requeue statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules \
    mseal setxattrat getxattrat listxattrat removexattrat open_tree_attr file_getattr file_setattr";

/// From number 0 on.
#[cfg(target_arch = "x86_64")]
const OWN: &str = "read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction \
    rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select sched_yield mremap msync \
    mincore madvise shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm setitimer getpid sendfile socket \
    connect accept sendto recvfrom sendmsg recvmsg shutdown bind listen getsockname getpeername socketpair \
    setsockopt getsockopt clone fork vfork execve exit wait4 kill uname semget semop semctl shmdt msgget msgsnd \
    msgrcv msgctl fcntl flock fsync fdatasync truncate ftruncate getdents getcwd chdir fchdir rename mkdir rmdir \
    creat link unlink symlink readlink chmod fchmod chown fchown lchown umask gettimeofday getrlimit getrusage \
    sysinfo times ptrace getuid syslog getgid setuid setgid geteuid getegid setpgid getppid getpgrp setsid setreuid \
    setregid getgroups setgroups setresuid getresuid setresgid getresgid getpgid setfsuid setfsgid getsid capget \
    capset rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod uselib personality \
    ustat statfs fstatfs sysfs getpriority setpriority sched_setparam sched_getparam sched_setscheduler \
    sched_getscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval mlock munlock mlockall \
    munlockall vhangup modify_ldt pivot_root _sysctl prctl arch_prctl adjtimex setrlimit chroot sync acct \
    settimeofday mount umount2 swapon swapoff reboot sethostname setdomainname iopl ioperm create_module \
    init_module delete_module get_kernel_syms query_module quotactl nfsservctl getpmsg putpmsg afs_syscall tuxcall \
    security gettid readahead setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr \
    flistxattr removexattr lremovexattr fremovexattr tkill time futex sched_setaffinity sched_getaffinity \
    set_thread_area io_setup io_destroy io_getevents io_submit io_cancel get_thread_area lookup_dcookie \
    epoll_create epoll_ctl_old epoll_wait_old remap_file_pages getdents64 set_tid_address restart_syscall \
    semtimedop fadvise64 timer_create timer_settime timer_gettime timer_getoverrun timer_delete clock_settime \
    clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl tgkill utimes vserver mbind \
    set_mempolicy get_mempolicy mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr kexec_load \
    waitid add_key request_key keyctl ioprio_set ioprio_get inotify_init inotify_add_watch inotify_rm_watch \
    migrate_pages openat mkdirat mknodat fchownat futimesat newfstatat unlinkat renameat linkat symlinkat \
    readlinkat fchmodat faccessat pselect6 ppoll unshare set_robust_list get_robust_list splice tee \
    sync_file_range vmsplice move_pages utimensat epoll_pwait signalfd timerfd_create eventfd fallocate \
    timerfd_settime timerfd_gettime accept4 signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv \
    pwritev rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init fanotify_mark prlimit64 name_to_handle_at \
    open_by_handle_at clock_adjtime syncfs sendmmsg setns getcpu process_vm_readv process_vm_writev kcmp \
    finit_module sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create kexec_file_load bpf execveat \
    userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free statx \
    io_pgetevents rseq uretprobe";

/// From number 0 on.
#[cfg(target_arch = "aarch64")]
const OWN: &str = "io_setup io_destroy io_submit io_cancel io_getevents setxattr lsetxattr fsetxattr getxattr \
    lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr getcwd \
    lookup_dcookie eventfd2 epoll_create1 epoll_ctl epoll_pwait dup dup3 fcntl inotify_init1 inotify_add_watch \
    inotify_rm_watch ioctl ioprio_set ioprio_get flock mknodat mkdirat unlinkat symlinkat linkat renameat umount2 \
    mount pivot_root nfsservctl statfs fstatfs truncate ftruncate fallocate faccessat chdir fchdir chroot fchmod \
    fchmodat fchownat fchown openat close vhangup pipe2 quotactl getdents64 lseek read write readv writev pread64 \
    pwrite64 preadv pwritev sendfile pselect6 ppoll signalfd4 vmsplice splice tee readlinkat newfstatat fstat sync \
    fsync fdatasync sync_file_range timerfd_create timerfd_settime timerfd_gettime utimensat acct capget capset \
    personality exit exit_group waitid set_tid_address unshare futex set_robust_list get_robust_list nanosleep \
    getitimer setitimer kexec_load init_module delete_module timer_create timer_gettime timer_getoverrun \
    timer_settime timer_delete clock_settime clock_gettime clock_getres clock_nanosleep syslog ptrace \
    sched_setparam sched_setscheduler sched_getscheduler sched_getparam sched_setaffinity sched_getaffinity \
    sched_yield sched_get_priority_max sched_get_priority_min sched_rr_get_interval restart_syscall kill tkill \
    tgkill sigaltstack rt_sigsuspend rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo \
    rt_sigreturn setpriority getpriority reboot setregid setgid setreuid setuid setresuid getresuid setresgid \
    getresgid setfsuid setfsgid times setpgid getpgid getsid setsid getgroups setgroups uname sethostname \
    setdomainname getrlimit setrlimit getrusage umask prctl getcpu gettimeofday settimeofday adjtimex getpid \
    getppid getuid geteuid getgid getegid gettid sysinfo mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify \
    mq_getsetattr msgget msgctl msgrcv msgsnd semget semctl semtimedop semop shmget shmctl shmat shmdt socket \
    socketpair bind listen accept connect getsockname getpeername sendto recvfrom setsockopt getsockopt shutdown \
    sendmsg recvmsg readahead brk munmap mremap add_key request_key keyctl clone execve mmap fadvise64 swapon \
    swapoff mprotect msync mlock munlock mlockall munlockall mincore madvise remap_file_pages mbind get_mempolicy \
    set_mempolicy migrate_pages move_pages rt_tgsigqueueinfo perf_event_open accept4 recvmmsg - - - - - - - - - - \
    - - - - - - wait4 prlimit64 fanotify_init fanotify_mark name_to_handle_at open_by_handle_at clock_adjtime \
    syncfs setns sendmmsg process_vm_readv process_vm_writev kcmp finit_module sched_setattr sched_getattr \
    renameat2 seccomp getrandom memfd_create bpf execveat userfaultfd membarrier mlock2 copy_file_range preadv2 \
    pwritev2 pkey_mprotect pkey_alloc pkey_free statx io_pgetevents rseq kexec_file_load";

/// Calls of other processors, or of 32-bit programs. A filter that names them says nothing about this one.
const ELSEWHERE: &str = "_llseek _newselect arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush chown32 \
    clock_adjtime64 clock_getres_time64 clock_gettime64 clock_nanosleep_time64 clock_settime64 fadvise64_64 fchown32 \
    fcntl64 fstat64 fstatat64 fstatfs64 ftruncate64 futex_time64 getegid32 geteuid32 getgid32 getgroups32 \
    getresgid32 getresuid32 getuid32 io_pgetevents_time64 ipc lchown32 lstat64 mmap2 mq_timedreceive_time64 \
    mq_timedsend_time64 nice oldfstat oldlstat oldolduname oldstat olduname ppoll_time64 pselect6_time64 readdir \
    recv recvmmsg_time64 riscv_flush_icache riscv_hwprobe rt_sigtimedwait_time64 rtas s390_pci_mmio_read \
    s390_pci_mmio_write s390_runtime_instr sched_rr_get_interval_time64 semtimedop_time64 send sendfile64 \
    set_tls setfsgid32 setfsuid32 setgid32 setgroups32 setregid32 setresgid32 setresuid32 setreuid32 setuid32 \
    sgetmask sigaction signal sigpending sigprocmask sigreturn sigsuspend socketcall ssetmask stat64 statfs64 stime \
    subpage_prot swapcontext switch_endian sync_file_range2 sys_debug_setcontext timer_gettime64 timer_settime64 \
    timerfd_gettime64 timerfd_settime64 truncate64 ugetrlimit umount utimensat_time64 vm86 vm86old waitpid \
    access afs_syscall alarm arch_prctl chmod chown creat dup2 epoll_create epoll_ctl_old epoll_wait \
    epoll_wait_old eventfd fork futimesat get_thread_area getdents getpgrp getpmsg inotify_init ioperm iopl lchown \
    link lstat mkdir mknod modify_ldt open pause pipe poll putpmsg readlink rename rmdir security select \
    set_thread_area signalfd stat symlink sysfs time tuxcall unlink uretprobe uselib ustat utime utimes vfork \
    vserver _sysctl create_module get_kernel_syms query_module";

/// The number of the call `name` on this processor.
pub(super) const fn find(name: &str) -> Option<u32> {
    match place(OWN, name) {
        Some(place) => Some(place),
        None => match place(COMMON, name) {
            Some(place) => Some(COMMON_FIRST + place),
            None => None,
        },
    }
}

/// Whether some processor has a call of this name.
pub(super) fn is_known(name: &str) -> bool {
    find(name).is_some() || place(ELSEWHERE, name).is_some()
}

/// Which of the words of `text` is `name`. Written out, as the compiler does it for the default profile.
const fn place(text: &str, name: &str) -> Option<u32> {
    let (text, name) = (text.as_bytes(), name.as_bytes());
    if name.is_empty() || name[0] == b'-' {
        return None;
    }
    let (mut at, mut word) = (0, 0);
    while at < text.len() {
        let mut same = 0;
        while same < name.len() && at + same < text.len() && text[at + same] == name[same] && name[same] != b' ' {
            same += 1;
        }
        if same == name.len() && (at + same == text.len() || text[at + same] == b' ') {
            return Some(word);
        }
        while at < text.len() && text[at] != b' ' {
            at += 1;
        }
        while at < text.len() && text[at] == b' ' {
            at += 1;
        }
        word += 1;
    }
    None
}

/// The numbers of these calls, found by the compiler: a name that this processor does not have is its error.
macro_rules! calls {
    ($($name:ident)*) => {
        &[$(const {
            match $crate::exec::seccomp::numbers::find(stringify!($name)) {
                Some(number) => number,
                None => panic!(concat!("no system call ", stringify!($name))),
            }
        }),*]
    };
}
pub(super) use calls;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        use libc as sys;
        for (name, number) in [
            ("read", sys::SYS_read),
            ("openat", sys::SYS_openat),
            ("clone", sys::SYS_clone),
            ("execve", sys::SYS_execve),
            ("socket", sys::SYS_socket),
            ("mount", sys::SYS_mount),
            ("newfstatat", sys::SYS_newfstatat),
            ("keyctl", sys::SYS_keyctl),
            ("bpf", sys::SYS_bpf),
            ("statx", sys::SYS_statx),
            ("rseq", sys::SYS_rseq),
            ("pidfd_send_signal", sys::SYS_pidfd_send_signal),
            ("clone3", sys::SYS_clone3),
            ("mount_setattr", sys::SYS_mount_setattr),
            ("set_mempolicy_home_node", sys::SYS_set_mempolicy_home_node),
            ("mseal", sys::SYS_mseal),
        ] {
            assert_eq!(find(name).map(i64::from), Some(number), "{name}");
        }
        assert_eq!(find("setxattrat"), Some(463));
        assert_eq!(find("file_setattr"), Some(469));
    }

    #[test]
    fn what_is_no_whole_name_is_not_found() {
        for name in ["", "-", "rea", "readx", "read write", " read", "socketcall", "READ"] {
            assert_eq!(find(name), None, "{name:?}");
        }
        assert!(is_known("socketcall") && is_known("read") && !is_known("reed"));
    }
}
