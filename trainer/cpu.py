"""How a program here uses the processor: few threads, and the 16-bit instructions it has.

Call `limit_threads` before torch is imported; OpenMP reads its settings once.
"""

import os
from pathlib import Path


def limit_threads() -> None:
    """One thread that sleeps while it waits, unless the environment says otherwise.

    Two spinning OpenMP threads beside any other busy process run four to ten times slower on two cores.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def thread_count() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; without that, autocast is slower than float32."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and any(flag in cpuinfo.read_text() for flag in ("avx512_bf16", "amx_bf16"))
