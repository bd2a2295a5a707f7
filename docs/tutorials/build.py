"""Run the commands of the tutorials, and write their pages and pictures from the results.

usage: python docs/tutorials/build.py run {tutorial,ribosomes} [--work DIR] [--data DIR]
       python docs/tutorials/build.py pages

`run` executes the commands of a template (docs/tutorials/*.template.md) in their order in a working folder, collects
the numbers and excerpts that the page shows in docs/tutorials/NAME.json, copies the pictures to docs/img, and writes
the page. `--data` is the folder of the ribosomes (particles.star, ctf.star, mask.mrc and subtomo). Commands that have
already run in the working folder are not repeated. `pages` writes the pages from the existing JSON files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ribosomes
import simulated

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent
TUTORIALS = {"tutorial": simulated, "ribosomes": ribosomes}
PAGES = {"tutorial": "tutorial.md", "ribosomes": "tutorial-ribosomes.md"}
TRAINING = "{{training_command}}"
NOTE = "<!-- Written by docs/tutorials/build.py from {template} and {facts}: edit the template. -->\n\n"
PROGRAMS = {"dsd": "import opustomo.main as m", "dsdsh": "import analysis_scripts.main as m"}


def commands(template: str) -> list[str]:
    """Return the command lines of the fenced blocks of a template, with continued lines joined."""
    found = []
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```", template, re.MULTILINE | re.DOTALL):
        lines = (line.strip() for line in block.replace("\\\n", " ").splitlines())
        found += [re.sub(r"\s+", " ", line) for line in lines if line.startswith(("dsd ", "dsdsh ", TRAINING))]
    return found


def proposed(output: str) -> str:
    """Return the training command in the output of ``dsd check``."""
    lines = [line for line in output.splitlines() if line.startswith("dsd train_tomo ")]
    if len(lines) != 1:
        raise SystemExit("dsd check printed no training command:\n" + output)
    return lines[0]


def execute(name: str, work: Path) -> dict[str, str]:
    """Run the commands of a tutorial in `work` and return their outputs by command line."""
    outputs: dict[str, str] = {}
    store = work / "outputs.json"
    if store.exists():
        outputs = json.loads(store.read_text(encoding="utf-8"))
    for line in commands(template(name)):
        if line == TRAINING:
            line = proposed(next(text for command, text in outputs.items() if command.startswith("dsd check")))
        if line in outputs:
            continue
        print(f"$ {line}", flush=True)
        program, *words = shlex.split(line)
        if words[0] == "train_tomo":  # an interrupted run is not resumed
            shutil.rmtree(work / words[words.index("-o") + 1], ignore_errors=True)
        code = f"{PROGRAMS[program]}; import sys; sys.exit(m.main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=work, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{line} failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
        outputs[line] = done.stdout
        store.write_text(json.dumps(outputs, indent=1, ensure_ascii=False), encoding="utf-8")
    return outputs


def template(name: str) -> str:
    """Return the text of a template."""
    return (HERE / f"{name}.template.md").read_text(encoding="utf-8")


def render(text: str, facts: dict[str, Any]) -> str:
    """Replace ``{{name}}`` and ``{{name:format}}`` by facts; lines of a fact get the indentation of its place."""

    def value(match: re.Match[str]) -> str:
        found = facts[match[2]]
        shown = format(found, match[3] or "")
        return match[1] + shown.replace("\n", "\n" + match[1])

    return re.sub(r"(^ *|)\{\{(\w+)(?::([^}]*))?\}\}", value, text, flags=re.MULTILINE)


def page(name: str) -> str:
    """Return the page of a tutorial from its template and its JSON file."""
    facts = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))["facts"]
    head, _, rest = template(name).partition("\n\n")
    note = NOTE.format(template=f"docs/tutorials/{name}.template.md", facts=f"{name}.json")
    return f"{head}\n\n{note}{render(rest, facts)}"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(name: str, work: Path, data: Path | None) -> None:
    """Run a tutorial, and write its JSON file, pictures and page."""
    work.mkdir(parents=True, exist_ok=True)
    if name == "ribosomes":
        if data is None:
            raise SystemExit("Give the folder of the ribosomes with --data.")
        for path in data.iterdir():
            if not (work / path.name).exists():
                (work / path.name).symlink_to(path.resolve())
    outputs = execute(name, work)
    module = TUTORIALS[name]
    facts = module.facts(work, outputs)
    lines = next(text for command, text in outputs.items() if command.startswith("dsd check"))
    facts["training_command"] = folded(proposed(lines))
    pictures = {}
    for target, source in module.PICTURES.items():
        shutil.copyfile(work / source, DOCS / "img" / target)
        pictures[target] = digest(DOCS / "img" / target)
    content = {"facts": facts, "pictures": pictures}
    (HERE / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def folded(line: str, width: int = 112) -> str:
    """Break a command line at options."""
    rows = [""]
    for part in re.split(r" (?=-)", line):
        if rows[-1] and len(rows[-1]) + len(part) + 1 > width:
            rows.append("    " + part)
        else:
            rows[-1] = f"{rows[-1]} {part}" if rows[-1] else part
    return " \\\n".join(rows)


def main() -> None:
    """Run a tutorial or write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "pages"))
    parser.add_argument("name", choices=sorted(TUTORIALS), nargs="?")
    parser.add_argument("--work", type=Path, help="working folder (default: build/NAME)")
    parser.add_argument("--data", type=Path, help="folder of the ribosomes")
    args = parser.parse_args()
    if args.action == "run":
        if args.name is None:
            parser.error("name a tutorial")
        run(args.name, args.work or Path("build") / args.name, args.data)
    for name in TUTORIALS:
        if (HERE / f"{name}.json").exists():
            (DOCS / PAGES[name]).write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    main()
