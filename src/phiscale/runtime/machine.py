"""What a measurement was made on."""

import os
import platform
import re
from pathlib import Path
from typing import Any

# what decides how fast a network runs here: vector width, half precision, matrix units
_TELLING = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "amx_bf16",
    "amx_int8",
    "amx_fp16",
    "asimd",
    "sve",
    "bf16",
)


def machine() -> dict[str, Any]:
    """Processor, its instructions that matter here, usable threads, system and Python, as plain values."""
    said = _cpuinfo()
    flags = set(re.split(r"\s+", said.get("flags", said.get("Features", ""))))
    return {
        "processor": said.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in _TELLING if name in flags],
        "threads": available_threads(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def available_threads() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:  # not Linux
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def free_bytes() -> float:
    """Memory that this machine can spare, in bytes; where it doesn't say (not Linux), 4 GiB are supposed."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        return 1024.0 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return float(4 << 30)
