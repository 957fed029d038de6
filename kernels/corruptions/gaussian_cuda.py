# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""gaussian_blur on a GPU: both passes of a tile in shared memory, edges already repeated.

Two pixels at one distance are added up before they are weighted. Along x, weights are whole numbers of 2^-24, as in
motion_blur. The result is rounded to 2^-12 of a level, so that the three channels of a pixel are one 64-bit word: a sum
of two such words is the sum of all three.
"""

from numba import cuda, float32, int32, uint32, uint64

from kernels.corruptions.gaussian import CORRUPTION, store_pixel, weights
from kernels.corruptions.record import OwnKernel
from kernels.corruptions.shift import clamp
from kernels.jit import compiled, cuda_compiled
from kernels.words import SUM_BLUE, SUM_GREEN, sums_of, word_at

LANES, WARPS, ROWS = 32, 8, 4  # threads of a block along x and y, and the rows of a thread
TILE_X, TILE_Y = LANES, WARPS * ROWS
MOST_RADIUS = max(len(weights(sigma)) for sigma in CORRUPTION.severities) - 2
PITCH, NUM_ROWS = TILE_X + 2 * MOST_RADIUS, TILE_Y + 2 * MOST_RADIUS
WORDS, MIXED, WEIGHTS = PITCH * NUM_ROWS, TILE_X * NUM_ROWS, MOST_RADIUS + 1
ONE, FINE = 1 << 24, 12
UNIT = 1 / (1 << FINE)


@compiled
def add(red, green, blue, weight, first, second):
    """Weighted sums of two pixels' channels."""
    mask = uint32(0xFF00FF)
    outer = uint32(uint32(first & mask) + uint32(second & mask))  # red and blue, 9 bits each
    mask = uint32(0xFF00)
    inner = uint32(uint32(uint32(first & mask) + uint32(second & mask)) >> uint32(8))
    red = uint32(red + uint32(weight * uint32(outer & uint32(0xFFFF))))
    green = uint32(green + uint32(weight * inner))
    blue = uint32(blue + uint32(weight * uint32(outer >> uint32(16))))
    return red, green, blue


@compiled
def rounded(total):
    """From 2^-24 to 2^-12."""
    return uint64(uint32(uint32(total + uint32(1 << (23 - FINE))) >> uint32(24 - FINE)))


@cuda_compiled
def gaussian_blur(images_BHX, rows_B, extra_BE, pixels_BHX, lists_M, first_image):
    tile = cuda.shared.array(WORDS, uint32)
    mixed = cuda.shared.array(MIXED, uint64)
    whole = cuda.shared.array(WEIGHTS, uint32)
    red = cuda.local.array(ROWS, uint32)
    green = cuda.local.array(ROWS, uint32)
    blue = cuda.local.array(ROWS, uint32)
    reds = cuda.local.array(ROWS, float32)
    greens = cuda.local.array(ROWS, float32)
    blues = cuda.local.array(ROWS, float32)
    b, lane, warp = lists_M[first_image + cuda.blockIdx.z], cuda.threadIdx.x, cuda.threadIdx.y
    left, top = cuda.blockIdx.x * TILE_X, cuda.blockIdx.y * TILE_Y
    row = rows_B[b]
    height, width = row.height, row.width
    if top >= height or left >= width:
        return
    source, extra, out = images_BHX[b], extra_BE[b], pixels_BHX[b]
    radius = int32(extra[0])
    thread = warp * LANES + lane
    if thread <= radius:
        whole[thread] = uint32(extra[1 + thread] * float32(ONE) + float32(0.5))
    num_rows, num_columns = int32(TILE_Y + 2 * radius), int32(TILE_X + 2 * radius)
    y = int32(warp)
    while y < num_rows:
        line, at = source[uint64(clamp(top - radius + y, height))], int32(y * PITCH)
        x = int32(lane)
        while x < num_columns:
            tile[uint64(uint32(at + x))] = word_at(line, clamp(left - radius + x, width))
            x = int32(x + LANES)
        y = int32(y + WARPS)
    cuda.syncthreads()
    y = int32(warp * ROWS)
    while y < num_rows:  # and up to ROWS - 1 more, which nobody reads
        before = uint64(uint32(y * PITCH + lane + radius))
        after, weight = before, whole[uint64(0)]
        for j in range(ROWS):
            word = tile[before + uint64(j * PITCH)]
            red[j] = uint32(weight * uint32(word & uint32(0xFF)))
            green[j] = uint32(weight * uint32(uint32(word >> uint32(8)) & uint32(0xFF)))
            blue[j] = uint32(weight * uint32(word >> uint32(16)))
        t = int32(1)
        while t <= radius:
            before, after, weight = before - uint64(1), after + uint64(1), whole[uint64(t)]
            for j in range(ROWS):
                first, second = tile[before + uint64(j * PITCH)], tile[after + uint64(j * PITCH)]
                red[j], green[j], blue[j] = add(red[j], green[j], blue[j], weight, first, second)
            t = int32(t + 1)
        at = uint64(uint32(y * TILE_X + lane))
        for j in range(ROWS):
            packed = uint64(rounded(red[j]) | uint64(rounded(green[j]) << uint64(SUM_GREEN)))
            mixed[at + uint64(j * TILE_X)] = uint64(packed | uint64(rounded(blue[j]) << uint64(SUM_BLUE)))
        y = int32(y + WARPS * ROWS)
    cuda.syncthreads()
    x, y = left + lane, int32(warp * ROWS)
    if x >= width:
        return
    above = uint64(uint32((y + radius) * TILE_X + lane))
    below, share = above, float32(UNIT) * extra[1]
    for j in range(ROWS):
        r, g, bl = sums_of(mixed[above + uint64(j * TILE_X)])
        reds[j], greens[j], blues[j] = share * r, share * g, share * bl
    t = int32(1)
    while t <= radius:
        above, below = above - uint64(TILE_X), below + uint64(TILE_X)
        share = float32(UNIT) * extra[uint64(1 + t)]
        for j in range(ROWS):
            r, g, bl = sums_of(mixed[above + uint64(j * TILE_X)] + mixed[below + uint64(j * TILE_X)])
            reds[j] += share * r
            greens[j] += share * g
            blues[j] += share * bl
        t = int32(t + 1)
    for j in range(ROWS):
        if top + y + j < height:
            store_pixel(out[uint64(top + y + j)], x, reds[j], greens[j], blues[j])


KERNELS = (
    OwnKernel(
        "gaussian_blur",
        gaussian_blur,
        ("images_BHX", "rows_B", "extra_BE", "pixels_BHX"),
        (TILE_Y, TILE_X),
        (LANES, WARPS),
    ),
)
