"""How Python's tarfile and libarchive read tar archives.

Reads from standard input, again and again, a length of four bytes (big endian) and so many bytes of an archive; writes
a line of JSON for each: {"tarfile": ENTRIES, "libarchive": ENTRIES}. ENTRIES is null where the reader gives an error,
else a list of [path, type, size, link, device, sha256], text as hexadecimal digits.
"""

import ctypes
import ctypes.util
import hashlib
import io
import json
import sys
import tarfile

MOST = 4 << 20  # Longer content is not hashed.


def hexed(text):
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogateescape")
    return text.hex()


def by_tarfile(data):
    types = {
        tarfile.REGTYPE: "f", tarfile.AREGTYPE: "f", tarfile.CONTTYPE: "f", tarfile.GNUTYPE_SPARSE: "f",
        tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.LNKTYPE: "h",
        tarfile.CHRTYPE: "c", tarfile.BLKTYPE: "b", tarfile.FIFOTYPE: "p",
    }
    entries = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            kind = types[member.type]
            sha256 = None
            if kind == "f" and member.size <= MOST:
                content = archive.extractfile(member).read()
                if len(content) != member.size:
                    raise ValueError("content is cut")
                sha256 = hashlib.sha256(content).hexdigest()
            link = hexed(member.linkname) if kind in "lh" else None
            device = [member.devmajor, member.devminor] if kind in "cb" else None
            entries.append([hexed(member.name), kind, member.size if kind == "f" else None, link, device, sha256])
    return entries


LIB = ctypes.CDLL("libarchive.so.13")
POINTER, TEXT = ctypes.c_void_p, ctypes.c_char_p
for name, result, arguments in [
    ("archive_read_new", POINTER, []),
    ("archive_read_support_format_tar", ctypes.c_int, [POINTER]),
    ("archive_read_open_memory", ctypes.c_int, [POINTER, TEXT, ctypes.c_size_t]),
    ("archive_read_next_header", ctypes.c_int, [POINTER, ctypes.POINTER(POINTER)]),
    ("archive_read_data_block", ctypes.c_int, [POINTER, *map(ctypes.POINTER, (POINTER, ctypes.c_size_t, ctypes.c_int64))]),
    ("archive_read_data_skip", ctypes.c_int, [POINTER]),
    ("archive_read_free", ctypes.c_int, [POINTER]),
    ("archive_entry_pathname", TEXT, [POINTER]),
    ("archive_entry_symlink", TEXT, [POINTER]),
    ("archive_entry_hardlink", TEXT, [POINTER]),
    ("archive_entry_filetype", ctypes.c_uint, [POINTER]),
    ("archive_entry_size", ctypes.c_int64, [POINTER]),
    ("archive_entry_rdevmajor", ctypes.c_uint64, [POINTER]),
    ("archive_entry_rdevminor", ctypes.c_uint64, [POINTER]),
]:
    function = getattr(LIB, name)
    function.restype, function.argtypes = result, arguments

OK, EOF, WARN = 0, 1, -20


def content_by_libarchive(archive, size):
    """The content with its holes; archive_read_data() leaves out one at the end."""
    block, length, offset = POINTER(), ctypes.c_size_t(), ctypes.c_int64()
    content = bytearray()
    while True:
        result = LIB.archive_read_data_block(archive, *map(ctypes.byref, (block, length, offset)))
        if result == EOF:
            break
        if result not in (OK, WARN) or offset.value < len(content) or offset.value + length.value > size:
            raise ValueError("content is cut")
        content.extend(bytes(offset.value - len(content)))
        content.extend(ctypes.string_at(block, length.value))
    content.extend(bytes(size - len(content)))
    return bytes(content)


def by_libarchive(data):
    types = {0o100000: "f", 0o040000: "d", 0o120000: "l", 0o020000: "c", 0o060000: "b", 0o010000: "p"}
    archive = LIB.archive_read_new()
    try:
        LIB.archive_read_support_format_tar(archive)
        if LIB.archive_read_open_memory(archive, data, len(data)) != OK:
            raise ValueError("not opened")
        entries, entry = [], POINTER()
        while True:
            result = LIB.archive_read_next_header(archive, ctypes.byref(entry))
            if result == EOF:
                return entries
            if result not in (OK, WARN):
                raise ValueError("no header")
            hard = LIB.archive_entry_hardlink(entry)
            kind = "h" if hard is not None else types[LIB.archive_entry_filetype(entry)]
            link = hard if kind == "h" else LIB.archive_entry_symlink(entry) if kind == "l" else None
            size = LIB.archive_entry_size(entry) if kind == "f" else None
            sha256 = None
            if kind == "f" and size <= MOST:
                sha256 = hashlib.sha256(content_by_libarchive(archive, size)).hexdigest()
            elif LIB.archive_read_data_skip(archive) not in (OK, WARN):
                raise ValueError("content is cut")
            device = None
            if kind in "cb":
                device = [LIB.archive_entry_rdevmajor(entry), LIB.archive_entry_rdevminor(entry)]
            path = hexed(LIB.archive_entry_pathname(entry))
            entries.append([path, kind, size, hexed(link) if link is not None else None, device, sha256])
    finally:
        LIB.archive_read_free(archive)


def attempt(reader, data):
    try:
        return reader(data)
    except Exception:  # Whatever it is, this reader does not accept the archive.
        return None


ctypes.CDLL(None).setlocale(6, b"C.UTF-8")
while header := sys.stdin.buffer.read(4):
    data = sys.stdin.buffer.read(int.from_bytes(header, "big"))
    seen = {"tarfile": attempt(by_tarfile, data), "libarchive": attempt(by_libarchive, data)}
    print(json.dumps(seen), flush=True)
