"""The precision to train in: known, or measured once and kept."""

import json
from pathlib import Path

import pytest

from phiscale.kernels import best_precision, precision


def test_a_processor_that_multiplies_bfloat16_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    assert best_precision()[0] == "bfloat16"


@pytest.mark.parametrize(("ratio", "expected"), [(0.6, "float32"), (1.9, "bfloat16")])
def test_elsewhere_it_is_measured_once(ratio: float, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []

    def measured() -> float:
        asked.append(1)
        return ratio

    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    monkeypatch.setattr(precision, "_measured", measured)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert [best_precision() for _ in range(3)] == [(expected, f"bfloat16 was measured {ratio:.2f} times as fast")] * 3
    assert len(asked) == 1
    kept = tmp_path / "phiscale" / "precision.json"
    assert list(json.loads(kept.read_text()).values()) == [ratio]
    kept.write_text("{broken")
    assert best_precision()[0] == expected
    assert len(asked) == 2


def test_measuring_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "SECONDS", 0.01)
    assert 0.01 < precision._measured() < 100
