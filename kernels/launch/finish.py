# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""The CUDA kernel after the corruptions: last stage, shrink, mirror, normalise, store. A warp makes a part of a view.

A lane has four neighbouring columns of the image and walks down the rows. It reads twelve bytes of a row, corrupts
them in registers, and adds them with their weights to the two rows of the small view that a row of the image is part
of (`resize` has the weights; a hat of width 2 s every s covers each pixel twice). A row of the small view that is
complete goes to shared memory, normalised. From there each lane takes two pixels of the small view: the weighted sums
along x, rounded, two values a word. The row then goes out by 16 bytes a lane.

So every source value is read, corrupted and unpacked once, and no index is divided or multiplied for it.
"""

from functools import partial

import numpy as np
from numba import cuda, float32, int32, int64, uint8, uint32

from kernels import words
from kernels.jit import compiled, cuda_compiled
from kernels.launch import resize, steps
from kernels.task import Task
from kernels.words import ALIGNMENT, BFLOAT16, FLOAT16, FLOAT32

LANES = 32
TILE = 4 * LANES  # columns of the image that a block has
ROWS = 24  # of the small view that a block makes
HELD = 2  # rows of the small view in shared memory, where four pixels' worth of columns are side by side
RESIDENT = 12  # blocks that a multiprocessor must have registers for; for more, code for sm_100 would spill some
UNIT = 8  # a block makes a multiple of so many columns of the small view: 48 bytes of halves
MIDDLE = HELD * TILE * 4  # red, green, blue and nothing
PACKED = HELD * TILE * 3
WEIGHTS = 4 * TILE
MOST_SHRINK = 15  # times a small image may, by rounding, at a ratio of 0.1; one wider than a tile shrinks 11 times then
LINE = 32  # floats that a stage has as task.line for four pixels; 30 are promised
RED, GREEN, BLUE = (1 / (255 * deviation) for deviation in resize.DEVIATION)
RED_ZERO, GREEN_ZERO, BLUE_ZERO = (
    mean / deviation for mean, deviation in zip(resize.MEAN, resize.DEVIATION, strict=True)
)


@compiled
def taps_of(scale: float) -> int:
    """Places for the weights of a pixel of the small view, a multiple of four: 2 s are not zero at most."""
    return 4 * int((2 * scale + 3.999) // 4)


@compiled
def columns_of_block(width: int, small_width: int) -> int:
    """How many columns of an image's small view a block makes: n need (n + 1) s + 1 of the image, and read 3 beyond. An
    image that fits the tile as it is needs no more."""
    scale = width / small_width if width > small_width > 0 else 1.0
    num = min(TILE - UNIT, WEIGHTS // taps_of(scale))
    if width + 2 * scale + 4 > TILE:
        num = min(num, int((TILE - 4) / scale) - 1)
    assert num >= UNIT, "an image shrinks more than a block can hold"
    return num // UNIT * UNIT


@compiled
def fill_columns(rows_B: np.ndarray) -> int:
    """Each image's columns of a block into its row. Returns the fewest, which most blocks are needed for."""
    fewest = TILE
    for b in range(len(rows_B)):
        rows_B["columns"][b] = columns_of_block(rows_B["width"][b], rows_B["small_width"][b])
        fewest = min(fewest, rows_B["columns"][b])
    return fewest


@compiled
def make_taps(lane, row, left, num, first, scale, most, begins, weights):
    """For each of num columns of the small view from `left` on: where its pixels begin in the tile, and `most` weights
    that add up to 1. Outside the image all are 0, and so is what they make."""
    o = int32(lane)
    while o < num:
        j = left + o
        if row.flip:
            j = row.small_width - 1 - j
        inside = j >= 0 and j < row.small_width
        begin, total = first, float32(0)
        if inside:
            begin = max(resize.first_tap(j, scale), first)
        for k in range(most):
            weight = float32(0)
            if inside and begin + k < row.width:
                weight = resize.tap_weight(j, begin + k, scale)
            weights[o * most + k] = weight
            total += weight
        factor = float32(0)
        if inside:
            factor = float32(1) / total
        for k in range(most):
            weights[o * most + k] *= factor
        begins[o] = begin - first
        o = int32(o + LANES)


@compiled
def add_pixel(middle, at, weight, red, green, blue):
    r, g, b, _ = words.load_floats(middle, at)
    return red + weight * r, green + weight * g, blue + weight * b


