"""The processes of one training, as `torchrun` starts them: which one this is, sums over all of them, values that the first one decides."""

import atexit
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from phiscale.errors import RunError

T = TypeVar("T")

TIMEOUT = 1800  # seconds that the others wait for one process; torch's own default
LOST = ("gloo", "nccl", "connection", "timed out", "timeout", "socket", "recv", "peer")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's number among `count`; with one process everything here gives back what it was given."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """The one that writes and prints."""
        return self.rank == 0

    def share(self, n: int) -> range:
        """Which of n rows are this process's: all of them over all processes, each once, in order."""
        return range(n * self.rank // self.count, n * (self.rank + 1) // self.count)

    def decide(self, make: Callable[[], T]) -> T:
        """What the first process makes, on every process."""
        if self.count == 1:
            return make()
        with self.together():
            held: list[Any] = [make() if self.main else None]
            return broadcast_object_list(held)[0]

    def total(self, *numbers: float) -> tuple[float, ...]:
        """The sums of each number over all processes, the same on all."""
        if self.count == 1:
            return numbers
        summed = torch.tensor(numbers, dtype=torch.float64, device=PartialState().device)
        with self.together():
            torch.distributed.all_reduce(summed)
        return tuple(summed.tolist())

    def rows(self, mine: Tensor, n: int) -> Tensor:
        """All n rows of which `mine` are this process's `share`, on every process; what is padded on the way is cut off again."""
        if self.count == 1:
            return mine
        most = -(-n // self.count)
        padded = torch.zeros(most, *mine.shape[1:], dtype=mine.dtype, device=PartialState().device)
        padded[: len(mine)] = mine.to(padded.device)
        with self.together():
            parts = gather(padded).view(self.count, most, *mine.shape[1:]).to(mine.device)  # pyright: ignore[reportAttributeAccessIssue]
        return torch.cat([parts[rank, : len(Processes(rank, self.count).share(n))] for rank in range(self.count)])

    @torch.no_grad()
    def same_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's batch norm statistics."""
        if self.count > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    @contextmanager
    def together(self) -> Generator[None]:
        """Where another process is lost, and its part of the step with it: RunError that says so."""
        try:
            yield
        except RuntimeError as error:
            if self.count > 1 and any(word in str(error).lower() for word in LOST):
                raise RunError(
                    f"process {self.rank} of {self.count} lost another one of this training ({str(error).splitlines()[0][:200]}); "
                    "its own message says why; go on with the same torchrun command and fit --resume RUN"
                ) from error
            raise


def processes(timeout: float = TIMEOUT) -> Processes:
    """Join the processes that torchrun started, or be the only one. timeout: seconds to wait for each other."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    _meet(timedelta(seconds=timeout))
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(seconds=timeout))
    atexit.register(_leave)
    return Processes(state.process_index, state.num_processes)


def _leave() -> None:
    """End the group before the interpreter does, whose end would now and then abort where a thread of the group still waits."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _meet(timeout: timedelta) -> None:
    """Join torch's process group.

    Where torchrun starts all processes of one machine again, its store still has the dead ones' addresses, and who reads them first
    can't connect (torch 2.14): each start gets names of its own. On several machines the starts are not counted alike.
    """
    if torch.distributed.is_initialized() or os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return
    store, rank, count = next(rendezvous("env://", timeout=timeout))
    store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    backend = torch.distributed.get_default_backend_for_device(device)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)
