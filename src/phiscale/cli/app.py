"""All commands, one line each, imported when they are asked for; and how every one of them ends."""

import gc
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError, Group, Parameter

from phiscale.cli.console import STDIN, say, tolerate_odd_names
from phiscale.errors import PhiscaleError
from phiscale.version import VERSION

DONE, FAILED, WRONG_ARGUMENTS, INTERRUPTED = 0, 1, 2, 130

# name: (group, one line of help). The command is `command` in cli/NAME.py
SPINS = "5000"  # turns that torch's threads wait busily for each other: docs/performance.md, "Beside other programs"
COMMANDS = {
    "fit": ("Train", "Train a classifier on a folder of images, inside a budget."),
    "search": ("Train", "Find α, β, γ for a baseline on your images."),
    "evaluate": ("Use", "Accuracy, per class, calibration and confusion on labelled images."),
    "predict": ("Use", "Labels and probabilities of image files, without PyTorch."),
    "export": ("Use", "Write a run's bundle, or its model for other programs."),
    "bench": ("Use", "Latency and throughput on this machine, side by side."),
    "list": ("Look", "The published networks: params, MACs, resolution, accuracy, weights."),
    "show": ("Look", "What a network is and what each stage of it costs."),
    "design": ("Look", "Scale a network by hand, by φ, or to a budget."),
    "reproduce": ("Look", "A table of the EfficientNet paper beside our own numbers."),
    "doctor": ("Look", "What this installation can do: runtimes, weights, processor."),
}


def application() -> App:
    """The parser with every command on it, none of them imported."""
    app = App(
        name="phiscale",
        help="EfficientNets that fit your budget: from a folder of images to a measured classifier that runs without PyTorch.",
        help_epilogue="Start with: phiscale fit IMAGES, a folder of class folders.",
        version=f"phiscale {VERSION}",
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=()),
    )
    groups = {name: Group(name, sort_key=number) for number, name in enumerate(dict.fromkeys(group for group, _ in COMMANDS.values()))}
    for number, (name, (group, line)) in enumerate(COMMANDS.items()):
        app.command(f"phiscale.cli.{name}:command", name=name, help=line, group=groups[group], sort_key=number)
    last = Group("Options", sort_key=len(groups))
    for flag in (*app.help_flags, *app.version_flags):
        app[flag].group = (last,)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status comes back (0 done, 1 failed, 2 wrong arguments, 130 interrupted)."""
    tolerate_odd_names()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["predict"]:  # a lone dash would be taken for an option
        given = [STDIN if argument == "-" else argument for argument in given]
    try:
        application()(given, exit_on_error=False, print_error=False, result_action="return_none")
        sys.stdout.flush()
    except CycloptsError as error:
        chain = " ".join(("phiscale", *(error.command_chain or ())))
        error.verbose = False
        return _fail(f"{error}\nsee: {chain} --help", WRONG_ARGUMENTS)
    except PhiscaleError as error:
        return _fail(str(error), error.exit_status)
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", FAILED)
    except MemoryError:
        return _fail("not enough memory; a smaller --batch, --resolution or network needs less", FAILED)
    except Exception:  # noqa: BLE001  # a bug of ours: it must be seen, and reported
        traceback.print_exc()
        return _fail("this is a bug; please report it with the lines above, the command, and what `phiscale doctor` says", FAILED)
    return DONE


def command_line() -> NoReturn:
    """The `phiscale` command: `main` on the process's own arguments, then out.

    `predict` leaves the shortest way, as taking down the interpreter and an engine that nobody needs again is an eighth of a first
    prediction's time. It has no files open and no children.
    torch's threads wait busily between operators, by GNU OpenMP's default for so long that beside two busy programs a training step
    takes eight times as long, not two or three (docs/performance.md). It is read when torch is opened; what a person set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    gc.set_threshold(100_000)  # imports make objects that stay, and looking through them again and again is 7 ms of a first prediction
    status = main()
    if sys.argv[1:2] == ["predict"]:
        os._exit(status)
    sys.exit(status)


def _fail(message: str, status: int) -> int:
    say(f"phiscale: {message}")
    return status
