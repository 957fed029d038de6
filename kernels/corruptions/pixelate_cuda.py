# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""pixelate on a GPU: a block of threads means each cell of its tile once, then lays them out.

A thread means whole cells: along each of their lines, then those means, as `pixelate.box_rows` and `box_columns`. Which
cell a pixel reads is found once a column and once a row of the tile.
"""

from numba import cuda, float32, int32, uint8, uint32, uint64

from kernels.corruptions.pixelate import END_X, END_Y, FIRST_X, FIRST_Y, READ_X, READ_Y, covered, read_by
from kernels.corruptions.record import OwnKernel
from kernels.jit import compiled, cuda_compiled

LANES, WARPS = 32, 8
COLUMNS, ROWS = 64, 32  # pixels of a block, and more cells than they read
CELLS = ROWS * COLUMNS


@compiled
def weight_of(count):
    return int32(float32(1 << 22) / float32(count) + float32(0.5))


@compiled
def mean_of(total, weight):
    return int32(int32(int32(total * weight) + int32(1 << 21)) >> int32(22))


@compiled
def extent(extra, first_list, end_list, cell, side, small):
    """The first source pixel of a cell along an axis, and how many it has."""
    begin = int32(covered(extra, first_list, cell, side, small))
    return begin, int32(int32(covered(extra, end_list, int32(cell + 1), side, small)) - begin)


@compiled
def cell_word(source, top, height, left, width):
    """The mean pixel of a cell, red in the lowest byte."""
    weight_y, weight_x = weight_of(height), weight_of(width)
    red, green, blue, y = int32(0), int32(0), int32(0), top
    first, end = uint64(uint32(3 * left)), uint64(uint32(3 * int32(left + width)))
    while y < int32(top + height):
        line, i = source[uint64(uint32(y))], first
        r, g, b = int32(0), int32(0), int32(0)
        while i < end:
            r = int32(r + int32(line[i]))
            g = int32(g + int32(line[i + uint64(1)]))
            b = int32(b + int32(line[i + uint64(2)]))
            i += uint64(3)
        red = int32(red + mean_of(r, weight_x))
        green = int32(green + mean_of(g, weight_x))
        blue = int32(blue + mean_of(b, weight_x))
        y = int32(y + 1)
    red, green, blue = mean_of(red, weight_y), mean_of(green, weight_y), mean_of(blue, weight_y)
    return int32(red | int32(int32(green << 8) | int32(blue << 16)))


@cuda_compiled
def pixelate(images_BHX, pixels_BHX, rows_B, extra_BE, lists_M, first_image):
    cells = cuda.shared.array(CELLS, int32)
    reads_x = cuda.shared.array(COLUMNS, int32)
    reads_y = cuda.shared.array(ROWS, int32)
    lane, warp, b = int32(cuda.threadIdx.x), int32(cuda.threadIdx.y), lists_M[first_image + cuda.blockIdx.z]
    left, top = int32(cuda.blockIdx.x * COLUMNS), int32(cuda.blockIdx.y * ROWS)
    row, extra = rows_B[b], extra_BE[b]
    height, width = int32(row.height), int32(row.width)
    if top >= height or left >= width:
        return
    small_height, small_width = int32(extra[0]), int32(extra[1])
    columns, rows = int32(min(int32(width - left), int32(COLUMNS))), int32(min(int32(height - top), int32(ROWS)))
    first_x = int32(read_by(extra, READ_X, left, width, small_width))
    first_y = int32(read_by(extra, READ_Y, top, height, small_height))
    last_x = int32(read_by(extra, READ_X, int32(left + columns - 1), width, small_width))
    last_y = int32(read_by(extra, READ_Y, int32(top + rows - 1), height, small_height))
    i = int32(warp * LANES + lane)
    if i < columns:
        reads_x[uint32(i)] = int32(int32(read_by(extra, READ_X, int32(left + i), width, small_width)) - first_x)
    i = int32(i - COLUMNS)
    if 0 <= i < rows:
        read = int32(int32(read_by(extra, READ_Y, int32(top + i), height, small_height)) - first_y)
        reads_y[uint32(i)] = int32(read * COLUMNS)
    source, out, cell_x = images_BHX[b], pixels_BHX[b], int32(first_x + lane)
    while cell_x <= last_x:
        begin_x, count_x = extent(extra, FIRST_X, END_X, cell_x, width, small_width)
        cell_y = int32(first_y + warp)
        while cell_y <= last_y:
            begin_y, count_y = extent(extra, FIRST_Y, END_Y, cell_y, height, small_height)
            at = int32(int32(int32(cell_y - first_y) * COLUMNS) + int32(cell_x - first_x))
            cells[uint32(at)] = cell_word(source, begin_y, count_y, begin_x, count_x)
            cell_y = int32(cell_y + WARPS)
        cell_x = int32(cell_x + LANES)
    cuda.syncthreads()
    y = warp
    while y < rows:
        at, x, line = reads_y[uint32(y)], lane, out[uint64(uint32(top + y))]
        while x < columns:
            word = cells[uint32(at + reads_x[uint32(x)])]
            i = uint64(uint32(3 * int32(left + x)))
            line[i] = uint8(word & 255)
            line[i + uint64(1)] = uint8(int32(word >> 8) & 255)
            line[i + uint64(2)] = uint8(word >> 16)
            x = int32(x + LANES)
        y = int32(y + WARPS)


KERNELS = (
    OwnKernel(
        "pixelate", pixelate, ("images_BHX", "pixels_BHX", "rows_B", "extra_BE"), (ROWS, COLUMNS), (LANES, WARPS)
    ),
)
