"""The native engine's tests and a short fuzz on a build with AddressSanitizer and UndefinedBehaviorSanitizer.

python tools/native_sanitize.py [--minutes 1] [pytest arguments]     needs g++ with both; ends with their status
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/phiscale/runtime/native/source/network.cpp"
TARGET = (
    "-std=c++17 -march=x86-64-v4 -mavx512bf16 -mavx512fp16 -mamx-tile -mamx-bf16 -fno-math-errno -fvisibility=hidden -fPIC -pthread -shared"
)
CHECKS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1, help="of fuzzing")
    given, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libnative.so"
        subprocess.run(["g++", *TARGET.split(), *CHECKS.split(), "-o", library, SOURCE], check=True)
        parts = [
            subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True)
            for name in ("libasan.so", "libubsan.so")
        ]
        checked = os.environ | {
            "PHISCALE_NATIVE_LIBRARY": str(library),
            "LD_PRELOAD": " ".join(part.stdout.strip() for part in parts),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps much until it ends
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}",
        }
        # a limit of address space (the test of memory that can't be had) leaves no room for AddressSanitizer's own
        tests = [sys.executable, "-m", "pytest", "-q", "tests/runtime/test_native.py", "-k", "not cannot_be_had", *rest]
        fuzz = [sys.executable, "tools/native_fuzz.py", "--minutes", str(given.minutes)]
        return max(abs(subprocess.run(command, cwd=ROOT, env=checked, check=False).returncode) for command in (tests, fuzz))


if __name__ == "__main__":
    sys.exit(main())
