"""What a file that is not UTF-8 text is, and what to do about it."""

import os
import shlex
import shutil
import subprocess
import sys
import unicodedata
from pathlib import PurePath

# How files begin that no reader of text can use: what they are, and what to do.
EXPORT = "export its text as UTF-8, one sentence or paragraph a line"
BINARY: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip-compressed", "unpack it with: gzip -dk {file}"),
    (b"PAR1\x15", "a Parquet table", EXPORT),
    (b"ARROW1\0\0", "an Arrow table", EXPORT),
    (b"PK\x03\x04", "a zip archive, as .xlsx, .docx and .epub are", EXPORT),
    (b"%PDF-", "a PDF", EXPORT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of Microsoft Office", EXPORT),
    (b"SQLite format 3\0", "an SQLite database", EXPORT),
    (b"BZh91AY&SY", "bzip2-compressed", "unpack it with: bzip2 -dk {file}"),
    (b"\xfd7zXZ\0", "xz-compressed", "unpack it with: xz -dk {file}"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "unpack it with: zstd -d {file}"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"\x89PNG", "a PNG image", ""),
    (b"\xff\xd8\xff", "a JPEG image", ""),
    (b"GIF89a", "a GIF image", ""),
    (b"\x7fELF", "a program", ""),
    (b"\x93NUMPY", "an array of NumPy", ""),
    (b"\x89HDF", "an HDF5 file", EXPORT),
)
WIDE = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32")) + (
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)  # byte order marks, the longer first

# Of each encoding the characters that its texts are full of, by which it is told from the others: the
# same bytes are often characters in several.
FREQUENT = {
    "GB18030": "的一是了我不在人有他这上们来到时大地为子中你说生国年着就那和要她出也得里后自以会好今天",
    "BIG5": "的一是了我不在人有他這上們來到時大地為子中你說生國年著就那和要她出也得裡後自以會好今天",
    "SHIFT_JIS": "のにをはがとてでもたしいれなるさらこまあうかりきくすっ、。",
    "EUC-JP": "のにをはがとてでもたしいれなるさらこまあうかりきくすっ、。",
    "EUC-KR": "이다는을에의가를하고은지한로도기사서인어나시자리대해과",
}
CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\v\f\r\x1a\x1b") | {127}
LIKELY = 0.03  # the share of them from which a guess is one
FEW = 0.01  # of bytes that are control characters, in text that was damaged


def refused_at_once(head: bytes, path: str) -> str | None:
    """Why a file that begins with ``head`` is not text, and what to do; ``None`` if it may be some."""
    for begins, what, cure in BINARY:
        if head.startswith(begins):
            cure = cure.replace(" {file}", "" if path == "-" else f" {_pasted(path)}")
            if what == "gzip-compressed" and path != "-":
                cure = f"give it a name that ends in .gz: {_pasted('mv', path, f'{path}.gz')}"
            return f"{what}, expected UTF-8 text{cure and '; '}{cure}"
    for mark, name in WIDE:
        if head.startswith(mark):
            return f"{name}, expected UTF-8; {converted(path, name)}"
    return None


def with_zero_bytes(sample: bytes, path: str) -> str:
    """What a file with zero bytes, such as those of ``sample``, is, and what to do."""
    name = _utf16(sample)
    if name is not None:
        return f"it looks like {name}; {converted(path, name)}"
    if _is_binary(sample.replace(b"\0", b"")) or not _is_utf8(sample):
        return "the file is binary, expected UTF-8 text"
    return f"the file is binary, or damaged; if it is text, {_without_zeros(path)}"


def not_utf8(sample: bytes, path: str) -> str:
    """What a file is whose ``sample`` is no UTF-8, and what to do."""
    name = _utf16(sample)
    if name is None and _is_binary(sample):
        return "the file is binary, expected UTF-8 text"
    if name is None and _is_damaged(sample):
        return f"the rest is UTF-8; drop what is damaged, {_repaired(path)}"
    name = name or guessed(sample)
    if name is None:
        return (
            f"if it is Western European, {converted(path, 'CP1252')}; "
            "of another encoding, give its name in place of CP1252"
        )
    return f"it looks like {name}; {converted(path, name)}"


