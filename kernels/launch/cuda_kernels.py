# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""The CUDA kernels of the stages: one pixel a thread, one launch for a step of the whole batch.

    statistics      sums and maximum of the images whose type needs them
    whole_rows      defocus: running sums, a thread a row
    step_1 .. 4     first, second, ... stage of the neighbourhood types, for the images that have them
    finish_heavy    the last stage of the heavy types into a tile in shared memory; from there shrink, normalise, store
    boxes           the boxes of both views

`finish` and `clean` have files of their own: the last stage of all other types with what follows it, the clean view.
So have the kernels that types have of their own (`own`). Each runs at most once a batch. Nothing of a type is written
here; `steps.py` looks the stage up. Everything is float32.

A kernel takes the arrays that its stages read and no others, because Numba spends microseconds of the host's time on
each. planes_2BHX are the scratch of the stages, task.a and task.b. A type whose record says own_kernels has kernels
that write its corrupted pixels into pixels_BHX, and its last stage copies them. Fields of a Task that no stage of the
kernel reads hold another array of the same kind.

Kernels that differ little come from one function each. It closes over numbers only (a step's, an output type's).
Numba's cache on disk knows a closure by what it closes over, and a compiled function would look new in every process.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float32, int32, uint8, uint16, uint32, uint64

from kernels.jit import compiled, cuda_compiled
from kernels.launch import resize, steps, words
from kernels.launch.boxes import place_box
from kernels.launch.words import BFLOAT16, FLOAT16, FLOAT32
from kernels.task import Task


class Arguments(NamedTuple):
    """What the kernels of the last stage take before their output, in the order of their parameters.

    The kernels of the stages before take some of it.
    """

    images_BHX: Any
    planes_2BHX: Any
    pixels_BHX: Any  # uint8: what the kernels of a type's own make of the images that have it
    rows_B: Any
    extra_BE: Any
    statistics_B4: Any
    shots: Any
    pool_M: Any


BLOCK_X, BLOCK_Y = 32, 8
THREADS = BLOCK_X * BLOCK_Y
STATISTICS_BLOCKS = 32  # an image
ROW_THREADS = 64
TILE_HEIGHT, TILE_WIDTH = 32, 96  # source pixels that a block of `finish` keeps in shared memory
TILE_VALUES = 3 * TILE_WIDTH
TAPS_Y, TAPS_X = 4 * TILE_HEIGHT, 4 * TILE_WIDTH  # n outputs of 2 s + 2 taps, where (n + 1) s + 2 fit the tile
LINE = 16  # floats that a pixel's stage has as task.line; 12 are promised


@compiled
def count(sums, c, value):
    sums[c] = uint32(sums[c] + value)
    sums[3] = max(sums[3], value)


