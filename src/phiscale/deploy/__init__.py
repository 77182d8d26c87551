"""Floor 3 · from weights to something that runs without PyTorch.

Comes in: a Design and its state_dict (numpy).  Goes out: an ONNX graph, a bundle, latencies.
Never: trains; changes the network it was given; leaves half a bundle behind.
Start reading: graph.py (written straight from the plan), bundle.py, latency.py.
"""
