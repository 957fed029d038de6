# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined"
# (Numba types its device intrinsics as the functions that implement them.)
"""The CUDA kernels: the stages of every corruption, one pixel a thread, one launch for a step of the whole batch.

    statistics      sums and maximum of the images whose type needs them
    whole_rows      defocus: running sums, a thread a row
    whole_blocks    jpeg: a thread a 16 x 16 block
    step_1 .. 4     first, second, ... stage of the neighbourhood types, for the images that have them
    finish (two)    the last stage of each type into a tile in shared memory; from there shrink, normalise, store
    clean, boxes    the clean view; the boxes of both views

At most eleven launches. Nothing of a type is written here; `steps.py` looks the stage up. Everything is float32.

A kernel takes the arrays that its stages read and no others, because Numba spends microseconds of the host's time on
each. planes_2BHX are the scratch of the stages, task.a and task.b. Fields of a Task that no stage of the kernel reads
hold another array of the same kind.

Kernels that differ little come from one function each. It closes over numbers only (a step's, an output type's).
Numba's cache on disk knows a closure by what it closes over, and a compiled function would look new in every process.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float32, uint8, uint16, uint32, uint64

from kernels.corruptions.jpeg import BLOCK, CUDA_LINE
from kernels.jit import compiled, cuda_compiled
from kernels.launch import resize, steps
from kernels.launch.boxes import place_box
from kernels.task import Task


class Arguments(NamedTuple):
    """What the kernels of the last stage take before their output, in the order of their parameters.

    The kernels of the stages before take some of it.
    """

    images_BHX: Any
    planes_2BHX: Any
    rows_B: Any
    extra_BE: Any
    statistics_B4: Any
    shots: Any
    pool_M: Any


BLOCK_X, BLOCK_Y = 32, 8
THREADS = BLOCK_X * BLOCK_Y
STATISTICS_BLOCKS = 32  # an image
ROW_THREADS = 64
BLOCK_THREADS = 32
TILE_HEIGHT, TILE_WIDTH = 32, 96  # source pixels that a block of `finish` keeps in shared memory
TILE_VALUES = 3 * TILE_WIDTH
LINE = 16  # floats that a pixel's stage has as task.line; 12 are promised


@cuda_compiled
def statistics(images_BHX, rows_B, statistics_B4):
    """Each thread takes every n-th pixel, the block adds up, then one atomic addition a block and channel."""
    partial = cuda.shared.array((4, THREADS), uint32)
    b, thread = cuda.blockIdx.y, cuda.threadIdx.x
    row = rows_B[b]
    if row.corruption not in steps.STATISTICS:
        return
    for c in range(4):
        partial[c, thread] = uint32(0)
    num = row.height * row.width
    for k in range(cuda.blockIdx.x * THREADS + thread, num, STATISTICS_BLOCKS * THREADS):
        y, x = k // row.width, k % row.width
        for c in range(3):
            value = uint32(images_BHX[b, y, 3 * x + c])
            partial[c, thread] = uint32(partial[c, thread] + value)
            partial[3, thread] = max(partial[3, thread], value)
    cuda.syncthreads()
    reach = THREADS // 2
    while reach > 0:
        if thread < reach:
            for c in range(3):
                partial[c, thread] = uint32(partial[c, thread] + partial[c, thread + reach])
            partial[3, thread] = max(partial[3, thread], partial[3, thread + reach])
        cuda.syncthreads()
        reach //= 2
    if thread == 0:
        for c in range(3):
            cuda.atomic.add(statistics_B4, (b, c), partial[c, 0])
        cuda.atomic.max(statistics_B4, (b, 3), partial[3, 0])


@cuda_compiled
def whole_rows(images_BHX, planes_2BHX, rows_B):
    y, b = cuda.blockIdx.x * ROW_THREADS + cuda.threadIdx.x, cuda.blockIdx.y
    line = cuda.local.array(LINE, float32)
    row = rows_B[b]
    if row.corruption not in steps.ROWS or y >= row.height:
        return
    source, first, second = images_BHX[b], planes_2BHX[0, b], planes_2BHX[1, b]
    task = Task(source, source, first, second, line, row, line, line, line, line, 0, 0)
    steps.whole_rows(task, y, y + 1, 0, row.width)


@cuda_compiled
def whole_blocks(images_BHX, planes_2BHX, rows_B, extra_BE):
    region, b = cuda.blockIdx.x * BLOCK_THREADS + cuda.threadIdx.x, cuda.blockIdx.y
    line = cuda.local.array(CUDA_LINE, float32)
    row = rows_B[b]
    if row.corruption not in steps.BLOCKS:
        return
    num_x = (row.width + BLOCK - 1) // BLOCK
    y, x = region // num_x * BLOCK, region % num_x * BLOCK
    if y >= row.height:
        return
    source, first, second, extra = images_BHX[b], planes_2BHX[0, b], planes_2BHX[1, b], extra_BE[b]
    task = Task(source, source, first, second, line, row, extra, extra, extra, extra, 0, 0)
    steps.whole_blocks(task, y, min(y + BLOCK, row.height), x, min(x + BLOCK, row.width))


def make_step(number):
    @cuda_compiled
    def launch(images_BHX, planes_2BHX, rows_B, extra_BE):
        x = cuda.blockIdx.x * BLOCK_X + cuda.threadIdx.x
        y = cuda.blockIdx.y * BLOCK_Y + cuda.threadIdx.y
        b = cuda.blockIdx.z
        line = cuda.local.array(LINE, float32)
        row = rows_B[b]
        if y >= row.height or x >= row.width:
            return
        source, first, second, extra = images_BHX[b], planes_2BHX[0, b], planes_2BHX[1, b], extra_BE[b]
        task = Task(source, source, first, second, line, row, extra, extra, extra, extra, 0, 0)
        if number == 1:
            steps.step_1(task, y, y + 1, x, x + 1)
        elif number == 2:
            steps.step_2(task, y, y + 1, x, x + 1)
        elif number == 3:
            steps.step_3(task, y, y + 1, x, x + 1)
        else:
            steps.step_4(task, y, y + 1, x, x + 1)

    return launch


STEP_KERNELS = tuple(make_step(number) for number in (1, 2, 3, 4))


def make_corrupted(heavy):
    @cuda_compiled
    def corrupted(images_BHX, planes_2BHX, rows_B, extra_BE, statistics_B4, shots, pool_M, out_BHX):
        """The last stage straight to uint8 pixels, for `kernels.corrupt`."""
        x = cuda.blockIdx.x * BLOCK_X + cuda.threadIdx.x
        y = cuda.blockIdx.y * BLOCK_Y + cuda.threadIdx.y
        b = cuda.blockIdx.z
        line = cuda.local.array(LINE, float32)
        row = rows_B[b]
        if steps.is_heavy(row.corruption) != heavy or y >= row.height or x >= row.width:
            return
        source, first, second, extra = images_BHX[b], planes_2BHX[0, b], planes_2BHX[1, b], extra_BE[b]
        task = Task(source, out_BHX[b], first, second, line, row, extra, statistics_B4[b], shots, pool_M, 0, 0)
        if heavy:
            steps.last_of_heavy(task, y, y + 1, x, x + 1)
        else:
            steps.last_of_others(task, y, y + 1, x, x + 1)

    return corrupted


FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2


@compiled
def store(out, b, y, i, value, kind):
    """out[b, y, i] = value. bfloat16: the upper 16 bits, rounded to nearest, halves to even; out is seen as uint16."""
    if kind == BFLOAT16:
        pattern = np.float32(value).view(np.uint32)
        odd = uint32(uint32(pattern >> uint32(16)) & uint32(1))
        out[b, y, i] = uint16(uint32(uint32(pattern + uint32(uint32(0x7FFF) + odd)) >> uint32(16)))
    elif kind == FLOAT16:
        out[b, y, i] = np.float16(value)
    else:
        out[b, y, i] = value


def make_finish(kind, heavy):
    @cuda_compiled
    def finish(images_BHX, planes_2BHX, rows_B, extra_BE, statistics_B4, shots, pool_M, out_Bhx, num_rows, num_columns):
        """A block makes num_rows x num_columns of the small view's pixels from the source pixels they need."""
        tile = cuda.shared.array((TILE_HEIGHT, TILE_VALUES), uint8)
        line = cuda.local.array(LINE, float32)
        b, thread = cuda.blockIdx.z, cuda.threadIdx.x
        top, left = cuda.blockIdx.y * num_rows, cuda.blockIdx.x * num_columns
        row = rows_B[b]
        if steps.is_heavy(row.corruption) != heavy:
            return
        height, width, small_height, small_width = row.height, row.width, row.small_height, row.small_width
        scale_y, scale_x = resize.scale_of(height, small_height), resize.scale_of(width, small_width)
        first_y, first_x = resize.first_tap(top, scale_y), resize.first_tap(left, scale_x)
        end_y, end_x = first_y, first_x
        if top < small_height and left < small_width:
            end_y = resize.end_tap(min(top + num_rows, small_height) - 1, scale_y, min(height, first_y + TILE_HEIGHT))
            end_x = resize.end_tap(min(left + num_columns, small_width) - 1, scale_x, min(width, first_x + TILE_WIDTH))
            columns = end_x - first_x
            source, first, second, extra = images_BHX[b], planes_2BHX[0, b], planes_2BHX[1, b], extra_BE[b]
            sums = statistics_B4[b]
            task = Task(source, tile, first, second, line, row, extra, sums, shots, pool_M, first_y, first_x)
            for k in range(thread, (end_y - first_y) * columns, THREADS):
                y, x = first_y + k // columns, first_x + k % columns
                if heavy:
                    steps.last_of_heavy(task, y, y + 1, x, x + 1)
                else:
                    steps.last_of_others(task, y, y + 1, x, x + 1)
        cuda.syncthreads()
        for k in range(thread, num_rows * num_columns, THREADS):
            y, x = top + k // num_columns, left + k % num_columns
            if y < out_Bhx.shape[1] and 3 * x < out_Bhx.shape[2]:
                if y < small_height and x < small_width:
                    red, green, blue = resize.shrunk_pixel(tile, y, x, scale_y, scale_x, first_y, end_y, first_x, end_x)
                    at = 3 * (small_width - 1 - x) if row.flip else 3 * x
                    store(out_Bhx, b, y, at, resize.normalise(red, 0), kind)
                    store(out_Bhx, b, y, at + 1, resize.normalise(green, 1), kind)
                    store(out_Bhx, b, y, at + 2, resize.normalise(blue, 2), kind)
                else:
                    for c in range(3):
                        store(out_Bhx, b, y, 3 * x + c, float32(0), kind)

    return finish


