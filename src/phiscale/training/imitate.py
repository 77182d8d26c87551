"""Before training: a network with cut weights learns to answer as the one that they were cut from does."""

from collections.abc import Callable, Iterator
from itertools import count, islice

import torch
from torch import Tensor, nn

from phiscale.data.load import ImageDataset, make_loader, mix
from phiscale.data.transform import normalise
from phiscale.kernels import accelerate, restore
from phiscale.nn import Network
from phiscale.training.objective import Teacher, distillation
from phiscale.training.optim import AdamW, without_compiler
from phiscale.training.recipe import Loss, Schedule

Progress = Callable[[str, int, int], None]  # (what, done, total), in images
RATE, BATCH = 1e-3, 32  # AdamW's rate at its highest; images a step


@without_compiler()
def imitate(student: Network, source: Teacher, images: ImageDataset, *, steps: int, tell: Progress | None = None) -> None:
    """Change the weights of `student`, all of them, in `steps` steps of distillation from `source` on `images` as training varies them.

    Labels play no part, so that both have the classes that the source was trained on. The same for the same images and seed.
    Source: arXiv 2106.05237 (the teacher sees the same view).
    """
    device = next(student.parameters()).device
    student.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    accelerate(student).train()
    optimizer = AdamW(student.parameters(), lr=RATE, weight_decay=0.02)
    schedule, part = Schedule(warmup=0.2), Loss(temperature=2.0)
    loader = make_loader(images, batch=min(BATCH, len(images)), shuffle=True)

    def batches() -> Iterator[Tensor]:
        for epoch in count():
            loader.batch_sampler.epoch = epoch  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
            for pixels, _, _ in loader:
                yield pixels

    for step, pixels in enumerate(islice(batches(), steps)):
        torch.manual_seed(mix(images.seed, step, 2))
        for group in optimizer.param_groups:
            group["lr"] = RATE * schedule.rate(step, steps, 1)
        x = normalise(pixels.to(device).contiguous(memory_format=torch.channels_last), images.preprocess)
        distillation(student(x).float(), source(x), part).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        if tell is not None:
            tell("learning from its source", (step + 1) * BATCH, steps * BATCH)
    restore(student).eval()
