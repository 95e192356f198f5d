"""How threads of OpenMP wait for each other, which is settled before torch is imported."""

from __future__ import annotations

import os
import sys

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
# Whoever has set one of these has decided about it.
OF_USERS = (*PASSIVE, "GOMP_SPINCOUNT", "KMP_LIBRARY")


def wait_passively() -> bool:
    """Let threads that wait give their core away, unless the environment says how they are to wait.

    At the end of each parallel region a thread waits for the others. By default it spins, and where another process is
    busy on its core the one that is waited for does not get to run: two threads beside one busy process computed a
    hundredth of what they do alone. Waiting passively costs a few microseconds for each region on an idle machine
    (``benchmarks/bench_threads.py``). GNU's OpenMP, which torch's own builds bring along, reads ``OMP_WAIT_POLICY``;
    Intel's, which others are linked to, reads ``KMP_BLOCKTIME`` too.

    Returns:
        Whether anything was set: not where torch, and its OpenMP with it, has read the environment already.
    """
    if "torch" in sys.modules or not os.environ.keys().isdisjoint(OF_USERS):
        return False
    os.environ.update(PASSIVE)
    return True
