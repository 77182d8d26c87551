"""The native engine's tests and a short fuzz on builds with AddressSanitizer and UndefinedBehaviorSanitizer.

python tools/native_sanitize.py [--minutes 1] [--levels NAMES] [--emulate-amx] [pytest arguments]

Needs g++ with both; ends with their status.

--emulate-amx puts level amx, its tiles and half precision emulated (amx_emulated.h), in the place of level avx512_bf16: what checks it
where no processor has them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from phiscale.runtime.native.support import LIBRARIES, levels

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/phiscale/runtime/native/source/network.cpp"
TESTS = ("tests/runtime/test_native.py", "tests/runtime/test_native_int8.py")
TARGETS = json.loads((SOURCE.parent / "levels.json").read_text())
COMMON = "-std=c++17 -fno-math-errno -fvisibility=hidden -fPIC -pthread -shared"
CHECKS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1, help="of fuzzing")
    here = ",".join(level.name for level in (*levels(), *levels("int8")))
    parser.add_argument("--levels", default=here, help="to build; default: all that run here; some tests want f32 among them")
    parser.add_argument("--emulate-amx", action="store_true", help="level amx, emulated, in the place of avx512_bf16")
    given, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        builds: list[subprocess.Popen[bytes]] = []
        for level in given.levels.split(","):
            emulated = given.emulate_amx and level == "avx512_bf16"
            source = f"-include {ROOT}/tools/amx_emulated.h -DPHI_AMX" if emulated else f"-DPHI_{level.upper()}"
            options = f"{COMMON} {CHECKS} {source} {TARGETS[level]}".split()
            builds.append(subprocess.Popen(["g++", *options, "-o", Path(folder) / f"_{level}.so", SOURCE]))
        if failed := [build.args for build in builds if build.wait()]:
            raise SystemExit(f"a sanitized build failed: {failed}")
        parts = [
            subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True)
            for name in ("libasan.so", "libubsan.so")
        ]
        checked = os.environ | {
            LIBRARIES: folder,
            "LD_PRELOAD": " ".join(part.stdout.strip() for part in parts),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps much until it ends
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}",
        }
        # a limit of address space (the test of memory that can't be had) leaves no room for AddressSanitizer's own, and it refuses
        # the way in which OpenVINO opens its libraries (the tests of the default)
        tests = [sys.executable, "-m", "pytest", "-q", *TESTS, "-k", "not cannot_be_had and not default", *rest]
        fuzz = [sys.executable, "tools/native_fuzz.py", "--minutes", str(given.minutes)]
        return max(abs(subprocess.run(command, cwd=ROOT, env=checked, check=False).returncode) for command in (tests, fuzz))


if __name__ == "__main__":
    sys.exit(main())
