# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""zoom_blur on a GPU: a layer's row mixed along x once, then shared by the rows below each other that lie on it.

The first kernel packs the image, a word a pixel, with the last column twice. In the second a thread makes ROWS
pixels below each other. A layer never shrinks, so from one row to the next its position moves by one row at most.
"""

from numba import cuda, float32, int32, uint32, uint64

from kernels.corruptions.gaussian import store_pixel
from kernels.corruptions.record import OwnKernel
from kernels.corruptions.zoom import FACTORS
from kernels.jit import compiled, cuda_compiled
from kernels.words import as_float, as_word, blue_of, green_of, red_of, word_at

LANES, WARPS, ROWS = 32, 8, 8  # threads of a block along x and y, and the rows of a thread
TILE_Y = WARPS * ROWS
MOST_LAYERS = max(len(factors) for factors in FACTORS)
WORDS = 4 * MOST_LAYERS * TILE_Y


@cuda_compiled
def pack(images_BHX, planes_2BHX, rows_B, lists_M, first_image):
    x = int32(cuda.blockIdx.x * LANES + cuda.threadIdx.x)
    y = int32(cuda.blockIdx.y * WARPS + cuda.threadIdx.y)
    b = lists_M[first_image + cuda.blockIdx.z]
    row = rows_B[b]
    if y < row.height and x < row.width:
        word = as_float(word_at(images_BHX[b, uint64(y)], x))
        planes_2BHX[0, b, uint64(y), uint64(x)] = word
        if x == row.width - 1:
            planes_2BHX[0, b, uint64(y), uint64(x) + uint64(1)] = word


@compiled
def mixed(words, y, x, right):
    """Red, green and blue of row y at x + right."""
    here, beyond = as_word(words[uint64(y), uint64(x)]), as_word(words[uint64(y), uint64(x) + uint64(1)])
    red, green, blue = red_of(here), green_of(here), blue_of(here)
    red += right * (red_of(beyond) - red)
    green += right * (green_of(beyond) - green)
    blue += right * (blue_of(beyond) - blue)
    return red, green, blue


@cuda_compiled
def zoom_blur(planes_2BHX, rows_B, extra_BE, pixels_BHX, lists_M, first_image):
    # Four words for each layer and row of the tile: the layer's row, the row below it, the weights of both.
    table = cuda.shared.array(WORDS, uint32)
    red = cuda.local.array(ROWS, float32)
    green = cuda.local.array(ROWS, float32)
    blue = cuda.local.array(ROWS, float32)
    b, lane, warp = lists_M[first_image + cuda.blockIdx.z], cuda.threadIdx.x, cuda.threadIdx.y
    x, top = cuda.blockIdx.x * LANES + lane, cuda.blockIdx.y * TILE_Y
    row = rows_B[b]
    height, width = row.height, row.width
    if top >= height or x - lane >= width:
        return
    words, extra, out = planes_2BHX[0, b], extra_BE[b], pixels_BHX[b]
    layers = int32(extra[0])
    share = float32(1) / float32(layers + 1)
    layer = warp
    while layer < layers:
        at = 1 + 6 * layer
        limit = min(height, int32(extra[at + 2]))
        j = lane
        while j < TILE_Y:
            from_y = extra[at] + float32(top + j) * extra[at + 1]
            whole = int32(from_y)
            weight = share * (from_y - float32(whole))
            opposite = share - weight
            if top + j >= limit:
                whole, weight, opposite = 0, float32(0), float32(0)
            i = uint64((layer * TILE_Y + j) * 4)
            table[i] = uint32(whole)
            table[i + uint64(1)] = uint32(min(whole + 1, height - 1))
            table[i + uint64(2)] = as_word(opposite)
            table[i + uint64(3)] = as_word(weight)
            j += LANES
        layer += WARPS
    cuda.syncthreads()
    first = warp * ROWS
    y = top + first
    if x >= width or y >= height:
        return
    for j in range(ROWS):
        word = as_word(words[uint64(min(y + j, height - 1)), uint64(x)])
        red[j], green[j], blue[j] = share * red_of(word), share * green_of(word), share * blue_of(word)
    for layer in range(layers):
        at = 1 + 6 * layer
        if y >= int32(extra[at + 2]) or x >= int32(extra[at + 5]):
            continue
        from_x = extra[at + 3] + float32(x) * extra[at + 4]
        before = uint32(from_x)
        right = from_x - float32(before)
        i = uint64((layer * TILE_Y + first) * 4)
        current = table[i]
        red_0, green_0, blue_0 = mixed(words, current, before, right)
        red_1, green_1, blue_1 = mixed(words, table[i + uint64(1)], before, right)
        for j in range(ROWS):
            if table[i + uint64(4 * j)] > current:
                current = table[i + uint64(4 * j)]
                red_0, green_0, blue_0 = red_1, green_1, blue_1
                red_1, green_1, blue_1 = mixed(words, table[i + uint64(4 * j + 1)], before, right)
            weight = as_float(table[i + uint64(4 * j + 2)])
            red[j] += weight * red_0
            green[j] += weight * green_0
            blue[j] += weight * blue_0
            weight = as_float(table[i + uint64(4 * j + 3)])
            red[j] += weight * red_1
            green[j] += weight * green_1
            blue[j] += weight * blue_1
    for j in range(ROWS):
        if y + j < height:
            store_pixel(out[uint64(y + j)], x, red[j], green[j], blue[j])


KERNELS = (
    OwnKernel("zoom_pack", pack, ("images_BHX", "planes_2BHX", "rows_B"), (WARPS, LANES), (LANES, WARPS)),
    OwnKernel(
        "zoom_blur", zoom_blur, ("planes_2BHX", "rows_B", "extra_BE", "pixels_BHX"), (TILE_Y, LANES), (LANES, WARPS)
    ),
)
