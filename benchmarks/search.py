"""Seconds to list EfficientNet-B0's feasible grid, in a fresh interpreter, and what it imports.   python benchmarks/search.py"""

import subprocess
import sys
import time

LIST = """
import sys, time
start = time.process_time()
from phiscale.architecture.catalog import design
from phiscale.search import feasible
points = feasible(design("efficientnet_b0"))
heavy = sorted({"torch", "numpy", "optuna"} & set(sys.modules))
print(len(points), round(time.process_time() - start, 3), heavy)
"""

if __name__ == "__main__":
    print("points, processor seconds, heavy modules; wall seconds")
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=True)
        print(done.stdout.strip(), "|", round(time.perf_counter() - start, 2))
