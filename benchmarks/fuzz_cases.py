"""Cases of ``fuzz.py``: commands on a small set and run, each with one fault.

A case is drawn from its seed and number alone. It changes one input, option, limit or stream of a valid
command, and states which outcome would be wrong.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_commands import COMMANDS, LONG, SELDOM

MUST_BE_REFUSED = ("nan", "-nan", "inf", "-inf", "1e400", str(10**30), str(-(10**30)))
NUMBERS = (*MUST_BE_REFUSED, "0", "-1", "-3", "1e308", "1e-308", "4294967296", "-0.0", "٣", "0x10", "", "1_0", "99999")
NOT_NEGATIVE = (
    "--num-workers --workers --seed --num-epochs --batch-size --num-gpus --box --apix --Apix --angpix --count "
    "--log-interval --zdim --templateres -n -D K"
).split()
TOKENS = ("nan", "inf", "1e30", "-1e308", "abc", "<NA>", '""', "'a b'", "1,5", "٣", "_", "#", "loop_", "data_x", "0x1")
KINDS = {"options": 0.26, "star": 0.18, "mrc": 0.16, "pickles": 0.18, "signals": 0.05, "disks": 0.07, "memory": 0.05,
         "streams": 0.05}  # fmt: skip


@dataclass
class Case:
    """A command with one fault.

    Attributes
    ----------
    kind, number, command, words
        Kind of fault, number of the case, name in :data:`COMMANDS`, and the command line.
    what
        Description of the fault for the report.
    prepare
        Changes the files in a folder.
    must_refuse
        Exit code 0 without a word about ``named`` would be wrong.
    named
        Text that the output or the log must contain if the command continues.
    limits
        ``fsize``, ``memory`` in bytes; ``stdout``, ``stderr``: ``closed``, ``full`` or ``ascii``; ``cwd``: ``gone``.
    stop
        Signal and the seconds after which it is sent.
    """

    kind: str
    number: int
    command: str
    words: list[str]
    what: str = ""
    prepare: Callable[[Path], None] = lambda folder: None
    must_refuse: bool = False
    named: str = ""
    limits: dict[str, Any] = field(default_factory=dict)
    stop: tuple[int, float] | None = None


def draw(seed: int, number: int) -> Case:
    """Return case ``number`` of a seed."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    names = [name for name in COMMANDS if kind not in READERS or any(map(READERS[kind], COMMANDS[name][2]))]
    name = rng.choices(names, [SELDOM.get(name, 1.0) for name in names])[0]
    case = Case(kind, number, name, COMMANDS[name][0].split())
    GENERATORS[kind](rng, case)
    return case


# Options


def _actions(case: Case) -> list[argparse.Action]:
    from opustomo.commands.registry import DSD, DSDSH, load_command

    parser = argparse.ArgumentParser()
    load_command({"dsd": DSD, "dsdsh": DSDSH}[case.words[0]][case.words[1]]).add_arguments(parser)
    return [action for action in parser._actions if action.dest != "help"]


def _options(rng: random.Random, case: Case) -> None:
    actions = _actions(case)
    numeric = [a for a in actions if getattr(a.type, "__name__", "") in ("int", "float", "_count") and not a.choices]
    textual = [a for a in actions if a.option_strings and a.nargs is None and a not in numeric and not a.choices]
    if numeric and rng.random() < 0.75:
        action = rng.choice(numeric)
        value = rng.choice(NUMBERS)
        count = action.nargs if isinstance(action.nargs, int) else 1
        title = max(action.option_strings, key=len, default=action.dest)
        if action.option_strings:
            _drop(case.words, action.option_strings)
            case.words += [f"{title}={value}"] if count == 1 else [title, *[value] * count]
        else:
            plain = [place for place, word in enumerate(case.words[2:], 2) if word.isdigit()]
            if not plain:
                return
            case.words[rng.choice(plain)] = value
        negative = value.startswith("-") and title in NOT_NEGATIVE
        free = title == "--snr" and value in ("inf", "1e400")
        case.must_refuse = (value in MUST_BE_REFUSED or negative or value == "") and not free
        case.what = f"{title} {value!r}"
    elif textual and rng.random() < 0.7:
        action = rng.choice(textual)
        value = rng.choice(
            ("../../x", "/dev/null", "", "no/such/file", "x" * 300, "set", "map.mrc", "a b\tc", "\udce4")
        )
        title = max(action.option_strings, key=len)
        _drop(case.words, action.option_strings)
        case.words += [f"{title}={value}"]
        case.must_refuse = title in ("--prefix", "--tmp-prefix") and value in ("../../x", "/dev/null", "")
        case.what = f"{title} {value!r}"
    else:
        place = rng.randrange(2, len(case.words) + 1)
        word = rng.choice(("--no-such-option", "extra", "-", "--", "-n", "--seed", "-999"))
        case.words.insert(place, word)
        case.what = f"{word!r} at {place}"


