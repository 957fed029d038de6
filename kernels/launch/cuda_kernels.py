# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""The CUDA kernels of the stages: one pixel a thread, one launch for a step of the whole batch.

    statistics      sums and maximum of the images whose type needs them
    step_1 .. 4     first, second, ... stage of the types that have more than one, for their images
    corrupted       the last stage, for `kernels.corrupt`
    boxes           the boxes of both views

`finish` and `clean` have files of their own: the last stage with what follows it, the clean view. So have the kernels
that types have of their own (`own`). Each runs at most once a batch, and those of stages before the last for the images
of a list (`lists`): block z works on image lists_M[first_image + z]. Nothing of a type is written here; `steps.py`
looks the stage up. Everything is float32.

A kernel takes the arrays that its stages read and no others, because Numba spends microseconds of the host's time on
each. planes_2BHX are the scratch of the stages, task.a and task.b. A type whose record says own_kernels has kernels
that write its corrupted pixels into pixels_BHX, and its last stage copies them. Fields of a Task that no stage of the
kernel reads hold another array of the same kind.

Kernels that differ little come from one function each. It closes over numbers only (a step's, an output type's).
Numba's cache on disk knows a closure by what it closes over, and a compiled function would look new in every process.
"""

from typing import Any, NamedTuple

from numba import cuda, float32, int32, uint32

from kernels import words
from kernels.jit import compiled, cuda_compiled
from kernels.launch import steps
from kernels.launch.boxes import place_box
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
LINE = 16  # floats that a pixel's stage has as task.line; 12 are promised


@compiled
def count(sums, c, value):
    sums[c] = uint32(sums[c] + value)
    sums[3] = max(sums[3], value)


@cuda_compiled
def statistics(images_BHX, rows_B, statistics_B4, lists_M, first_image):
    """A warp takes every n-th row, a lane four pixels at a time. The block adds up: one atomic addition a channel."""
    partial = cuda.shared.array((4, THREADS), uint32)
    sums = cuda.local.array(4, uint32)
    b, thread = lists_M[first_image + cuda.blockIdx.z], cuda.threadIdx.y * BLOCK_X + cuda.threadIdx.x
    row = rows_B[b]
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


def make_step(number):
    @cuda_compiled
    def launch(images_BHX, planes_2BHX, rows_B, extra_BE, lists_M, first_image):
        x = cuda.blockIdx.x * BLOCK_X + cuda.threadIdx.x
        y = cuda.blockIdx.y * BLOCK_Y + cuda.threadIdx.y
        b = lists_M[first_image + cuda.blockIdx.z]
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


@cuda_compiled
def corrupted(images_BHX, planes_2BHX, pixels_BHX, rows_B, extra_BE, statistics_B4, shots, pool_M, out_BHX):
    """The last stage straight to uint8 pixels, for `kernels.corrupt`."""
    x = cuda.blockIdx.x * BLOCK_X + cuda.threadIdx.x
    y = cuda.blockIdx.y * BLOCK_Y + cuda.threadIdx.y
    b = cuda.blockIdx.z
    line = cuda.local.array(LINE, float32)
    row = rows_B[b]
    if y >= row.height or x >= row.width:
        return
    source = pixels_BHX[b] if steps.has(steps.OWN_BITS, row.corruption) else images_BHX[b]
    first, second, extra = planes_2BHX[0, b], planes_2BHX[1, b], extra_BE[b]
    task = Task(source, out_BHX[b], first, second, line, row, extra, statistics_B4[b], shots, pool_M, 0, 0)
    steps.last(task, y, y + 1, x, x + 1)


@cuda_compiled
def boxes(boxes_BG4, boxes_2BG4, rows_B):
    """boxes_2BG4: the clean view's, then the small view's."""
    g, b = cuda.blockIdx.x * BLOCK_X + cuda.threadIdx.x, cuda.blockIdx.y
    if g < boxes_BG4.shape[1]:
        place_box(boxes_BG4[b, g], boxes_2BG4[0, b, g], boxes_2BG4[1, b, g], rows_B[b])
