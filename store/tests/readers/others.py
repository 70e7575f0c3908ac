"""Lists tars as Python's tarfile and as libarchive (bsdtar's own library) read them.

A path a line on standard input, a JSON object a line on standard output:
{"python": LIST, "libarchive": LIST}, where LIST is {"entries": [...], "error": TEXT or null}.
An entry is [type, name, target, size, mode, uid, gid, seconds, nanoseconds or null], bytes as hex.
"""

import ctypes
import json
import locale
import math
import os
import resource
import signal
import sys
import tarfile

TYPES = {
    tarfile.LNKTYPE: "hardlink",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "character",
    tarfile.BLKTYPE: "block",
    tarfile.DIRTYPE: "directory",
    tarfile.FIFOTYPE: "fifo",
}


def hexed(text):
    return os.fsencode(text).hex()


def python(path):
    entries, error = [], None
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            for info in tar:
                kind = TYPES.get(info.type, "file" if info.isreg() else "unknown")
                link = hexed(info.linkname) if kind in ("hardlink", "symlink") else ""
                size = info.size if kind == "file" else 0
                time = math.floor(info.mtime)
                entries.append(
                    [kind, hexed(info.name), link, size, info.mode & 0o7777, info.uid, info.gid, time, None]
                )
    except Exception as cause:  # Whatever it is, it is this reader's answer.
        error = f"{type(cause).__name__}: {cause}"
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {"entries": entries, "error": error}


library = ctypes.CDLL("libarchive.so.13")
for name, result, arguments in [
    ("archive_read_new", ctypes.c_void_p, []),
    ("archive_read_support_format_tar", ctypes.c_int, [ctypes.c_void_p]),
    ("archive_read_open_filename", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]),
    ("archive_read_next_header", ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p]),
    ("archive_read_data_skip", ctypes.c_int, [ctypes.c_void_p]),
    ("archive_read_free", ctypes.c_int, [ctypes.c_void_p]),
    ("archive_error_string", ctypes.c_char_p, [ctypes.c_void_p]),
    ("archive_entry_pathname", ctypes.c_char_p, [ctypes.c_void_p]),
    ("archive_entry_hardlink", ctypes.c_char_p, [ctypes.c_void_p]),
    ("archive_entry_symlink", ctypes.c_char_p, [ctypes.c_void_p]),
    ("archive_entry_size", ctypes.c_int64, [ctypes.c_void_p]),
    ("archive_entry_filetype", ctypes.c_uint, [ctypes.c_void_p]),
    ("archive_entry_perm", ctypes.c_uint, [ctypes.c_void_p]),
    ("archive_entry_uid", ctypes.c_int64, [ctypes.c_void_p]),
    ("archive_entry_gid", ctypes.c_int64, [ctypes.c_void_p]),
    ("archive_entry_mtime", ctypes.c_int64, [ctypes.c_void_p]),
    ("archive_entry_mtime_nsec", ctypes.c_long, [ctypes.c_void_p]),
]:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments

FILE_TYPES = {
    0o100000: "file",
    0o040000: "directory",
    0o120000: "symlink",
    0o020000: "character",
    0o060000: "block",
    0o010000: "fifo",
}
END, WARN = 1, -20


def libarchive(path):
    entries, error = [], None
    archive = library.archive_read_new()
    entry = ctypes.c_void_p()
    library.archive_read_support_format_tar(archive)
    status = library.archive_read_open_filename(archive, os.fsencode(path), 10240)
    while status != END:
        if status in (0, WARN):
            status = library.archive_read_next_header(archive, ctypes.byref(entry))
        if status < 0 and error is None:
            # A warning too: it says that the entry is a guess.
            error = f"{status} {library.archive_error_string(archive)}"
        if status < WARN or status == END:
            break
        hard = library.archive_entry_hardlink(entry)
        kind = "hardlink" if hard is not None else FILE_TYPES.get(library.archive_entry_filetype(entry), "unknown")
        link = hard if hard is not None else library.archive_entry_symlink(entry)
        entries.append(
            [
                kind,
                (library.archive_entry_pathname(entry) or b"").hex(),
                (link or b"").hex() if kind in ("hardlink", "symlink") else "",
                library.archive_entry_size(entry) if kind == "file" else 0,
                library.archive_entry_perm(entry) & 0o7777,
                library.archive_entry_uid(entry),
                library.archive_entry_gid(entry),
                library.archive_entry_mtime(entry),
                library.archive_entry_mtime_nsec(entry),
            ]
        )
        status = library.archive_read_data_skip(archive)
    library.archive_read_free(archive)
    return {"entries": entries, "error": error}


def late(*_):
    raise TimeoutError("it reads without end")


signal.signal(signal.SIGALRM, late)
# Some damaged maps make it fill all memory.
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
locale.setlocale(locale.LC_ALL, "C.UTF-8")
for line in sys.stdin:
    path = line.rstrip("\n")
    print(json.dumps({"python": python(path), "libarchive": libarchive(path)}), flush=True)