@compiled
def across(slot, o, quads, begins, weights, middle):
    """The weighted sums along x for columns o and o + 1 of the block. quads: fours of weights."""
    at, next_at = slot * TILE + begins[o], slot * TILE + begins[o + 1]
    red, green, blue = float32(0), float32(0), float32(0)
    next_red, next_green, next_blue = float32(0), float32(0), float32(0)
    for quad in range(quads):
        w0, w1, w2, w3 = words.load_floats(weights, o * quads + quad)
        red, green, blue = add_pixel(middle, at, w0, red, green, blue)
        red, green, blue = add_pixel(middle, at + 1, w1, red, green, blue)
        red, green, blue = add_pixel(middle, at + 2, w2, red, green, blue)
        red, green, blue = add_pixel(middle, at + 3, w3, red, green, blue)
        w0, w1, w2, w3 = words.load_floats(weights, (o + 1) * quads + quad)
        next_red, next_green, next_blue = add_pixel(middle, next_at, w0, next_red, next_green, next_blue)
        next_red, next_green, next_blue = add_pixel(middle, next_at + 1, w1, next_red, next_green, next_blue)
        next_red, next_green, next_blue = add_pixel(middle, next_at + 2, w2, next_red, next_green, next_blue)
        next_red, next_green, next_blue = add_pixel(middle, next_at + 3, w3, next_red, next_green, next_blue)
        at, next_at = at + 4, next_at + 4
    return red, green, blue, next_red, next_green, next_blue


@compiled
def load_twelve(read, byte, fourth):
    """Four words, which twelve bytes lie in. fourth: how far from the first the word of the last byte is."""
    first, second = words.load_word(read, byte), words.load_word(read, byte + 4)
    return first, second, words.load_word(read, byte + 8), words.load_word(read, byte + fourth)


@compiled
def unpack(one, two, three, source):
    for i in range(4):
        source[0, i] = uint8(words.byte_of(one, i))
        source[0, 4 + i] = uint8(words.byte_of(two, i))
        source[0, 8 + i] = uint8(words.byte_of(three, i))


@compiled
def keep_row(middle, at, sums, total):
    """A lane's four pixels of a complete row of the small view, normalised."""
    factor = float32(1) / total
    red, green, blue = factor * float32(RED), factor * float32(GREEN), factor * float32(BLUE)
    for k in range(4):
        words.store_floats(
            middle,
            at + k,
            sums[3 * k] * red - float32(RED_ZERO),
            sums[3 * k + 1] * green - float32(GREEN_ZERO),
            sums[3 * k + 2] * blue - float32(BLUE_ZERO),
            float32(0),
        )


@compiled
def pack_rows(lane, pairs, quads, begins, weights, middle, packed, kind):
    """The rows that are held, summed along x: two columns of each a lane at a time."""
    q = int32(lane)
    while q < HELD * pairs:
        slot, pair = int32(0), int32(q)
        if q >= pairs:
            slot, pair = int32(1), int32(q - pairs)
        r0, g0, b0, r1, g1, b1 = across(slot, 2 * pair, quads, begins, weights, middle)
        if kind == FLOAT32:
            packed[6 * q] = words.as_word(r0)
            packed[6 * q + 1] = words.as_word(g0)
            packed[6 * q + 2] = words.as_word(b0)
            packed[6 * q + 3] = words.as_word(r1)
            packed[6 * q + 4] = words.as_word(g1)
            packed[6 * q + 5] = words.as_word(b1)
        else:
            packed[3 * q] = words.pack(r0, g0, kind)
            packed[3 * q + 1] = words.pack(b0, r1, kind)
            packed[3 * q + 2] = words.pack(g1, b1, kind)
        q = int32(q + LANES)


@compiled
def send_row(lane, packed, at, out, to, num):
    """num times 16 bytes."""
    q = int32(lane)
    while q < num:
        one, two, three, four = words.load_words(packed, at + q)
        words.store_words(out, to + q, one, two, three, four)
        q = int32(q + LANES)


@compiled
def clear_row(lane, out, to, num):
    q = int32(lane)
    while q < num:
        words.store_words(out, to + q, uint32(0), uint32(0), uint32(0), uint32(0))
        q = int32(q + LANES)


