"""Boxes in the clean and in the small view."""

from numba import float32

from kernels.jit import compiled


@compiled
def place_box(box, clean, small, row):
    """Mirroring maps x to width - x. The small view's box follows its whole-pixel size, each axis with its own factor.

    box, clean, small: 4 float32 each, x1 y1 x2 y2. Padding (no extent) stays zero.
    """
    left, top, right, bottom = box[0], box[1], box[2], box[3]
    if row.flip == 1 and right > left:
        left, right = float32(row.width) - right, float32(row.width) - left
    clean[0], clean[1], clean[2], clean[3] = left, top, right, bottom
    factor_x = float32(row.small_width) / float32(max(row.width, 1))
    factor_y = float32(row.small_height) / float32(max(row.height, 1))
    small[0], small[1], small[2], small[3] = (
        left * factor_x,
        top * factor_y,
        right * factor_x,
        bottom * factor_y,
    )


@compiled
def place_boxes(boxes_BG4, clean_BG4, small_BG4, rows_B):
    for b in range(boxes_BG4.shape[0]):
        for g in range(boxes_BG4.shape[1]):
            place_box(boxes_BG4[b, g], clean_BG4[b, g], small_BG4[b, g], rows_B[b])