def make_clean(kind):
    @cuda_compiled
    def clean(images_BHX, rows_B, out_BHX):
        x = cuda.blockIdx.x * BLOCK_X + cuda.threadIdx.x
        y = cuda.blockIdx.y * BLOCK_Y + cuda.threadIdx.y
        b = cuda.blockIdx.z
        row = rows_B[b]
        if y >= out_BHX.shape[1] or 3 * x >= out_BHX.shape[2]:
            return
        inside = y < row.height and x < row.width
        at = 3 * (row.width - 1 - x) if row.flip and inside else 3 * x
        for c in range(3):
            value = float32(0)
            if inside:
                value = resize.normalise(float32(images_BHX[b, uint64(y), uint64(at + c)]), c)
            store(out_BHX, b, y, 3 * x + c, value, kind)

    return clean


KINDS = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16}
# The types in two groups, each with its own launch: False, the others; True, the heavy ones (`steps.is_heavy`).
CORRUPTED = (make_corrupted(False), make_corrupted(True))
FINISH = {name: (make_finish(kind, False), make_finish(kind, True)) for name, kind in KINDS.items()}
CLEAN = {name: make_clean(kind) for name, kind in KINDS.items()}


@cuda_compiled
def boxes(boxes_BG4, boxes_2BG4, rows_B):
    """boxes_2BG4: the clean view's, then the small view's."""
    k = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    b, g = k // boxes_BG4.shape[1], k % boxes_BG4.shape[1]
    if b < boxes_BG4.shape[0]:
        place_box(boxes_BG4[b, g], boxes_2BG4[0, b, g], boxes_2BG4[1, b, g], rows_B[b])