def make_finish(kind):
    values = 4 if kind == FLOAT32 else 8  # of 16 bytes

    @partial(cuda_compiled, launch_bounds=(LANES, RESIDENT))
    def finish(images_BHX, planes_2BHX, pixels_BHX, rows_B, extra_BE, statistics_B4, shots, pool_M, out_Bhx):
        middle = cuda.shared.array(MIDDLE, float32, ALIGNMENT)
        packed = cuda.shared.array(PACKED, uint32, ALIGNMENT)
        weights = cuda.shared.array(WEIGHTS, float32, ALIGNMENT)
        begins = cuda.shared.array(TILE, int32)
        source = cuda.local.array((1, 12), uint8)
        target = cuda.local.array((1, 12), float32)  # whole numbers: what a stage stores, as the sums need it
        line = cuda.local.array(LINE, float32)
        upper = cuda.local.array(12, float32)  # the row of the small view that ends first
        lower = cuda.local.array(12, float32)  # and the next
        b, lane = cuda.blockIdx.z, int32(cuda.threadIdx.x)
        row = rows_B[b]
        num_columns = row.columns
        top, left = int32(cuda.blockIdx.y * ROWS), int32(cuda.blockIdx.x * num_columns)
        height, width = row.height, row.width
        last = int32(min(top + ROWS, row.small_height))  # row of the small view after the last
        if left >= row.small_width:
            last = top
        # In 16 bytes. Not above 0 behind the view, where an image that has fewer columns a block needs one more.
        num_out = min(num_columns, out_Bhx.shape[2] // 3 - left) * 3 // values
        stride = out_Bhx.shape[2] // values
        to = (int64(b) * out_Bhx.shape[1] + top) * stride + 3 * left // values
        if last > top:
            scale_y, scale_x = resize.scale_of(height, row.small_height), resize.scale_of(width, row.small_width)
            inverse = float32(1) / scale_y
            quads = int32(int32(float32(2) * scale_x + float32(3.999)) >> 2)
            leftmost = int32(left)
            if row.flip:
                leftmost = int32(max(row.small_width - left - num_columns, 0))
            first = int32(max(min(resize.first_tap(leftmost, scale_x), width - 4), 0))
            make_taps(lane, row, left, num_columns, first, scale_x, 4 * quads, begins, weights)
            for k in range(4 * HELD):  # what no lane writes must be numbers, for weights of 0
                words.store_floats(middle, lane + k * LANES, float32(0), float32(0), float32(0), float32(0))
            # The last lanes take the last four columns too, so that none leaves the image (if it has four).
            x = int32(max(min(first + 4 * lane, width - 4), 0))
            column = int32(x - first)
            read = images_BHX[b]
            if steps.has(steps.OWN_BITS, row.corruption):
                read = pixels_BHX[b]
            y = int32(resize.first_tap(top, scale_y))
            end = int32(resize.end_tap(last - 1, scale_y, height))
            byte = int32(y * read.shape[1] + 3 * x)
            lead = words.lead(read, byte)  # the same in all rows, which are whole words
            byte = int32(byte - lead)
            fourth = 12 if lead > 0 else 8
            shift = uint32(8 * lead)
            word_1, word_2, word_3, word_4 = load_twelve(read, byte, fourth)
            current = int32(top - 1)  # the row in `upper`
            centre = (float32(current) + float32(0.5)) * scale_y
            centre_lower = (float32(top) + float32(0.5)) * scale_y
            total, total_lower = float32(0), float32(0)
            for i in range(12):
                upper[i] = float32(0)
                lower[i] = float32(0)
            cuda.syncthreads()
            while current < last:
                place = float32(y) + float32(0.5)
                if y < end and place - centre < scale_y:
                    one = words.funnel(word_1, word_2, shift)
                    two = words.funnel(word_2, word_3, shift)
                    three = words.funnel(word_3, word_4, shift)
                    if y + 1 < end:  # the next row, which arrives while this one is worked on
                        byte = int32(byte + read.shape[1])
                    word_1, word_2, word_3, word_4 = load_twelve(read, byte, fourth)
                    unpack(one, two, three, source)
                    task = Task(
                        source, target, planes_2BHX[0, b], planes_2BHX[1, b], line, row, extra_BE[b],
                        statistics_B4[b], shots, pool_M, y, x,
                    )  # fmt: skip
                    steps.last(task, y, y + 1, x, x + 4)
                    weight = max(float32(1) - abs(place - centre) * inverse, float32(0))
                    weight_lower = max(float32(1) - abs(place - centre_lower) * inverse, float32(0))
                    total += weight
                    total_lower += weight_lower
                    for i in range(12):
                        upper[i] += weight * target[0, i]
                        lower[i] += weight_lower * target[0, i]
                    y = int32(y + 1)
                    continue
                if current >= top:
                    slot = int32(current - top) & int32(HELD - 1)
                    keep_row(middle, slot * TILE + column, upper, total)
                    if slot == HELD - 1 or current == last - 1:
                        cuda.syncthreads()
                        pack_rows(lane, int32(num_columns // 2), quads, begins, weights, middle, packed, kind)
                        cuda.syncthreads()
                        for held in range(slot + 1):
                            send_row(lane, packed, held * (3 * num_columns // values), out_Bhx, to, num_out)
                            to += stride
                current = int32(current + 1)
                centre, total = centre_lower, total_lower
                centre_lower = (float32(current + 1) + float32(0.5)) * scale_y
                total_lower = float32(0)
                for i in range(12):
                    upper[i] = lower[i]
                    lower[i] = float32(0)
        for _ in range(max(last, top), min(top + ROWS, out_Bhx.shape[1])):
            clear_row(lane, out_Bhx, to, num_out)
            to += stride

    return finish


FINISH = {
    name: make_finish(kind) for name, kind in (("float32", FLOAT32), ("float16", FLOAT16), ("bfloat16", BFLOAT16))
}
