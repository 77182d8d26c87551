"""Floor 1 · the network in torch.

Comes in: a NetworkSpec.  Goes out: an nn.Module whose state_dict is `layout(spec)`.
Never: knows of speed (kernels/ is applied from outside), weights files or training; switches mode in place.
Start reading: network.py, then blocks.py (cost/count.py mirrors it line for line).
"""

from phiscale.nn.features import Features, dilate
from phiscale.nn.network import Network

__all__ = ["Features", "Network", "dilate"]