def _drop(words: list[str], names: list[str] | tuple[str, ...]) -> None:
    """Remove an option and its value from a command line."""
    for name in names:
        while name in words:
            at = words.index(name)
            until = at + 1
            while until < len(words) and not words[until].startswith("-"):
                until += 1
            del words[at:until]


# Files


def _pick(rng: random.Random, case: Case, fits: Callable[[str], bool]) -> str:
    """Return an input file of a kind; SUB and CTF denote files of the set."""
    name = rng.choice([name for name in COMMANDS[case.command][2] if fits(name)])
    one = f"set/subtomo/p{rng.randrange(12):06d}"
    return {"SUB": f"{one}.mrc", "CTF": f"{one}_ctf.star"}.get(name, name)


def _is_text(name: str) -> bool:
    return name == "CTF" or name.endswith((".star", ".txt", ".xml"))


def _is_mrc(name: str) -> bool:
    return name == "SUB" or name.endswith(".mrc")


def _is_pickle(name: str) -> bool:
    return name.endswith(".pkl")


def _edit(case: Case, path: str, change: Callable[[bytes], bytes]) -> None:
    case.prepare = lambda folder: (folder / path).write_bytes(change((folder / path).read_bytes())) and None


def flip(data: bytes, place: int, bit: int) -> bytes:
    """Return data with one bit flipped."""
    changed = bytearray(data)
    changed[place % len(changed)] ^= 1 << bit
    return bytes(changed)


