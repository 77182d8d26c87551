"""Options that several commands share: one meaning and one help text each."""

from typing import Annotated

from cyclopts import Parameter

Macs = Annotated[str | None, Parameter(help="Most multiply-adds of one image, e.g. 300M or 1.2G. Default: no limit.")]
Params = Annotated[str | None, Parameter(help="Most parameters, e.g. 5M. Default: no limit.")]
Memory = Annotated[str | None, Parameter(help="Most memory to predict one image (weights and activations), e.g. 64MB. Default: no limit.")]
Latency = Annotated[
    str | None, Parameter(help="Longest median time of one image (or batch) on this machine, e.g. 15ms; measured. Default: no limit.")
]
Json = Annotated[bool, Parameter(name="--json", help="Print one JSON value and nothing else on standard output.")]
Markdown = Annotated[bool, Parameter(help="Print the table as Markdown.")]
Runtime = Annotated[
    str | None,
    Parameter(
        help="What computes: openvino, onnxruntime or native. Default: OpenVINO where it is installed, else ONNX Runtime; "
        "native where it was faster when both were tried here, once."
    ),
]
Threads = Annotated[int | None, Parameter(help="Processor threads. Default: all that this process may use.")]
Seed = Annotated[int, Parameter(help="Everything that is left to chance depends on it.")]