@cuda_compiled
def statistics(images_BHX, rows_B, statistics_B4):
    """A warp takes every n-th row, a lane four pixels at a time. The block adds up: one atomic addition a channel."""
    partial = cuda.shared.array((4, THREADS), uint32)
    sums = cuda.local.array(4, uint32)
    b, thread = cuda.blockIdx.y, cuda.threadIdx.y * BLOCK_X + cuda.threadIdx.x
    row = rows_B[b]
    if not steps.has(steps.STATISTICS_BITS, row.corruption):
        return
    for c in range(4):
        sums[c] = uint32(0)
    y = int32(cuda.blockIdx.x * BLOCK_Y + cuda.threadIdx.y)
    while y < row.height:
        line = images_BHX[b, y]
        x = int32(4 * cuda.threadIdx.x)
        lead = words.lead(line, 3 * x)  # the same for all x, which are multiples of four
        while x + 4 <= row.width:
            byte = 3 * x - lead
            last = words.load_word(line, byte + 12 if lead > 0 else byte + 8)
            middle = words.load_word(line, byte + 8)
            second = words.load_word(line, byte + 4)
            first = words.funnel(words.load_word(line, byte), second, uint32(8 * lead))
            second = words.funnel(second, middle, uint32(8 * lead))
            third = words.funnel(middle, last, uint32(8 * lead))
            for i in range(4):
                count(sums, i % 3, words.byte_of(first, i))
                count(sums, (i + 1) % 3, words.byte_of(second, i))
                count(sums, (i + 2) % 3, words.byte_of(third, i))
            x = int32(x + 4 * BLOCK_X)
        while x < row.width and x + 4 > row.width:
            for k in range(row.width - x):
                for c in range(3):
                    count(sums, c, uint32(line[3 * (x + k) + c]))
            x = int32(x + 4 * BLOCK_X)
        y = int32(y + STATISTICS_BLOCKS * BLOCK_Y)
    for c in range(4):
        partial[c, thread] = sums[c]
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
    if not steps.has(steps.ROWS_BITS, row.corruption) or y >= row.height:
        return
    source, first, second = images_BHX[b], planes_2BHX[0, b], planes_2BHX[1, b]
    task = Task(source, source, first, second, line, row, line, line, line, line, 0, 0)
    steps.whole_rows(task, y, y + 1, 0, row.width)


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
    def corrupted(images_BHX, planes_2BHX, pixels_BHX, rows_B, extra_BE, statistics_B4, shots, pool_M, out_BHX):
        """The last stage straight to uint8 pixels, for `kernels.corrupt`."""
        x = cuda.blockIdx.x * BLOCK_X + cuda.threadIdx.x
        y = cuda.blockIdx.y * BLOCK_Y + cuda.threadIdx.y
        b = cuda.blockIdx.z
        line = cuda.local.array(LINE, float32)
        row = rows_B[b]
        if steps.has(steps.HEAVY_BITS, row.corruption) != heavy or y >= row.height or x >= row.width:
            return
        source = pixels_BHX[b] if steps.has(steps.OWN_BITS, row.corruption) else images_BHX[b]
        first, second, extra = planes_2BHX[0, b], planes_2BHX[1, b], extra_BE[b]
        task = Task(source, out_BHX[b], first, second, line, row, extra, statistics_B4[b], shots, pool_M, 0, 0)
        if heavy:
            steps.last_of_heavy(task, y, y + 1, x, x + 1)
        else:
            steps.last_of_others(task, y, y + 1, x, x + 1)

    return corrupted


@compiled
def store(out, b, y, i, value, kind):
    """out[b, y, i] = value. bfloat16: the upper 16 bits, rounded to nearest, halves to even; out is seen as uint16."""
    if kind == BFLOAT16:
        pattern = np.float32(value).view(np.uint32)
        odd = uint32(uint32(pattern >> uint32(16)) & uint32(1))
        out[uint64(b), uint64(y), uint64(i)] = uint16(
            uint32(uint32(pattern + uint32(uint32(0x7FFF) + odd)) >> uint32(16))
        )
    elif kind == FLOAT16:
        out[uint64(b), uint64(y), uint64(i)] = np.float16(value)
    else:
        out[uint64(b), uint64(y), uint64(i)] = value


@compiled
def make_taps(thread, first, num, scale, start, stop, most, begins, weights):
    """Taps of the outputs first .. first + num - 1 along one axis, a thread an output: begins[i], and `most` weights
    from weights[i * most] on that add up to 1. They stay inside [start, stop), what the tile holds.

    A GPU may fuse the operations of a tap's place differently here than where the tile was filled. A place on the edge
    between two pixels would then be one outside it.
    """
    i = thread
    while i < num:
        begin, end = max(resize.first_tap(first + i, scale), start), resize.end_tap(first + i, scale, stop)
        total = float32(0)
        for k in range(begin, end):
            total += resize.tap_weight(first + i, k, scale)
        for k in range(most):
            weight = float32(0)
            if begin + k < end:
                weight = resize.tap_weight(first + i, begin + k, scale) / total
            weights[uint64(i * most + k)] = weight
        begins[uint64(i)] = begin - start
        i += THREADS


