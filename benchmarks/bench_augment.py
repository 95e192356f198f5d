"""Augmenting 10,000 sentences x 10 by word vectors, as a user types it: at most 60 s on 2 cores, and even memory."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

VOCABULARY, WIDTH = 50_000, 50  # as GloVe 6B 50-d, its first words


def write_texts(path: Path, rows: int, words: list[str], seed: int = 0) -> None:
    """Sentences of 5 to 35 words that are as frequent as words are, by Zipf's law, with labels."""
    generator = np.random.default_rng(seed)
    shares = 1 / np.arange(1, len(words) + 1)
    lengths = generator.integers(5, 36, rows)
    drawn = generator.choice(len(words), size=lengths.sum(), p=shares / shares.sum())
    texts = [" ".join(words[i] for i in part) for part in np.split(drawn, lengths.cumsum()[:-1])]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text, "label": i % 2}) + "\n" for i, text in enumerate(texts))


def write_vectors(path: Path, words: list[str], seed: int = 0) -> None:
    """Random vectors, as parquet."""
    values = np.random.default_rng(seed).normal(size=(len(words), WIDTH)).astype(np.float32)
    pq.write_table(pa.table({"word": words, "vector": list(values)}), path)


def augment(folder: Path, texts: Path, copies: int, processes: int) -> tuple[float, float, float, str]:
    """Seconds, those of processors, gigabytes of the largest process so far, and what the command said at the end."""
    data = ["--data=TextDataModule", f"--data.train_file={texts}", "--data.validation_fraction=0"]
    data += ["--data.calibration=crossfit", "--data.calibration_fraction=0"]
    out = folder / f"{texts.stem}-{copies}.parquet"
    command = [sys.executable, "-m", "dial", "augment", *data, "--vectors", str(folder / "vectors.parquet")]
    command += ["--copies", str(copies), "--processes", str(processes), "--out", str(out)]
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begin, busy, after.ru_maxrss / 2**20, done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Print one line per command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b + c + d for a in letters for b in letters for c in letters for d in letters][:VOCABULARY]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "texts.jsonl", options.rows, words)
        write_vectors(folder / "vectors.parquet", words)
        print(f"{options.processes} processes; start-up and similar words included")
        for copies in (1, 10, 40):  # a growing file, whose memory must not grow
            seconds, busy, peak, said = augment(folder, folder / "texts.jsonl", copies, options.processes)
            target = " (target 60 s)" if copies == 10 else ""
            said = said.partition(" written")[0]
            print(
                f"x {copies:2d}  {seconds:5.1f} s{target}, {busy:5.1f} s of processors, {peak:.2f} GB: {said}",
                flush=True,
            )


if __name__ == "__main__":
    main()
