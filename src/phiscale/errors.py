"""Every error that phiscale raises on purpose.

PhiscaleError                  the command ends with `exit_status` and prints the message, never a traceback
├── ArgumentError              2 · what was asked makes no sense: unknown option value, missing path, existing run folder
│   ├── UnknownNetworkError    2 · no such name; the message carries the nearest ones
│   ├── SpecError              2 · a network, design or recipe file is wrong; names the stage and the field
│   └── BudgetError            2 · a budget that doesn't parse, contradicts itself or can't be met; carries the smallest possible
├── DataError                  1 · the images can't be used: empty, one class, labels that don't fit
│   └── ImageError             1 · one file can't be used; has a `code` (see runtime/image.py)
├── WeightsError               1 · a weight file is broken, unsafe, or of another network; names the first keys that differ
│   └── DownloadError          1 · their address can't be reached; names where to put the file by hand
├── BundleError                1 · a bundle is incomplete or was changed
├── RunError                   1 · a run folder or checkpoint is incomplete; the disk is full
│   ├── DivergedError          1 · training came to numbers that are none; the same again would too
│   └── StoppedError         143 · SIGTERM; the message has the command that goes on
└── MissingExtraError          1 · an optional package is needed; says which `pip install` brings it

Comes in: nothing.  Goes out: exceptions.  Never: imports anything.  Start reading: here.
"""


class PhiscaleError(Exception):
    """Base of all errors that are meant for a person."""

    exit_status = 1


class ArgumentError(PhiscaleError, ValueError):
    exit_status = 2


class UnknownNetworkError(ArgumentError):
    pass


class SpecError(ArgumentError):
    pass


class BudgetError(ArgumentError):
    pass


class DataError(PhiscaleError):
    pass


class ImageError(DataError):
    """One image can't be used. `code` is a short stable word, e.g. `truncated`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class WeightsError(PhiscaleError):
    pass


class DownloadError(WeightsError):
    pass


class BundleError(PhiscaleError):
    pass


class RunError(PhiscaleError):
    pass


class DivergedError(RunError):
    pass


class StoppedError(RunError):
    exit_status = 128 + 15  # as a shell says of what SIGTERM ended


class MissingExtraError(PhiscaleError):
    pass
