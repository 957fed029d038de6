"""A generator from its configuration, and in files: model.safetensors and model.json."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from model.translation.attention import AttentionGenerator
from model.translation.resnet import ResnetGenerator
from model.weights.checkpoint import SIDE
from model.weights.files import MARKER, find_damage, read_state, resolve_checkpoint, save_tensors
from pipeline.files.fields import from_json, to_json
from pipeline.files.own import ANY, Each, json_text, read_json

FORMAT = 1
CARD = {
    "format": int,
    "generator": Each(ANY),
    "extra?": {
        "short_side?": SIDE,
        "long_side?": SIDE,
        "source_domains?": [str],
        "target_domains?": [str],
        "target?": str,
    },
}
Generator = AttentionGenerator | ResnetGenerator


@dataclass(frozen=True)
class GeneratorConfig:
    """The network that translates."""

    network: Literal["mobile_resnet_attn", "resnet"] = "mobile_resnet_attn"
    """mobile_resnet_attn: pictures mixed with the input by attention masks. resnet: CUT's plain one."""
    width: int = 128
    """Channels of the first layer; the blocks have four times as many."""
    num_blocks: int = 9
    """Residual blocks."""
    num_masks: int = 10
    """Of mobile_resnet_attn: masks, of which the last is the input's. resnet has none."""
    enlarging: Literal["transposed", "resized"] = "transposed"
    """transposed: JoliGEN's convolutions, which can draw a grid. resized: bilinear, then a convolution."""

    def __post_init__(self) -> None:
        for name, least, most in (("width", 1, 4096), ("num_blocks", 1, 256), ("num_masks", 2, 256)):
            if not least <= getattr(self, name) <= most:
                option = f"--generator.{name.replace('_', '-')}"
                raise ValueError(f"{option} must be {least} to {most}, got {getattr(self, name)}")


@dataclass(frozen=True)
class GeneratorCard:
    """What a checkpoint says of itself."""

    config: GeneratorConfig
    extra: dict[str, Any] = field(default_factory=dict)


def make_generator(config: GeneratorConfig) -> Generator:
    resized = config.enlarging == "resized"
    if config.network == "resnet":
        return ResnetGenerator(config.width, config.num_blocks, resized)
    return AttentionGenerator(config.width, config.num_blocks, config.num_masks, resized)


def save_generator(directory: Path, generator: Generator, config: GeneratorConfig, extra: dict[str, Any]) -> None:
    save_tensors(generator.state_dict(), directory / "model.safetensors")
    card = {"format": FORMAT, "generator": to_json(config), "extra": extra}
    (directory / "model.json").write_text(json_text(card))


def load_generator(path: Path, device: torch.device | str = "cpu") -> tuple[Generator, GeneratorCard]:
    """Of a run the newest complete checkpoint, or a checkpoint's folder."""
    if not path.exists():
        raise ValueError(f"no run at {path}: give a run of python -m train.translate, or one of its checkpoints")
    directory = resolve_checkpoint(path)
    if (directory / MARKER).is_file() and (damage := find_damage(directory, ("model.json", "model.safetensors"))):
        raise ValueError(f"{directory} is damaged: {damage}; give another checkpoint of the run")
    file, fix = directory / "model.json", "give another checkpoint"
    card = read_json(file, Each(ANY), fix)
    if "generator" not in card:
        raise ValueError(f"{directory} holds no generator but a detector; give a run of python -m train.translate")
    if card.get("format") != FORMAT:
        raise ValueError(f"{file}: format {card.get('format')}; this version reads {FORMAT}")
    card = read_json(file, CARD, fix)
    config = from_json(GeneratorConfig, card["generator"], f"{file}: generator")
    with torch.device("meta"):  # what a card asks for takes no memory before the weights are seen to be there
        expected = make_generator(config).state_dict()
    state = read_state(directory / "model.safetensors")
    wrong = [name for name in expected if name not in state or state[name].shape != expected[name].shape]
    if wrong or len(state) > len(expected):
        raise ValueError(f"{directory}: the weights do not fit its model.json ({', '.join(wrong[:3]) or 'too many'})")
    generator = make_generator(config)
    generator.load_state_dict(state)
    return generator.to(device).eval(), GeneratorCard(config, card.get("extra", {}))
