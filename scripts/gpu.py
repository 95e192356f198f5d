"""Check on a GPU what only a GPU can show, and print a table.

    make gpu
    scripts/gpu.sh --device cpu --only "int8 refused or run"

Needs torch, transformers and lightning; nothing is downloaded: models have random weights, texts are the built-in ones.
Checks that need another package are left out where it is missing, and those that need CUDA are skipped with
`--device cpu`. Each check runs apart: one that fails, hangs or ends its process does not stop the others. Exit status 1
where one failed; 0 without a GPU, with one line that says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402

import scripts.gpu_span_checks  # noqa: E402
import scripts.gpu_text_checks  # noqa: E402, F401  (fills CHECKS, with scripts.gpu_checks)
from scripts.gpu_bench import CHECKS, Bench  # noqa: E402

LIMIT = 480.0  # seconds of all checks
SHARE = 0.3  # of that may go to one
SCRIPT = Path(__file__).resolve()  # what a check's process runs
PASS, FAIL, SKIPPED, LEFT_OUT = "pass", "FAIL", "skipped", "left out"
Row = dict[str, Any]


def missing(packages: Sequence[str]) -> list[str]:
    """Those that cannot be imported."""
    return [name for name in packages if not there(name)]


def there(name: str) -> bool:
    """Whether a package can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def not_run(name: str, device: str) -> Row | None:
    """The row of a check that cannot run here; None where it can."""
    check = CHECKS[name]
    if check.cuda and not device.startswith("cuda"):
        return {"name": name, "result": SKIPPED, "seen": "needs CUDA"}
    if lacking := missing(check.packages):
        return {"name": name, "result": LEFT_OUT, "seen": f"needs {', '.join(lacking)}, which is not installed"}
    return None


def work(names: Sequence[str], device: str, folder: Path, results: Path) -> None:
    """Run checks in this process and append a line for each start and each end; stop after a failure.

    After an error of CUDA a process is of no use any more, so that each failure is the last thing that it does.
    """
    from dial.threads import wait_passively

    wait_passively()
    bench = Bench(torch.device(device), folder)
    for name in names:
        append(results, {"start": name})
        began, figures = time.monotonic(), {}
        try:
            seen = CHECKS[name].run(bench)
            result, text, figures = PASS if bool(seen.passed) else FAIL, seen.text, seen.figures
        except Exception as error:
            import traceback

            traceback.print_exc()
            result, text = FAIL, f"{type(error).__name__}: {' '.join(str(error).split())}"[-600:]
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
        seconds = time.monotonic() - began
        append(results, {"name": name, "result": result, "seen": text, "seconds": seconds, "figures": figures})
        if result == FAIL:
            return


def append(path: Path, content: Row) -> None:
    """One more line of JSON."""
    from dial.files import plain

    with path.open("a") as file:
        file.write(json.dumps(plain(content)) + "\n")


def read(path: Path) -> tuple[list[Row], str | None]:
    """Rows that are done, and the check that is at work."""
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.is_file() else []
    at_work = lines[-1]["start"] if lines and "start" in lines[-1] else None
    return [line for line in lines if "name" in line], at_work


def watch(names: Sequence[str], device: str, folder: Path, until: float, longest: float) -> list[Row]:
    """Run checks in a process of their own, until it ends or one takes too long; rows of those that it began.

    Args:
        names: of the checks.
        device: where.
        folder: for files.
        until: on the monotonic clock, when everything must be over.
        longest: seconds of a check.
    """
    results = Path(tempfile.mkstemp(dir=folder, suffix=".jsonl")[1])
    command = [sys.executable, str(SCRIPT), "--device", device, "--work", str(folder)]
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--results", str(results), "--only", *names], stdout=log, stderr=log, start_new_session=True
        )
    began, count, reason = time.monotonic(), -1, ""
    while process.poll() is None:
        rows, _ = read(results)
        if len(rows) != count:
            count, began = len(rows), time.monotonic()
        if time.monotonic() > until:
            reason = "the time of all checks was over"
        elif time.monotonic() - began > longest:
            reason = f"took more than {longest:.0f} s"
        if reason:
            os.killpg(process.pid, 9)
            process.wait()
        time.sleep(0.05)
    rows, at_work = read(results)
    if at_work is not None or not rows:
        name = at_work or names[0]
        reason = reason or f"its process ended with {process.returncode}; see {folder / 'log.txt'}"
        rows.append({"name": name, "result": FAIL, "seen": reason, "seconds": time.monotonic() - began, "figures": {}})
    return rows


def run_all(names: Sequence[str], device: str, folder: Path, limit: float) -> list[Row]:
    """Rows of all checks, in their order."""
    rows = {name: row for name in names if (row := not_run(name, device)) is not None}
    until = time.monotonic() + limit
    while left := [name for name in names if name not in rows]:
        if time.monotonic() >= until:
            rows |= {name: {"name": name, "result": FAIL, "seen": f"not begun within {limit:.0f} s"} for name in left}
            break
        rows |= {row["name"]: row for row in watch(left, device, folder, until, SHARE * limit)}
    return [rows[name] for name in names]


def table_of(rows: Sequence[Row]) -> str:
    """Check, what was seen, and whether it passed, as a Markdown table."""
    lines = [("check", "seen", "result", "s"), ("---", "---", "---", "---:")]
    lines += [(row["name"], row["seen"], row["result"], f"{row.get('seconds', 0):.0f}") for row in rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def versions() -> dict[str, str]:
    """Of the packages that matter here."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "lightning", "datasets", "fvcore", "jsonargparse"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ..., or cpu; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=tuple(CHECKS), default=tuple(CHECKS), help="checks")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"), help="default: %(default)s")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of all checks; default: %(default)s")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Check; returns the exit code."""
    options = parse(argv)
    if options.results is not None:
        work(options.only, options.device, options.work, options.results)
        return 0
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("No GPU that torch can use: nothing was checked (--device cpu runs what makes sense without one).")
        return 0
    from dial.files import write_json
    from dial.machine import describe_machine

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("DIAL_CACHE", f"{folder}/cache")
        rows = run_all(options.only, options.device, Path(folder), options.limit)
        log = (Path(folder) / "log.txt").read_text(errors="replace") if (Path(folder) / "log.txt").is_file() else ""
    machine, seconds = describe_machine(options.device), time.monotonic() - began
    failed = [row["name"] for row in rows if row["result"] == FAIL]
    content = {"machine": machine, "versions": versions(), "seconds": seconds, "failed": failed, "checks": rows}
    write_json(options.out, content)
    if failed:
        print(log[-6000:], file=sys.stderr)
    print(f"{machine['device']}, torch {machine['torch']}, {seconds:.0f} s\n\n{table_of(rows)}\n")
    print(f"{len(failed)} of {len(rows)} checks failed" if failed else "no check failed", f"(written to {options.out})")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
