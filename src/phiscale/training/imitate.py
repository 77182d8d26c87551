"""Before training: a network with cut weights learns to answer as the one that they were cut from does."""

import torch
from torch import nn

from phiscale.data.load import ImageDataset, make_loader, mix
from phiscale.data.transform import normalise
from phiscale.kernels import accelerate, restore
from phiscale.nn import Network
from phiscale.training.objective import Teacher, distillation
from phiscale.training.recipe import Loss, Schedule

RATE = 1e-3  # AdamW's, at its highest


def imitate(
    student: Network, source: Teacher, images: ImageDataset, *, steps: int, batch: int = 32, device: torch.device | None = None
) -> None:
    """Change the weights of `student`, all of them, in `steps` steps of distillation from `source` on `images` as training varies them.

    Labels play no part, so that both have the classes that the source was trained on. The same for the same images and seed.
    Source: distillation from a larger network after pruning, as in arXiv 2106.05237 (the same view for both).
    """
    device = device or next(student.parameters()).device
    student.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    accelerate(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.02)
    schedule, part = Schedule(warmup=0.2), Loss(temperature=2.0)
    loader = make_loader(images, batch=min(batch, len(images)), shuffle=True)
    batches = loader.batch_sampler
    done = 0
    student.train()
    for epoch in range(steps):
        batches.epoch = epoch  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        for pixels, _, _ in loader:
            if done == steps:
                break
            torch.manual_seed(mix(images.seed, done, 2))
            for group in optimizer.param_groups:
                group["lr"] = RATE * schedule.rate(done, steps, 1)
            x = normalise(pixels.to(device).contiguous(memory_format=torch.channels_last), images.preprocess)
            loss = distillation(student(x).float(), source(x), part)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
            done += 1
        if done == steps:
            break
    restore(student).eval()