def _star(rng: random.Random, case: Case) -> None:
    path = _pick(rng, case, _is_text)
    how = rng.choice(("token", "token", "token", "cut", "column", "rows", "bytes", "flip", "empty", "token count"))
    case.what = f"{how} in {path}"
    chance = rng.random()
    token = rng.choice(TOKENS)

    def rows_of(lines: list[str]) -> list[int]:
        return [
            i for i, line in enumerate(lines) if line.split() and line.split()[0][0] not in "_#l<" and len(line) > 9
        ]

    def change(data: bytes) -> bytes:
        lines = data.decode().split("\n")
        rows = rows_of(lines)
        if how == "cut":
            return data[: int(chance * len(data))]
        if how == "flip":
            return flip(data, int(chance * len(data)), rng.randrange(8))
        if how == "empty":
            return b""
        if how == "bytes":
            extra = rng.choice((b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n" * 3, b"\x1a", b"\x80" * 5))
            return data[: int(chance * len(data))] + extra + data[int(chance * len(data)) :]
        if not rows:
            return data
        row = rows[int(chance * len(rows))]
        words = lines[row].split()
        if how == "rows":
            lines[row:row] = rng.choice(([lines[row]], [], [lines[row]] * 3)) if rng.random() < 0.7 else []
            if rng.random() < 0.3:
                lines = [line for i, line in enumerate(lines) if i not in rows]
        elif how == "column":
            names = [i for i, line in enumerate(lines) if line.startswith("_")]
            if names:
                at = rng.choice(names)
                lines[at] = rng.choice(("_rlnUnknown #1", lines[names[0]], "_", ""))
        elif how == "token count":
            lines[row] = " ".join(words[:-1] if rng.random() < 0.5 else [*words, "7"])
        else:
            words[rng.randrange(len(words))] = token
            lines[row] = " ".join(words)
        return "\n".join(lines).encode()

    _edit(case, path, change)


def _mrc(rng: random.Random, case: Case) -> None:
    path = _pick(rng, case, _is_mrc)
    how = rng.choice(("header", "header", "cut", "data", "data", "flip header", "empty", "byte order", "extended"))
    case.what = f"{how} in {path}"
    chance, bit = rng.random(), rng.randrange(8)
    value = rng.choice((0, -1, 1, 2**31 - 1, 30000, -(2**31), 5))
    word = rng.choice((0, 1, 2, 3, 7, 8, 9, 16, 17, 18, 23))
    spoil = rng.choice(("nan", "constant", "huge", "thousand"))
    number = rng.choice((float("nan"), 0.0, -12.0, 1e30, float("inf")))
    if how == "data" and "subtomo" in path:
        case.named = Path(path).name
        case.what = f"{spoil} in {path}"

    def change(data: bytes) -> bytes:
        import numpy as np

        if how == "cut":
            return data[: int(chance * len(data))]
        if how == "empty":
            return b""
        if how == "flip header":
            return flip(data, int(chance * 224), bit)
        if how == "byte order":
            return data[:212] + b"\x11\x11\0\0" + data[216:]
        if how == "extended":
            return data[:92] + struct.pack("<i", value) + data[96:]
        if how == "header":
            at = 4 * word
            packed = struct.pack("<f", number) if 10 <= word <= 12 else struct.pack("<i", value)
            return data[:at] + packed + data[at + 4 :]
        kind = {2: "<f4", 12: "<f2"}[struct.unpack_from("<i", data, 12)[0]]
        voxels = np.frombuffer(data, kind, offset=1024).copy()
        with np.errstate(all="ignore"):
            if spoil == "nan":
                voxels[:] = np.nan
            elif spoil == "constant":
                voxels[:] = 3
            elif spoil == "huge":
                voxels[int(chance * len(voxels))] = 6e4 if kind == "<f2" else 1e37
            else:
                voxels *= voxels.dtype.type(1000)
        return data[:1024] + voxels.tobytes()

    _edit(case, path, change)


class _Payload:
    """Object whose pickle creates a file if code in it is executed."""

    def __reduce__(self) -> Any:
        return os.system, ("touch witness",)


def _pickles(rng: random.Random, case: Case) -> None:
    path = _pick(rng, case, _is_pickle)
    how = rng.choice(("flip", "flip", "flip", "cut", "payload", "bomb", "type", "empty", "text"))
    case.what = f"{how} in {path}"
    case.must_refuse = how != "text"
    chance, bit = rng.random(), rng.randrange(8)
    bomb = rng.choice((
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        b"\x80\x02cbuiltins\nlist\ncbuiltins\nrange\nJ\xff\xff\xff\x7f\x85R\x85R.",
        b"\x80\x04\x8e" + (2**33).to_bytes(8, "little") + b"x.",
        b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85X\x02\x00\x00\x00f8\x86R.",
    ))  # fmt: skip
    other = rng.choice(([1, "a"], {"mu": None}, 7, "text", (), {"decoder_state_dict": 3}, [[1.0, float("nan")]] * 3))

    def change(data: bytes) -> bytes:
        if how == "flip":
            return flip(data, int(chance * len(data)), bit)
        if how == "cut":
            return data[: int(chance * len(data))]
        return {
            "payload": pickle.dumps({"mu": _Payload()}), "bomb": bomb, "type": pickle.dumps(other), "empty": b"",
            "text": b"0 1 2\n",
        }[how]  # fmt: skip

    _edit(case, path, change)


# Surroundings


def _signals(rng: random.Random, case: Case) -> None:
    number = rng.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP))
    case.stop = number, rng.uniform(0.0, 3.0)
    if rng.random() < 0.7:
        case.command, case.words = "long", LONG.split()
    case.what = f"{number.name} after {case.stop[1]:.2f} s"


def _disks(rng: random.Random, case: Case) -> None:
    case.limits["fsize"] = int(2 ** rng.uniform(0, 17))
    case.what = f"files of {case.limits['fsize']} bytes"


def _memory(rng: random.Random, case: Case) -> None:
    case.limits["memory"] = int(2 ** rng.uniform(12, 28))
    case.what = f"{case.limits['memory'] >> 10} KiB more memory"


def _streams(rng: random.Random, case: Case) -> None:
    what = rng.choice(("stdout closed", "stdout full", "stdout ascii", "stderr closed", "stderr full", "stderr ascii",
                       "cwd gone", "stdout pipe", "stderr pipe"))  # fmt: skip
    name, value = what.split()
    case.limits[name] = value
    case.what = what
    case.must_refuse = what in ("cwd gone", "stdout full")
    if rng.random() < 0.3:
        case.words.insert(2, "-h")
        case.must_refuse = what in ("cwd gone", "stdout full")


READERS = {"star": _is_text, "mrc": _is_mrc, "pickles": _is_pickle}
GENERATORS: dict[str, Callable[[random.Random, Case], None]] = {
    "options": _options, "star": _star, "mrc": _mrc, "pickles": _pickles, "signals": _signals, "disks": _disks,
    "memory": _memory, "streams": _streams,
}  # fmt: skip
