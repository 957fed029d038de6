"""Boxes as the teacher and the student see them."""

from numba import float32

from kernels.jit import compiled


@compiled
def place_box(box, teacher, student, row):
    """Mirroring maps x to width - x. The student's box follows its whole-pixel size, each axis with its own factor.

    box, teacher, student: 4 float32 each, x1 y1 x2 y2. Padding (no extent) stays zero.
    """
    left, top, right, bottom = box[0], box[1], box[2], box[3]
    if row.flip == 1 and right > left:
        left, right = float32(row.width) - right, float32(row.width) - left
    teacher[0], teacher[1], teacher[2], teacher[3] = left, top, right, bottom
    factor_x = float32(row.student_width) / float32(max(row.width, 1))
    factor_y = float32(row.student_height) / float32(max(row.height, 1))
    student[0], student[1], student[2], student[3] = (
        left * factor_x,
        top * factor_y,
        right * factor_x,
        bottom * factor_y,
    )


@compiled
def place_boxes(boxes_BG4, teacher_BG4, student_BG4, rows_B):
    for b in range(boxes_BG4.shape[0]):
        for g in range(boxes_BG4.shape[1]):
            place_box(boxes_BG4[b, g], teacher_BG4[b, g], student_BG4[b, g], rows_B[b])
