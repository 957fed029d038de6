"""Which images come next: a pure function of (seed, epoch, cursor, rank, world), never a stored list.

An epoch is one random permutation per orientation (landscape, portrait). A global batch of `world * batch_size` images
has one orientation, drawn with probability proportional to what each still has, and rank r takes its rows
[r * batch_size, (r + 1) * batch_size). The last global batch of an orientation is filled up with padding (index -1),
in training as in evaluation: every image is delivered exactly once an epoch and every shape stays static. The cost is
at most two partly filled batches an epoch; repeating or carrying over images instead would break the "once an epoch".

The cursor is one integer that holds how many images of each orientation have been delivered,
cursor = landscape * (num_portrait + 1) + portrait, the same on every rank and independent of world and batch size:
what remains of an epoch is the same set whoever asks, so a run may continue on any number of ranks.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


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


@dataclass(frozen=True)
class Step:
    """One batch of one rank."""

    indices_B: np.ndarray  # int64 positions in the dataset, -1 where padded
    portrait: bool
    epoch: int
    after: tuple[int, int]  # (epoch, cursor) of the batch that follows


class Order:
    """The order over one dataset's images; `shuffle=False` keeps their own order, landscape first."""

    def __init__(self, sizes_N2: np.ndarray, ids_N: np.ndarray, seed: int, shuffle: bool):
        portrait_N = sizes_N2[:, 1] < sizes_N2[:, 0]
        self.pools = (np.flatnonzero(~portrait_N), np.flatnonzero(portrait_N))
        self.ids_N, self.seed, self.shuffle = ids_N, seed, shuffle
        self._permuted = lru_cache(maxsize=2)(self._permute)

    def _permute(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if not self.shuffle:
            return self.pools
        landscape, portrait = (
            pool[np.argsort(hash64(self.seed, epoch, self.ids_N[pool]), kind="stable")] for pool in self.pools
        )
        return landscape, portrait

    def encode(self, landscape: int, portrait: int) -> int:
        return landscape * (len(self.pools[1]) + 1) + portrait

    def decode(self, cursor: int) -> tuple[int, int]:
        """How many landscape and portrait images the epoch has delivered."""
        landscape, portrait = divmod(cursor, len(self.pools[1]) + 1)
        if not (0 <= landscape <= len(self.pools[0])):
            raise ValueError(
                f"cursor {cursor} lies outside an epoch of {len(self.pools[0])} landscape and {len(self.pools[1])} "
                "portrait images; it comes from a run on another dataset"
            )
        return landscape, portrait

    def batches_per_epoch(self, global_batch: int) -> int:
        return sum(-(-len(pool) // global_batch) for pool in self.pools)

    def step(self, epoch: int, cursor: int, rank: int, world: int, batch_size: int) -> Step | None:
        """The rank's next batch, or None when the epoch is over (`cursor` at its end)."""
        delivered = list(self.decode(cursor))
        left = [len(pool) - count for pool, count in zip(self.pools, delivered, strict=True)]
        if sum(left) == 0:
            return None
        if self.shuffle:
            portrait = int(hash64(self.seed, epoch, *delivered)) % sum(left) >= left[0]
        else:
            portrait = left[0] == 0
        pool = self._permuted(epoch)[portrait]
        rows = pool[delivered[portrait] : delivered[portrait] + world * batch_size]
        indices_B = np.full(batch_size, -1, np.int64)
        mine = rows[rank * batch_size : (rank + 1) * batch_size]
        indices_B[: len(mine)] = mine
        delivered[portrait] += len(rows)
        finished = sum(left) == len(rows)
        after = (epoch + 1, 0) if finished and self.shuffle else (epoch, self.encode(*delivered))
        return Step(indices_B, bool(portrait), epoch, after)
