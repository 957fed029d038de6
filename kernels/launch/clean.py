# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""The CUDA kernel of the clean view: mirror, normalise, store. Eight pixels a thread, in by words, out by 16 bytes."""

from numba import cuda, float32, int32, int64, uint32

from kernels import words
from kernels.jit import compiled, cuda_compiled
from kernels.launch import resize
from kernels.words import BFLOAT16, FLOAT16, FLOAT32

BLOCK_X, BLOCK_Y = 32, 4
PIXELS = 8  # of a thread: 24 bytes in, 48 bytes of halves out


@compiled
def read_pixels(line, byte, values):
    """24 bytes of a row as numbers. What lies outside the row is any number."""
    lead = words.lead(line, byte)
    shift = uint32(8 * lead)
    lowest = int32(-words.lead(line, 0))
    highest = int32(line.shape[0] - 1 - words.lead(line, line.shape[0] - 1))
    at = int32(byte - lead)
    before = words.load_word(line, min(max(at, lowest), highest))
    for k in range(6):
        after = words.load_word(line, min(max(int32(at + 4 * k + 4), lowest), highest))
        word = words.funnel(before, after, shift)
        for i in range(4):
            values[4 * k + i] = float32(words.byte_of(word, i))
        before = after


def make_clean(kind):
    @cuda_compiled
    def clean(images_BHX, rows_B, out_BHX):
        given = cuda.local.array(24, float32)
        made = cuda.local.array(24, float32)
        x = int32(PIXELS * (cuda.blockIdx.x * BLOCK_X + cuda.threadIdx.x))
        y = int32(cuda.blockIdx.y * BLOCK_Y + cuda.threadIdx.y)
        b = cuda.blockIdx.z
        row = rows_B[b]
        if y >= out_BHX.shape[1] or 3 * x >= out_BHX.shape[2]:
            return
        inside = int32(0)
        if y < row.height:
            inside = int32(row.width - x)
        for i in range(24):
            made[i] = float32(0)
        if inside > 0:
            first = x
            if row.flip:
                first = int32(row.width - PIXELS - x)  # below 0 where the image has no eight pixels more
            read_pixels(images_BHX[b, y], int32(3 * first), given)
            for p in range(8):
                for c in range(3):
                    value = given[3 * p + c]
                    if row.flip:
                        value = given[3 * (7 - p) + c]
                    if p < inside:
                        made[3 * p + c] = resize.normalise(value, c)
        if kind == FLOAT32:
            to = ((int64(b) * out_BHX.shape[1] + y) * out_BHX.shape[2] + 3 * x) // 4
            for k in range(6):
                words.store_floats(out_BHX, to + k, made[4 * k], made[4 * k + 1], made[4 * k + 2], made[4 * k + 3])
        else:
            to = ((int64(b) * out_BHX.shape[1] + y) * out_BHX.shape[2] + 3 * x) // 8
            for k in range(3):
                words.store_words(
                    out_BHX,
                    to + k,
                    words.pack(made[8 * k], made[8 * k + 1], kind),
                    words.pack(made[8 * k + 2], made[8 * k + 3], kind),
                    words.pack(made[8 * k + 4], made[8 * k + 5], kind),
                    words.pack(made[8 * k + 6], made[8 * k + 7], kind),
                )

    return clean


CLEAN = {name: make_clean(kind) for name, kind in (("float32", FLOAT32), ("float16", FLOAT16), ("bfloat16", BFLOAT16))}
