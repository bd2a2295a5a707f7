"""Run shell scripts in which ``dsd`` and ``dsdsh`` are those of this process, which has imported PyTorch already."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from analysis_scripts.main import main as dsdsh
from opustomo.main import main as dsd

MAINS = {"dsd": dsd, "dsdsh": dsdsh}
# what scripts find as dsd and dsdsh: it hands its words and its folder to the test
CLIENT = """#!/bin/sh
'''exec' "{python}" -SE "$0" "$@"  # to Python a string: its path may hold spaces, which a first line may not
' '''
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    link.sendall(json.dumps([{program!r}, os.getcwd(), *sys.argv[1:]]).encode())
    link.shutdown(socket.SHUT_WR)
    code, said = json.loads(b"".join(iter(lambda: link.recv(65536), b"")))
print(said)
sys.exit(code)
"""


def run_script(
    words: list[str], folder: Path, settings: Mapping[str, str], programs: Path, more: list[str] | None = None
) -> tuple[int, str]:
    """Run a script in a folder; its dsd and dsdsh run in this process, one after the other.

    Parameters
    ----------
    words
        Shell and script, such as ``["sh", "job.sh"]``.
    folder
        Working folder.
    settings
        Environment variables of the script.
    programs
        Folder for the programs that the script finds first; made if it is missing.
    more
        Words that are added to every ``dsd train_tomo``, to make the work small.

    Returns
    -------
    int, str
        Exit code and everything that was printed.
    """
    programs.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory(prefix="ot") as short:
        address = f"{short}/s"  # names of sockets may have 100 characters
        server.bind(address)
        server.listen()
        server.settimeout(0.05)
        for program in MAINS:
            text = CLIENT.format(python=sys.executable, address=address, program=program)
            (programs / program).write_text(text)
            (programs / program).chmod(0o755)
        environment = {**os.environ, **settings, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        log = programs / "log.txt"
        with log.open("w") as file:
            process = subprocess.Popen(words, cwd=folder, env=environment, stdout=file, stderr=file)
            while process.poll() is None:
                with contextlib.suppress(TimeoutError):
                    _serve(server.accept()[0], more or [])
    return process.returncode, log.read_text()


def _serve(link: socket.socket, more: list[str]) -> None:
    with link:
        link.settimeout(None)
        program, folder, *words = json.loads(b"".join(iter(lambda: link.recv(65536), b"")))
        if words and words[0].startswith("train_tomo"):
            words += more
        said = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = MAINS[program](words)
        link.sendall(json.dumps([code, said.getvalue()]).encode())
