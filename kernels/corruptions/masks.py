"""How a stage reads its image's mask out of the pool (`kernels.launch.pool` makes the masks and places them)."""

from numba import float32, int64, uint64

from kernels.jit import compiled


@compiled
def read_mask(line, pool, start, step):
    """line[i] = pool[start + i * step]: neighbouring pixels of one row of a mask."""
    num = line.shape[0]
    if step == 1:
        values = pool[start : start + num]
        for i in range(num):
            line[i] = float32(values[i])
    elif step == -1:
        values = pool[start - num + 1 : start + 1]
        for i in range(num):
            line[i] = float32(values[num - 1 - i])
    else:
        for i in range(num):
            line[i] = float32(pool[uint64(int64(start) + i * int64(step))])
