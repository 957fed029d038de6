# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""motion_blur on a GPU: the points of the line are one offset and one weight each, the same for all pixels of a tile.

A block keeps its tile and what the line reaches beyond it in shared memory, a word a pixel, edges already repeated. A
thread makes ROWS pixels below each other in registers. Weights are whole numbers of 2^-24, because turning bytes into
floats takes longer than adding them up: 255 times their sum fits 32 bits, and the error is 31 * 255 / 2^25 at most.
"""

from numba import cuda, float32, int32, uint32, uint64

from kernels.corruptions.gaussian import store_pixel
from kernels.corruptions.motion import CORRUPTION
from kernels.corruptions.record import OwnKernel
from kernels.corruptions.shift import clamp
from kernels.jit import cuda_compiled
from kernels.words import word_at

LANES, WARPS, ROWS = 32, 8, 8  # threads of a block along x and y, and the rows of a thread
TILE_X, TILE_Y = 2 * LANES, WARPS * ROWS
MOST_POINTS = max(2 * radius + 1 for radius, _ in CORRUPTION.severities)
REACH_X, REACH_Y = MOST_POINTS, MOST_POINTS * 3 // 4  # at +-45 degrees a line rises by 0.71 of its length
PITCH = TILE_X + REACH_X
WORDS = PITCH * (TILE_Y + REACH_Y)
ONE = 1 << 24
UNIT = 1 / ONE


@cuda_compiled
def motion_blur(images_BHX, rows_B, extra_BE, pixels_BHX, lists_M, first_image):
    tile = cuda.shared.array(WORDS, uint32)
    offsets = cuda.shared.array(MOST_POINTS, int32)
    weights = cuda.shared.array(MOST_POINTS, uint32)
    red = cuda.local.array(ROWS, uint32)
    green = cuda.local.array(ROWS, uint32)
    blue = cuda.local.array(ROWS, uint32)
    b, lane, warp = lists_M[first_image + cuda.blockIdx.z], cuda.threadIdx.x, cuda.threadIdx.y
    left, top = cuda.blockIdx.x * TILE_X, cuda.blockIdx.y * TILE_Y
    row = rows_B[b]
    height, width = row.height, row.width
    if top >= height or left >= width:
        return
    source, extra, out = images_BHX[b], extra_BE[b], pixels_BHX[b]
    count = int32(extra[0])
    # A point reads dy rows above and dx columns before; the last reaches furthest, and dx is never positive.
    last_y, last_x = int32(extra[1 + 3 * (count - 1)]), int32(extra[2 + 3 * (count - 1)])
    above = max(last_y, 0)
    i = warp * LANES + lane
    if i < count:
        offsets[i] = int32(-PITCH * int32(extra[1 + 3 * i]) - int32(extra[2 + 3 * i]))
        weights[i] = uint32(extra[3 + 3 * i] * float32(ONE) + float32(0.5))
    num_rows = int32(min(TILE_Y, height - top) + abs(last_y))
    num_columns = int32(min(TILE_X, width - left) - last_x)
    right = int32(width - 1)
    y = int32(warp)
    while y < num_rows:
        line, at = source[uint64(clamp(top - above + y, height))], int32(y * PITCH)
        x = int32(lane)
        while x < num_columns:
            tile[uint64(uint32(at + x))] = word_at(line, min(int32(left + x), right))
            x = int32(x + LANES)
        y = int32(y + WARPS)
    cuda.syncthreads()
    for half in range(TILE_X // LANES):
        x, y = left + half * LANES + lane, top + warp * ROWS
        if x >= width:
            return
        base = int32((above + warp * ROWS) * PITCH + half * LANES + lane)
        for j in range(ROWS):
            red[j] = green[j] = blue[j] = uint32(0)
        i = int32(0)
        while i < count:
            at, weight = uint64(uint32(base + offsets[uint64(i)])), weights[uint64(i)]
            for j in range(ROWS):
                word = tile[at + uint64(j * PITCH)]
                red[j] = uint32(red[j] + uint32(weight * uint32(word & uint32(0xFF))))
                green[j] = uint32(green[j] + uint32(weight * uint32(uint32(word >> uint32(8)) & uint32(0xFF))))
                blue[j] = uint32(blue[j] + uint32(weight * uint32(word >> uint32(16))))
            i = int32(i + 1)
        for j in range(ROWS):
            if y + j < height:
                r, g, bl = (
                    float32(red[j]) * float32(UNIT),
                    float32(green[j]) * float32(UNIT),
                    float32(blue[j]) * float32(UNIT),
                )
                store_pixel(out[uint64(y + j)], x, r, g, bl)


KERNELS = (
    OwnKernel(
        "motion_blur", motion_blur, ("images_BHX", "rows_B", "extra_BE", "pixels_BHX"), (TILE_Y, TILE_X), (LANES, WARPS)
    ),
)