def guessed(sample: bytes) -> str | None:
    """The encoding of Chinese, Japanese or Korean text that begins with ``sample``, if it is such.

    >>> guessed("今天天气很好。".encode("gb18030")), guessed("東京は日本の首都です。".encode("shift_jis"))
    ('GB18030', 'SHIFT_JIS')
    """
    scores = {}
    for name, frequent in FREQUENT.items():
        text = _decoded(sample, name)
        foreign = [c for c in text or "" if c > "\x7f"]
        if foreign:
            scores[name] = sum(c in frequent for c in foreign) / len(foreign)
    best = max(scores, key=lambda name: scores[name], default="")
    if best and scores[best] > LIKELY:
        return best
    # In a Western text a byte beyond ASCII stands between letters.
    is_dense = sum(byte > 0x7F for byte in sample) > len(sample) / 2
    return "GB18030" if is_dense and "GB18030" in scores else None


def converted(path: str, name: str) -> str:
    """How to convert the file at ``path`` from the encoding ``name``: a command to paste."""
    if path == "-":
        return f"convert it, for example with: iconv -f {name} -t UTF-8"
    new = beside(path, "utf8")
    if path.endswith(".gz"):
        script = "import gzip, sys; f, t, e = sys.argv[1:]; "
        script += (
            'gzip.open(t, "wt", encoding="utf-8").write(gzip.open(f, "rt", encoding=e).read())'
        )
    elif shutil.which("iconv"):
        command = f"iconv -f {name} -t UTF-8 {_pasted(path)} > {_pasted(new)}"
        return f"convert the file, for example with: {command}"
    else:
        script = "import sys; f, t, e = sys.argv[1:]; "
        script += 'open(t, "w", encoding="utf-8").write(open(f, encoding=e).read())'
    return f"convert the file, for example with: {python_call(script, path, new, name)}"


def _repaired(path: str) -> str:
    script = "import sys; f, t = sys.argv[1:]; "
    script += 'open(t, "wb").write(open(f, "rb").read().decode(errors="ignore").encode())'
    return _made_anew(script, path)


def _without_zeros(path: str) -> str:
    script = "import sys; f, t = sys.argv[1:]; "
    script += 'open(t, "wb").write(open(f, "rb").read().replace(bytes(1), b""))'
    return f"drop its zero bytes, {_made_anew(script, path)}"


def _made_anew(script: str, path: str) -> str:
    if path == "-" or path.endswith(".gz"):
        return "and try again"
    return f"for example with: {python_call(script, path, beside(path, 'utf8'))}"


def python_call(script: str, *arguments: str) -> str:
    """A call of Python that can be pasted, and reads the ``arguments`` as ``sys.argv[1:]``."""
    return _pasted(PurePath(sys.executable or "python3").name, "-c", script, *arguments)


def _pasted(*parts: str) -> str:
    return subprocess.list2cmdline(parts) if os.name == "nt" else shlex.join(parts)


def beside(path: str, mark: str) -> str:
    """The name of a new file beside ``path``: "a.txt" to "a.utf8.txt"."""
    name = PurePath(path).name
    stem, dot, rest = name.partition(".") if name[:1] != "." else (name, "", "")
    new = f"{stem}.{mark}{dot}{rest}"
    return path.removesuffix(name) + new


def _utf16(sample: bytes) -> str | None:
    """The kind of UTF-16 that ``sample`` is the beginning of, without a byte order mark, if it is one."""
    plain_of = {}
    for name in ("UTF-16LE", "UTF-16BE"):
        text = _decoded(sample, name) or ""
        # Two bytes a character give plain line ends, spaces or digits; other files have none but by chance.
        plain = sum(c in "\n\r\t ,.;:!?-\"'" or (c.isascii() and c.isalnum()) for c in text)
        strange = sum(unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") for c in text)
        strange -= sum(text.count(c) for c in "\n\r\t")
        if plain and strange <= FEW * len(text):
            plain_of[name] = plain
    return max(plain_of, key=lambda name: plain_of[name], default=None) if b"\0" in sample else None


def _decoded(sample: bytes, name: str) -> str | None:
    """``sample`` in an encoding, except for a character cut at its end; ``None`` if it is in another."""
    for cut in range(4):
        try:
            return sample[: len(sample) - cut].decode(name)
        except UnicodeDecodeError:
            continue
    return None


def _is_utf8(sample: bytes) -> bool:
    return _decoded(sample, "utf-8") is not None


def _is_binary(sample: bytes) -> bool:
    return sum(byte in CONTROLS for byte in sample) > FEW * len(sample)


def _is_damaged(sample: bytes) -> bool:
    """Whether nearly all that is not ASCII is UTF-8."""
    text = sample.decode("utf-8", "replace")
    lost = text.count("\ufffd")
    return lost <= 0.1 * sum(c > "\x7f" for c in text)
