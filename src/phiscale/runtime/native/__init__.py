"""Floor 1 · our own engine: whole MBConvs in cache on AMX (bf16) and AVX-512 half precision, in C++ behind a plain C interface.

Comes in: a NetworkSpec, folded weights, images.  Goes out: logits, embedding, last feature map.
Never: imports torch; runs on a processor that lacks an instruction it uses; falls back to another engine by itself.
Start reading: engine.py, then source/engine.h, source/network.cpp (docs/native-runtime.md draws the idea).
"""

from phiscale.runtime.native.engine import Native
from phiscale.runtime.native.support import why_not

__all__ = ["Native", "why_not"]