def make_finish(kind):
    @cuda_compiled
    def finish(
        images_BHX,
        planes_2BHX,
        pixels_BHX,
        rows_B,
        extra_BE,
        statistics_B4,
        shots,
        pool_M,
        out_Bhx,
        num_rows,
        num_columns,
    ):
        """A block makes num_rows x num_columns of the small view's pixels from the source pixels they need: corrupt
        into a tile, shrink along y, then along x. A warp takes every n-th row of each; neighbouring lanes, neighbouring
        values."""
        tile = cuda.shared.array((TILE_HEIGHT, TILE_VALUES), uint8)
        middle = cuda.shared.array((TILE_HEIGHT, TILE_VALUES), float32)
        begins_y = cuda.shared.array(TILE_HEIGHT, int32)  # a line each: the simulator knows an array by its line
        begins_x = cuda.shared.array(TILE_WIDTH, int32)
        weights_y = cuda.shared.array(TAPS_Y, float32)
        weights_x = cuda.shared.array(TAPS_X, float32)
        line = cuda.local.array(LINE, float32)
        b, warp, lane = cuda.blockIdx.z, cuda.threadIdx.y, cuda.threadIdx.x
        top, left = cuda.blockIdx.y * num_rows, cuda.blockIdx.x * num_columns
        row = rows_B[b]
        if not steps.has(steps.HEAVY_BITS, row.corruption):
            return
        height, width, small_height, small_width = row.height, row.width, row.small_height, row.small_width
        num_y, num_x = min(num_rows, small_height - top), min(num_columns, small_width - left)
        scale_y, scale_x = resize.scale_of(height, small_height), resize.scale_of(width, small_width)
        most_y, most_x = int(float32(2) * scale_y) + 2, int(float32(2) * scale_x) + 2
        if num_y > 0 and num_x > 0:
            first_y, first_x = resize.first_tap(top, scale_y), resize.first_tap(left, scale_x)
            end_y = resize.end_tap(top + num_y - 1, scale_y, min(height, first_y + TILE_HEIGHT))
            end_x = resize.end_tap(left + num_x - 1, scale_x, min(width, first_x + TILE_WIDTH))
            source, first, second, extra = images_BHX[b], planes_2BHX[0, b], planes_2BHX[1, b], extra_BE[b]
            sums = statistics_B4[b]
            task = Task(source, tile, first, second, line, row, extra, sums, shots, pool_M, first_y, first_x)
            make_taps(warp * BLOCK_X + lane, top, num_y, scale_y, first_y, end_y, most_y, begins_y, weights_y)
            make_taps(warp * BLOCK_X + lane, left, num_x, scale_x, first_x, end_x, most_x, begins_x, weights_x)
            y = first_y + warp
            while y < end_y:
                x = first_x + lane
                while x < end_x:
                    steps.last_of_heavy(task, y, y + 1, x, x + 1)
                    x += BLOCK_X
                y += BLOCK_Y
            cuda.syncthreads()
            y = warp
            while y < num_y:
                begin = begins_y[uint64(y)]
                last = min(most_y, end_y - first_y - begin)
                i = lane
                while i < 3 * (end_x - first_x):
                    total = float32(0)
                    for k in range(last):
                        total += weights_y[uint64(y * most_y + k)] * float32(tile[uint64(begin + k), uint64(i)])
                    middle[uint64(y), uint64(i)] = total
                    i += BLOCK_X
                y += BLOCK_Y
        cuda.syncthreads()
        y = warp
        while y < num_rows and top + y < out_Bhx.shape[1]:
            i = lane
            while i < 3 * num_columns and 3 * left + i < out_Bhx.shape[2]:
                x, value, at = i // 3, float32(0), 3 * left + i
                c = i - 3 * x
                if y < num_y and x < num_x:
                    skipped = begins_x[uint64(x)]
                    begin = 3 * skipped + c
                    for k in range(min(most_x, end_x - first_x - skipped)):
                        value += weights_x[uint64(x * most_x + k)] * middle[uint64(y), uint64(begin + 3 * k)]
                    value = resize.normalise(value, c)
                    if row.flip:
                        at = 3 * (small_width - 1 - left - x) + c
                store(out_Bhx, b, top + y, at, value, kind)
                i += BLOCK_X
            y += BLOCK_Y

    return finish


KINDS = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16}
# The types in two groups, each with its own launch: False, the others; True, the heavy ones.
CORRUPTED = (make_corrupted(False), make_corrupted(True))
FINISH = {name: make_finish(kind) for name, kind in KINDS.items()}


@cuda_compiled
def boxes(boxes_BG4, boxes_2BG4, rows_B):
    """boxes_2BG4: the clean view's, then the small view's."""
    g, b = cuda.blockIdx.x * BLOCK_X + cuda.threadIdx.x, cuda.blockIdx.y
    if g < boxes_BG4.shape[1]:
        place_box(boxes_BG4[b, g], boxes_2BG4[0, b, g], boxes_2BG4[1, b, g], rows_B[b])
