"""Dropout on CPUs at a third of its cost: torch draws Bernoulli numbers there one by one, on one thread."""

from __future__ import annotations

import warnings

import torch

WIDTHS = (torch.int16, torch.int32)  # random bits an element; the cheaper ones where they are fine enough
TOLERANCE = 1e-4  # of the probability, and of its complement, that rounding to a level may change


def bernoulli_from_bits_(
    tensor: torch.Tensor, p: float = 0.5, *, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Fill a tensor on a CPU with ones, with probability `p`, and zeros, in place; as `Tensor.bernoulli_` does.

    Args:
        tensor: of any shape, strides and type.
        p: rounded to a multiple of 2⁻¹⁶ where that changes neither `p` nor `1 - p` by more than 0.01 %, else of 2⁻³²;
            where that does, too, numbers of 53 bits are compared with it.
        generator: random numbers; torch's own by default.

    Returns:
        The tensor.

    Raises:
        RuntimeError: `p` is no probability (as torch has it).
    """
    if not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    if p in (0, 1):
        return tensor.fill_(p)
    for width in WIDTHS:
        half = -torch.iinfo(width).min
        level = round(p * 2 * half)
        if abs(level / (2 * half) - p) <= TOLERANCE * min(p, 1 - p):
            break
    else:
        return tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) < p)
    count, each = tensor.numel(), torch.int64.itemsize // width.itemsize
    words = torch.empty(-(-count // each), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    draws = words.view(width)[:count]
    if tensor.is_contiguous():
        torch.lt(draws, level - half, out=tensor.view(-1))
        return tensor
    return tensor.copy_((draws < level - half).view(tensor.shape))


def draw_bernoulli_from_bits() -> torch.library.Library:
    """Have everything that draws Bernoulli numbers on a CPU, dropout within attention included, take the cheaper ones.

    Returns:
        What holds this; torch's own come back when the last reference to it goes.
    """
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced
        library.impl("bernoulli_.float", bernoulli_from_bits_, "CPU")
    return library
