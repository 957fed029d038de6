# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""glass_blur on a GPU: both gaussians of a tile in shared memory, and every offset hashed once.

The first kernel blurs and truncates, and hashes the offsets of all passes. The second follows them and blurs again.
Between them a pixel is one word in planes_2BHX[0], which holds its bits as a float32. Pixels lie in columns [0, w), the
offsets in columns [w, 2 w): six bits a pass, 8 (dy + reach) + dx + reach. A number above that of (0, 0) leads to a
pixel that was visited before, so the chain goes on there.
"""

import numpy as np
from numba import cuda, float32, int32, uint8, uint32, uint64

from kernels import rng
from kernels.corruptions.color import TINY
from kernels.corruptions.gaussian import weights
from kernels.corruptions.glass import CORRUPTION, PASSES, REACH
from kernels.corruptions.record import OwnKernel
from kernels.jit import compiled, cuda_compiled
from kernels.rng import SHUFFLE
from kernels.words import word_at

LANES, WARPS = 32, 8
EIGHT = 8  # sums of a thread
COLUMNS, ROWS = LANES, WARPS * EIGHT  # pixels that a block makes
MOST = max(int(weights(sigma)[0]) for sigma, _, _ in CORRUPTION.severities)  # the largest radius
FEW = 4  # the radius of most severities
HALF = MOST + 1
PIXELS_PITCH = COLUMNS + 2 * MOST + 1  # odd, so that the lanes of a warp, a row each, read from different banks
PIXELS = (ROWS + 2 * MOST) * PIXELS_PITCH
SUMS_PITCH = COLUMNS + 1
PLANE = (ROWS + 2 * MOST) * SUMS_PITCH
SUMS = 3 * PLANE
MOVE_BITS, MOVE = 6, 63  # of a pass in a word


@compiled
def clamp_32(i, size):
    """`shift.clamp` of 32-bit numbers."""
    return max(min(i, int32(size - 1)), int32(0))


def make_sums(radius):
    """Eight sums of a gaussian of at most this radius, in registers: the loops below have a constant length."""
    window = EIGHT + 2 * radius

    @compiled
    def add_up(values, half, j):
        total = half[0] * values[j + radius]
        for t in range(1, radius + 1):
            total += half[t] * (values[j + radius - t] + values[j + radius + t])
        return total

    @compiled
    def along(pixels, at, sums, to, half):
        words = cuda.local.array(window, uint32)
        values = cuda.local.array(window, float32)
        for k in range(window):
            words[k] = pixels[at + uint64(k)]
        for k in range(window):
            values[k] = float32(uint8(words[k] & uint32(255)))
        for j in range(EIGHT):
            sums[to + uint64(j)] = add_up(values, half, j)
        for k in range(window):
            values[k] = float32(uint8(uint32(words[k] >> uint32(8)) & uint32(255)))
        for j in range(EIGHT):
            sums[to + uint64(PLANE + j)] = add_up(values, half, j)
        for k in range(window):
            values[k] = float32(uint8(uint32(words[k] >> uint32(16)) & uint32(255)))
        for j in range(EIGHT):
            sums[to + uint64(2 * PLANE + j)] = add_up(values, half, j)

    @compiled
    def down(sums, at, half, out):
        values = cuda.local.array(window, float32)
        for k in range(window):
            values[k] = sums[at + uint64(k * SUMS_PITCH)]
        for j in range(EIGHT):
            out[j] = add_up(values, half, j)

    return along, down


few_along, few_down = make_sums(FEW)
most_along, most_down = make_sums(MOST)


@compiled
def offsets_word(key0, key1, reach, passes, y, x):
    """The offsets of all passes, as `glass.offsets` has them."""
    word, shift, turn = uint32(0), uint32(0), int32(0)
    span = uint32(2 * reach)
    while turn < passes:
        random = rng.bits(key0, key1, uint32(SHUFFLE + turn), y, x)
        dx = uint32(uint32(uint32(random & uint32(0xFFFF)) * span) >> uint32(16))
        dy = uint32(uint32(uint32(random >> uint32(16)) * span) >> uint32(16))
        word = uint32(word | uint32(uint32(uint32(dy << uint32(3)) | dx) << shift))
        shift, turn = uint32(shift + uint32(MOVE_BITS)), int32(turn + 1)
    return word


@compiled
def follow(plane, y, x, width, reach, shift):
    """Where the value of pixel (y, x) came from before a pass, as `glass.origin_of`."""
    middle = int32(8 * reach + reach)
    going = True
    while going:
        word = plane[uint64(uint32(y)), uint64(uint32(x + width))].view(np.int32)
        move = int32(int32(word >> shift) & MOVE)
        y, x = int32(y + int32(int32(move >> 3) - reach)), int32(x + int32(int32(move & 7) - reach))
        going = move > middle
    return y, x


@compiled
def shuffled_word(plane, y, x, width, reach, passes):
    if passes > 2:
        y, x = follow(plane, y, x, width, reach, int32(2 * MOVE_BITS))
    if passes > 1:
        y, x = follow(plane, y, x, width, reach, int32(MOVE_BITS))
    y, x = follow(plane, y, x, width, reach, int32(0))
    return plane[uint64(uint32(y)), uint64(uint32(x))].view(np.uint32)


def make_blur(again):
    @cuda_compiled
    def blur(images_BHX, rows_B, extra_BE, planes_2BHX, pixels_BHX, lists_M, first_image):
        pixels = cuda.shared.array(PIXELS, uint32)
        sums = cuda.shared.array(SUMS, float32)
        half = cuda.local.array(HALF, float32)
        words = cuda.local.array(EIGHT, int32)
        column = cuda.local.array(EIGHT, float32)
        lane, warp, b = int32(cuda.threadIdx.x), int32(cuda.threadIdx.y), lists_M[first_image + cuda.blockIdx.z]
        left, top = int32(cuda.blockIdx.x * COLUMNS), int32(cuda.blockIdx.y * ROWS)
        row, extra = rows_B[b], extra_BE[b]
        height, width = int32(row.height), int32(row.width)
        if top >= height or left >= width:
            return
        few = int32(extra[0]) <= FEW
        radius = int32(FEW) if few else int32(MOST)
        for t in range(HALF):
            half[t] = extra[1 + t] if t <= int32(extra[0]) else float32(0)
        rows = int32(int32(min(int32(height - top), int32(ROWS))) + 2 * radius)
        source, plane, out = images_BHX[b], planes_2BHX[0, b], pixels_BHX[b]
        reach, passes = int32(extra[REACH]), int32(extra[PASSES])
        columns, y = int32(COLUMNS + 2 * radius), warp
        while y < rows:
            from_y = clamp_32(int32(top + y - radius), height)
            x = lane
            while x < columns:
                from_x = clamp_32(int32(left + x - radius), width)
                if again:
                    word = shuffled_word(plane, from_y, from_x, width, reach, passes)
                else:
                    word = word_at(source[uint64(uint32(from_y))], from_x)
                pixels[uint64(uint32(y * PIXELS_PITCH + x))] = word
                x = int32(x + LANES)
            y = int32(y + WARPS)
        cuda.syncthreads()
        i = int32(warp * LANES + lane)
        while i < int32(4 * rows):
            group = int32(int32(i >= rows) + int32(i >= int32(2 * rows)) + int32(i >= int32(3 * rows)))
            y = int32(i - group * rows)
            at = uint64(uint32(y * PIXELS_PITCH + group * EIGHT))
            to = uint64(uint32(y * SUMS_PITCH + group * EIGHT))
            if few:
                few_along(pixels, at, sums, to, half)
            else:
                most_along(pixels, at, sums, to, half)
            i = int32(i + LANES * WARPS)
        cuda.syncthreads()
        x, first = int32(left + lane), int32(warp * EIGHT)
        if x >= width or int32(top + first) >= height:
            return
        at = uint64(uint32(first * SUMS_PITCH + lane))
        for j in range(EIGHT):
            words[j] = int32(0)
        place = int32(1)
        for _ in range(3):
            if few:
                few_down(sums, at, half, column)
            else:
                most_down(sums, at, half, column)
            for j in range(EIGHT):  # the weights' sum is 1 within rounding, so none comes near 256
                words[j] = int32(words[j] + int32(int32(column[j] + float32(TINY)) * place))
            at, place = at + uint64(PLANE), int32(place * 256)
        at = uint64(uint32(x))
        key0, key1 = row.key0, row.key1
        i, moves_at = uint64(uint32(3 * x)), uint64(uint32(x + width))
        stays = uint32(uint32(9 * reach) * uint32(1 + (1 << MOVE_BITS) + (1 << 2 * MOVE_BITS)))
        moves_x = x > reach and x <= int32(width - reach)
        for j in range(EIGHT):
            y = int32(top + first + j)
            if y < height:
                to = uint64(uint32(y))
                if again:
                    out[to, i] = uint8(words[j] & 255)
                    out[to, i + uint64(1)] = uint8(int32(words[j] >> 8) & 255)
                    out[to, i + uint64(2)] = uint8(int32(words[j] >> 16))
                else:
                    plane[to, at] = np.int32(words[j]).view(np.float32)
                    moves = stays
                    if moves_x and y > reach and y <= int32(height - reach):
                        moves = offsets_word(key0, key1, reach, passes, y, x)
                    plane[to, moves_at] = np.uint32(moves).view(np.float32)

    return blur


ARRAYS = ("images_BHX", "rows_B", "extra_BE", "planes_2BHX", "pixels_BHX")
KERNELS = (
    OwnKernel("glass_first", make_blur(False), ARRAYS, (ROWS, COLUMNS), (LANES, WARPS)),
    OwnKernel("glass_second", make_blur(True), ARRAYS, (ROWS, COLUMNS), (LANES, WARPS)),
)
