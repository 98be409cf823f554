"""Run the benchmarks and write their output and the machine into docs/benchmarks.md.

python benchmarks/run_all.py                  # all of them; hours
python benchmarks/run_all.py --only growth    # one; the other sections keep their text
python benchmarks/run_all.py --quick          # small sizes; minutes

On the page, the part of a benchmark is between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`;
text outside these lines is kept. Lines that a script prints with the prefix `ratio:` come first.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parent / "docs/benchmarks.md"
FIRST = "ratio:"

# Titles for sections that the page does not have yet.
TITLES = {
    "factorize": "Matrices: methods against torch's SVD and plain algorithms",
    "alds": "ALDS: its global step against the published code",
    "pfp": "PFP: sensitivities against a loop over the formula",
    "evaluation": "Evaluation on GLUE against transformers' Trainer",
    "pipeline": "The workflow against one bare process",
    "growth": "Cost of an experiment as it grows",
    "latency": "Latency of compressed networks",
    "coded_look_up": "Look-ups of coded tables",
}
SMALL = {"evaluation": ["--rows", "100"]}  # replaces `--quick`


def machine() -> str:
    """Return the processor, its cores, the load and the versions that affect timings."""
    load = os.getloadavg()[0]
    return (
        f"{processor()}, {os.cpu_count()} cores, load {load:.1f} before; "
        f"Python {platform.python_version()}, torch {version('torch')}, "
        f"transformers {version('transformers')}; {date.today()}"
    )


def processor() -> str:
    """Return the name of the processor as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def run(name: str, options: Sequence[str]) -> str:
    """Run a script and return its part of the page; also print its output.

    Raises
    ------
    subprocess.CalledProcessError
        When the script fails.
    """
    where = machine()
    command = [sys.executable, "-u", str(FOLDER / f"{name}.py"), *options]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    ratios = [f"- {line.removeprefix(FIRST).strip()}" for line in lines if line.startswith(FIRST)]
    table = "\n".join(line for line in lines if not line.startswith(FIRST)).strip("\n")
    called = " ".join(["python", f"benchmarks/{name}.py", *options])
    parts = ["\n".join(ratios), f"`{called}` on {where}:", f"```\n{table}\n```"]
    return "\n\n".join(part for part in parts if part.strip("`\n"))


def replaced(page: str, name: str, part: str) -> str:
    """Return the page with one benchmark's part replaced, or appended if it had none."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    block = f"{begin}\n{part}\n{end}"
    if begin in page:
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        return pattern.sub(lambda _: block, page, count=1)
    return f"{page.rstrip()}\n\n## {TITLES[name]}\n\n{block}\n"


def main() -> None:
    """Run the requested benchmarks; if a script fails, its part of the page is left unchanged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TITLES, metavar="NAME", help="run only these")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    given = parser.parse_args()
    failed = []
    for name in given.only or TITLES:
        print(f"== {name}", flush=True)
        options = SMALL.get(name, ["--quick"]) if given.quick else []
        try:
            part = run(name, options)
        except subprocess.CalledProcessError as error:
            failed.append(f"{name} (exit code {error.returncode})")
            continue
        page = given.page.read_text() if given.page.is_file() else "# Benchmarks\n"
        given.page.write_text(replaced(page, name, part))
    if failed:
        sys.exit(f"error: failed, with the page unchanged there: {', '.join(failed)}")


if __name__ == "__main__":
    main()
