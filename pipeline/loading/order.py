"""Which images come next: a pure function of (seed, epoch, cursor, rank, world), never a stored list.

An epoch is one random permutation per orientation (landscape, portrait). A global batch of `world * batch_size` images
has one orientation, drawn with probability proportional to what each still has. Rank r takes its rows [r * batch_size,
(r + 1) * batch_size). The last global batch of an orientation is filled up with padding (index -1), in training as in
evaluation. So every shape stays static, and an image of weight 1 is delivered exactly once an epoch. The cost is at
most two partly filled batches an epoch; repeating or carrying over images instead would break that.

An image of weight w comes floor(w) or ceil(w) times an epoch. In epoch e that is floor((e + 1) w + u) - floor(e w + u)
times, with u in [0, 1) drawn from (seed, id). So it comes w times on average, and with weight 1/4 once in any four
epochs.

The cursor is one integer that holds how many images of each orientation have been delivered:
cursor = landscape * (num_portrait + 1) + portrait. It is the same on every rank and independent of world and batch
size. So what remains of an epoch is the same set for every reader, and a run may continue on any number of ranks.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def hash64(*values: int | np.ndarray) -> np.ndarray:
    """uint64 hash of integers (broadcast): each is absorbed by one round of splitmix64 (Steele et al., OOPSLA 2014)."""
    state: np.ndarray | np.uint64 = np.uint64(0)
    with np.errstate(over="ignore"):
        for value in values:
            # A Python int may be any 64-bit number, signed or not.
            word = np.uint64(value & (2**64 - 1)) if isinstance(value, int) else value.astype(np.uint64)
            state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)


AGAIN = 10**15  # added to the id of an image for each time that it has come in this epoch
FRACTION_BITS = 32  # weights are whole multiples of 2**-32, so that their sums are exact


@dataclass(frozen=True)
class Step:
    """One batch of one rank."""

    indices_B: np.ndarray  # int64 positions in the dataset, -1 where padded
    ids_B: np.ndarray  # int64, distinct within an epoch, -1 where padded
    portrait: bool
    epoch: int
    after: tuple[int, int]  # (epoch, cursor) of the batch that follows


# A step, its images_BHW3 uint8, and {name: uint8 BHWC} of the modalities that were asked for.
Decoded = tuple[Step, "Tensor", "dict[str, Tensor]"]


class Order:
    """The order over one dataset's images; `shuffle=False` keeps their own order, landscape first, each image once."""

    def __init__(
        self, sizes_N2: np.ndarray, ids_N: np.ndarray, seed: int, shuffle: bool, weight_N: np.ndarray | float = 1.0
    ):
        portrait_N = sizes_N2[:, 1] < sizes_N2[:, 0]
        self.pools = (np.flatnonzero(~portrait_N), np.flatnonzero(portrait_N))
        self.ids_N, self.seed, self.shuffle = ids_N, seed, shuffle
        weights_N = np.broadcast_to(weight_N if shuffle else 1.0, len(ids_N))
        self.weight_N = np.rint(weights_N * 2.0**FRACTION_BITS).astype(np.int64)
        self._arranged = lru_cache(maxsize=2)(self._arrange)

    def _times(self, epoch: int, pool: np.ndarray) -> np.ndarray:
        """How often each image of a pool comes in the epoch."""
        weight = self.weight_N[pool].astype(np.uint64)
        offset = hash64(self.seed, self.ids_N[pool]) >> np.uint64(64 - FRACTION_BITS)
        # Of e w + u only the fraction counts, and it survives that products wrap around.
        fraction = (weight * np.uint64(epoch & (2**64 - 1)) + offset) & np.uint64(2**FRACTION_BITS - 1)
        return ((weight + fraction) >> np.uint64(FRACTION_BITS)).astype(np.int64)

    def _arrange(self, epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(positions, ids) of each orientation's images in their order, an image once for every time that it comes."""
        if not self.shuffle:
            return [(pool, self.ids_N[pool]) for pool in self.pools]
        arranged = []
        for pool in self.pools:
            times = self._times(epoch, pool)
            positions = np.repeat(pool, times)
            time = np.arange(len(positions)) - np.repeat(np.cumsum(times) - times, times)  # 0, 1, ... for each image
            ids = self.ids_N[positions] + AGAIN * time
            shuffled = np.argsort(hash64(self.seed, epoch, ids), kind="stable")
            arranged.append((positions[shuffled], ids[shuffled]))
        return arranged

    def counts(self, epoch: int) -> tuple[int, int]:
        """How many landscape and portrait images the epoch delivers."""
        (landscape, _), (portrait, _) = self._arranged(epoch)
        return len(landscape), len(portrait)

    def encode(self, epoch: int, landscape: int, portrait: int) -> int:
        return landscape * (self.counts(epoch)[1] + 1) + portrait

    def decode(self, epoch: int, cursor: int) -> tuple[int, int]:
        """How many landscape and portrait images the epoch has delivered."""
        most_landscape, most_portrait = self.counts(epoch)
        landscape, portrait = divmod(cursor, most_portrait + 1)
        if not (0 <= landscape <= most_landscape):
            raise ValueError(
                f"cursor {cursor} is outside an epoch of {most_landscape} landscape and {most_portrait} portrait "
                "images; it comes from a run on another dataset"
            )
        return landscape, portrait

    def batches_per_epoch(self, global_batch: int) -> int:
        """At whole weights of every epoch; at others of one with the expected number of images."""
        return sum(-(-int(self.weight_N[pool].sum()) // (global_batch << FRACTION_BITS)) for pool in self.pools)

    def step(self, epoch: int, cursor: int, rank: int, world: int, batch_size: int) -> Step | None:
        """The rank's next batch, or None when the epoch is over (`cursor` at its end)."""
        delivered = list(self.decode(epoch, cursor))
        left = [most - count for most, count in zip(self.counts(epoch), delivered, strict=True)]
        if sum(left) == 0:
            return None
        if self.shuffle:
            portrait = int(hash64(self.seed, epoch, *delivered)) % sum(left) >= left[0]
        else:
            portrait = left[0] == 0
        start = delivered[portrait]
        indices_B, ids_B = (np.full(batch_size, -1, np.int64) for _ in range(2))
        for row_B, values in zip((indices_B, ids_B), self._arranged(epoch)[portrait], strict=True):
            mine = values[start : start + world * batch_size][rank * batch_size : (rank + 1) * batch_size]
            row_B[: len(mine)] = mine
        num_delivered = min(left[portrait], world * batch_size)
        delivered[portrait] += num_delivered
        finished = sum(left) == num_delivered
        after = (epoch + 1, 0) if finished and self.shuffle else (epoch, self.encode(epoch, *delivered))
        return Step(indices_B, ids_B, bool(portrait), epoch, after)
