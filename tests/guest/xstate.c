/*
 * Lets Debian's User Mode Linux (6.1) run on a CPU with AMX.
 *
 * That kernel keeps the extended registers of its guest processes in a buffer of a fixed size, made
 * before AMX added 8 KiB of tiles. Reading into a short buffer is allowed; writing a short one back
 * is not: PTRACE_SETREGSET says EFAULT ("ptrace set fp regs failed, errno = 14") and the guest dies.
 * Here a short write becomes: read the whole set, lay the short part over it, write it all back. The
 * tiles stay as they were, and no guest process uses them.
 *
 * Preloaded by `boot`, and only on such a CPU.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* <linux/ptrace.h>; <sys/ptrace.h> would declare the very function that is replaced here. */
#define PTRACE_PEEKTEXT 1
#define PTRACE_PEEKUSER 3
#define PTRACE_GETREGSET 0x4204
#define PTRACE_SETREGSET 0x4205

/* Larger than any set that exists: with AMX it is about 11 KiB. */
static unsigned char whole[65536] __attribute__((aligned(64)));

long ptrace(int request, ...)
{
	va_list args;
	va_start(args, request);
	long pid = va_arg(args, long);
	void *addr = va_arg(args, void *);
	void *data = va_arg(args, void *);
	va_end(args);

	if (request == PTRACE_SETREGSET && (long)addr == NT_X86_XSTATE) {
		struct iovec *part = data;
		struct iovec full = { whole, sizeof whole };
		long rc = syscall(SYS_ptrace, PTRACE_GETREGSET, pid, addr, &full);
		if (rc != 0)
			return rc;
		if (part->iov_len < full.iov_len) {
			memcpy(whole, part->iov_base, part->iov_len);
			return syscall(SYS_ptrace, request, pid, addr, &full);
		}
	}

	/* The C library's peek returns the word; the system call stores it. */
	if (request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER) {
		long word = 0;
		long rc = syscall(SYS_ptrace, request, pid, addr, &word);
		return rc < 0 ? rc : word;
	}
	return syscall(SYS_ptrace, request, pid, addr, data);
}
