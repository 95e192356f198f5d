"""Time and memory of `dial sweep` on large tables of logits.

Targets in processor time and peak memory: 1,000,000 rows x 2 stages in 30 s and 1.5 GB, 100,000 x 12 in 15 s, and
10,000,000 x 2 (``--rows 10000000 --stages 2``) in 360 s and 8 GB; the folder needs 4 GB for the latter.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.bench_curves import table_of
from dial.stages.parquet import save_table


def main() -> None:
    """Print one line per table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 100_000])
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 12])
    parser.add_argument("--folder", help="keep tables and results here; default: a temporary folder")
    parser.add_argument("--profile", help="write cProfile's statistics to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for rows, stages in zip(options.rows, options.stages, strict=True):
            folder = Path(options.folder or temporary)
            path = folder / f"{rows}x{stages}.parquet"
            if not path.exists():
                child = os.fork()  # the memory that a table is made in is not the sweep's
                if child == 0:
                    try:
                        save_table(table_of(rows, stages, classes=2), path)
                    finally:
                        os._exit(0 if path.exists() else 1)
                if os.waitpid(child, 0)[1]:
                    raise SystemExit(f"no table {path}")
            profile = ["-m", "cProfile", "-o", options.profile] if options.profile else []
            command = [sys.executable, *profile, "-m", "dial", "sweep", str(path), "--out", str(path.with_suffix(""))]
            _, status, used = os.wait4(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid, 0)
            print(
                f"{rows} rows x {stages} stages: {used.ru_utime + used.ru_stime:.1f} s of processor time, "
                f"peak {used.ru_maxrss / 2**20:.2f} GB{', failed' if status else ''}",
                flush=True,
            )


if __name__ == "__main__":
    main()
