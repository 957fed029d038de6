# mypy: disable-error-code="operator, call-overload, call-arg, attr-defined, assignment"
# (Numba types its device intrinsics as the functions that implement them.)
"""defocus_blur on a GPU: sums over the disk from running sums in shared memory, softened before they leave it.

Three channels are one 64-bit word: red in bits 0 to 15, blue in bits 16 to 31, green above. Sums and differences of
words are sums and differences of all three, as long as the result fits: a disk of radius 8 has 197 pixels, 50,235 at
most. The disk of radius 10 is taken in two halves. A block makes the disk's sums of TILE_X x TILE_Y pixels, and pixels
where the small gaussian finds them.
"""

from numba import cuda, float32, int32, uint32, uint64

from kernels.corruptions import defocus
from kernels.corruptions.defocus import CORRUPTION
from kernels.corruptions.gaussian import store_pixel
from kernels.corruptions.record import OwnKernel
from kernels.corruptions.shift import reflect
from kernels.jit import compiled, cuda_compiled
from kernels.words import SUM_BLUE, SUM_GREEN, sums_of

LANES, WARPS, ROWS = 32, 8, 6  # threads of a block along x and y, and the rows of a thread
TILE_X, TILE_Y = 2 * LANES, WARPS * ROWS
MOST_RADIUS, MOST_SOFT = max(radius for radius, _ in CORRUPTION.severities), 2
ONE_WORD = 8  # the largest radius whose sums fit the word
SPANS = 2 * MOST_RADIUS + 1
ENDS, DISKS = 2 * SPANS, 2 * ROWS
PITCH = TILE_X + SPANS + 2  # odd, so that threads of neighbouring rows find neighbouring banks
NUM_ROWS = TILE_Y + 2 * MOST_RADIUS
WORDS = PITCH * NUM_ROWS
NUM_SOFT = 2 * MOST_SOFT + 1


@compiled
def packed_pixel(line, x):
    i = uint64(uint32(3 * x))
    red, green, blue = line[i], line[i + uint64(1)], line[i + uint64(2)]
    return uint64(
        uint64(uint32(uint32(red) | uint32(uint32(blue) << uint32(16)))) | uint64(uint64(green) << uint64(32))
    )


@compiled
def channels(word):
    low = uint32(word & uint64(0xFFFFFFFF))
    green = uint32(word >> uint64(32))
    return float32(uint32(low & uint32(0xFFFF))), float32(green), float32(uint32(low >> uint32(16)))


