"""OpenVINO's plugin and the signals of the process that it runs in."""

import subprocess
import sys
import textwrap

import pytest


def test_a_signal_after_two_engines_went_is_survived() -> None:
    """Two Cores that went in the order in which they came left a stack for signal handlers that was not mapped any more."""
    pytest.importorskip("openvino")
    code = """
        import os, signal
        import numpy as np
        from phiscale import design
        from phiscale.deploy.graph import graph, random_weights
        from phiscale.runtime.engines import open_engine

        heard = []
        signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
        lite = design("efficientnet_lite0")
        model = graph(lite, random_weights(lite.spec, seed=0)).SerializeToString()
        engines = [open_engine(model, runtime="openvino", threads=1) for _ in range(3)]
        while engines:
            del engines[0]
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard == [1]
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
