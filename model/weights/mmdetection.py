"""Names of mmdetection's dense heads, in versions 2 and 3 and in the repositories built on them."""

import re

from torch import Tensor

RULES = (
    (r"cls_convs\.(\d+)\.conv\.", r"class_tower.\1.0."),
    (r"cls_convs\.(\d+)\.gn\.", r"class_tower.\1.1."),
    (r"reg_convs\.(\d+)\.conv\.", r"box_tower.\1.0."),
    (r"reg_convs\.(\d+)\.gn\.", r"box_tower.\1.1."),
    (r"(?:retina|atss|gfl)_cls\.|conv_cls\.", "class_output."),
    (r"(?:retina|atss|gfl)_reg\.|conv_reg\.", "box_output."),
    (r"(?:atss|conv)_centerness\.", "quality_output."),
    (r"scales\.(\d+)\.scale$", r"scales.\1"),
)


def own_head_name(name: str) -> str | None:
    """Our name of a head's weight; None for one that we do not have, such as GFL's buffer of bin numbers."""
    for pattern, replacement in RULES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return None


def rename_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A head's state dict under our names; what it holds beyond is left out."""
    names = {name: own_head_name(name) for name in state}
    return {new: state[old] for old, new in names.items() if new is not None}