@cuda_compiled
def defocus_blur(images_BHX, planes_2BHX, rows_B, extra_BE, pixels_BHX, lists_M, first_image):
    tile = cuda.shared.array(WORDS, uint64)
    rows = cuda.shared.array(NUM_ROWS, int32)  # the image's, mirrored at its borders, of the tile's
    columns = cuda.shared.array(PITCH, int32)
    ends = cuda.shared.array(ENDS, int32)  # of the disk's rows, from the pixel at its centre
    red = cuda.local.array(ROWS, float32)
    green = cuda.local.array(ROWS, float32)
    blue = cuda.local.array(ROWS, float32)
    words = cuda.local.array(ROWS, uint64)
    disks = cuda.local.array(DISKS, uint64)
    b, lane, warp = lists_M[first_image + cuda.blockIdx.z], cuda.threadIdx.x, cuda.threadIdx.y
    thread = warp * LANES + lane
    row = rows_B[b]
    height, width = row.height, row.width
    source, extra, out, rest = images_BHX[b], extra_BE[b], pixels_BHX[b], planes_2BHX[0, b]
    radius, soft = int32(extra[defocus.RADIUS]), int32(extra[defocus.SOFT_RADIUS])
    num_taps = int32(extra[defocus.NUM_TAPS])
    # Disks of the pixels (top, left) and on; the outermost `soft` are there for their neighbours only.
    left = cuda.blockIdx.x * (TILE_X - 2 * soft) - soft
    top = cuda.blockIdx.y * (TILE_Y - 2 * soft) - soft
    if left + soft >= width or top + soft >= height:
        return
    if thread <= 2 * radius:
        dy = thread - radius
        half = int32(extra[defocus.HALF_WIDTHS + abs(dy)])
        ends[2 * thread], ends[2 * thread + 1] = dy * PITCH + half, dy * PITCH - half - 1
    num_rows, num_columns = int32(TILE_Y + 2 * radius), int32(TILE_X + 2 * radius + 1)
    i = thread
    while i < num_columns:
        columns[i] = int32(reflect(left + i - radius - 1, width))
        i += LANES * WARPS
    i = thread
    while i < num_rows:
        rows[i] = int32(reflect(top + i - radius, height))
        i += LANES * WARPS
    cuda.syncthreads()
    y = int32(warp)
    while y < num_rows:
        line, at = source[uint64(rows[uint64(y)])], int32(y * PITCH)
        x = int32(lane)
        while x < num_columns:
            tile[uint64(uint32(at + x))] = packed_pixel(line, columns[uint64(x)])
            x = int32(x + LANES)
        y = int32(y + WARPS)
    cuda.syncthreads()
    if num_taps > 0:
        for side in range(TILE_X // LANES):
            x, y = left + side * LANES + lane, top + warp * ROWS
            centre = (warp * ROWS + radius) * PITCH + side * LANES + lane + radius + 1
            inside = soft <= x - left < TILE_X - soft and x < width
            for j in range(ROWS):
                red[j] = green[j] = blue[j] = float32(0)
            if inside:
                for tap in range(uint32(num_taps)):
                    at = defocus.TAPS + 3 * tap
                    dy, dx, weight = int32(extra[at]) * PITCH, int32(extra[at + 1]), extra[at + 2]
                    for j in range(ROWS):
                        place = centre + j * PITCH
                        # Rows outside of the tile belong to pixels that another block makes.
                        if soft <= warp * ROWS + j < TILE_Y - soft:
                            word = tile[uint64(uint32(place - dy - dx))] + tile[uint64(uint32(place - dy + dx))]
                            word += tile[uint64(uint32(place + dy - dx))] + tile[uint64(uint32(place + dy + dx))]
                            r, g, bl = channels(word)
                            red[j] += weight * r
                            green[j] += weight * g
                            blue[j] += weight * bl
                for j in range(ROWS):
                    if soft <= warp * ROWS + j < TILE_Y - soft and y + j < height:
                        i = uint64(3 * x)
                        rest[uint64(y + j), i] = red[j]
                        rest[uint64(y + j), i + uint64(1)] = green[j]
                        rest[uint64(y + j), i + uint64(2)] = blue[j]
        cuda.syncthreads()
    y = thread
    while y < num_rows:
        total, at = uint64(0), uint32(y * PITCH)
        end = uint32(at + uint32(num_columns))
        while at < end:
            total += tile[uint64(at)]
            tile[uint64(at)] = total
            at = uint32(at + uint32(1))
        y += LANES * WARPS
    cuda.syncthreads()
    for side in range(TILE_X // LANES):
        centre = (warp * ROWS + radius) * PITCH + side * LANES + lane + radius + 1
        for j in range(ROWS):
            disks[side * ROWS + j] = uint64(0)
        begin = 0
        for part in range(1 if radius <= ONE_WORD else 2):
            end = 2 * radius + 1 if radius <= ONE_WORD or part == 1 else radius
            for j in range(ROWS):
                words[j] = uint64(0)
            span = int32(begin)
            while span < end:
                ahead = uint64(uint32(centre + ends[uint64(2 * span)]))
                behind = uint64(uint32(centre + ends[uint64(2 * span + 1)]))
                for j in range(ROWS):
                    words[j] += tile[ahead + uint64(j * PITCH)] - tile[behind + uint64(j * PITCH)]
                span = int32(span + 1)
            begin = end
            for j in range(ROWS):
                low = uint64(words[j] & uint64(0xFFFF)) | uint64((words[j] >> uint64(32)) << uint64(SUM_GREEN))
                blue_bits = uint64(uint64(words[j] >> uint64(16)) & uint64(0xFFFF)) << uint64(SUM_BLUE)
                disks[side * ROWS + j] += uint64(low | blue_bits)
    cuda.syncthreads()
    for side in range(TILE_X // LANES):
        for j in range(ROWS):
            tile[uint64(uint32((warp * ROWS + j) * TILE_X + side * LANES + lane))] = disks[side * ROWS + j]
    cuda.syncthreads()
    scale, first = extra[defocus.SCALE], extra[defocus.SOFT]
    second = extra[defocus.SOFT + 1] if soft > 0 else float32(0)
    third = extra[defocus.SOFT + 2] if soft > 1 else float32(0)
    for side in range(TILE_X // LANES):
        column, y = side * LANES + lane, top + warp * ROWS
        x = left + column
        if not soft <= column < TILE_X - soft or x >= width:
            continue
        for j in range(ROWS):
            red[j] = green[j] = blue[j] = float32(0)
        for k in range(ROWS + 2 * MOST_SOFT):
            line = warp * ROWS + k - MOST_SOFT
            if MOST_SOFT - soft <= k < ROWS + MOST_SOFT + soft and 0 <= line < TILE_Y:
                at = uint64(uint32(line * TILE_X + column))
                r, g, bl = sums_of(tile[at])
                r, g, bl = first * r, first * g, first * bl
                if soft > 0:
                    r1, g1, bl1 = sums_of(tile[at - uint64(1)] + tile[at + uint64(1)])
                    r, g, bl = r + second * r1, g + second * g1, bl + second * bl1
                if soft > 1:
                    r1, g1, bl1 = sums_of(tile[at - uint64(2)] + tile[at + uint64(2)])
                    r, g, bl = r + third * r1, g + third * g1, bl + third * bl1
                for e in range(NUM_SOFT):
                    j = k - e
                    if 0 <= j < ROWS:
                        weight = first if e == MOST_SOFT else second if abs(e - MOST_SOFT) == 1 else third
                        red[j] += weight * r
                        green[j] += weight * g
                        blue[j] += weight * bl
        for j in range(ROWS):
            if soft <= warp * ROWS + j < TILE_Y - soft and y + j < height:
                r, g, bl = scale * red[j], scale * green[j], scale * blue[j]
                if num_taps > 0:
                    i = uint64(3 * x)
                    r += rest[uint64(y + j), i]
                    g += rest[uint64(y + j), i + uint64(1)]
                    bl += rest[uint64(y + j), i + uint64(2)]
                store_pixel(out[uint64(y + j)], x, r, g, bl)


KERNELS = (
    OwnKernel(
        "defocus_blur",
        defocus_blur,
        ("images_BHX", "planes_2BHX", "rows_B", "extra_BE", "pixels_BHX"),
        (TILE_Y - 2 * MOST_SOFT, TILE_X - 2 * MOST_SOFT),
        (LANES, WARPS),
    ),
)
