"""What a translation run trains and ships; the loop around it is train/trainer.py."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.detecting.detect import choose_compile, choose_dtype
from model.translation.build import load_generator, make_generator, save_generator
from pipeline.command.console import say
from pipeline.command.ranks import World
from pipeline.loading.loader import Loader, describe_machine, open_loader
from pipeline.packed.reader import PackedDataset
from train.load import over_ranks
from train.optimizer import Ema, Optimizer, rate_factor, scaled_rate
from train.record.checkpoint import read_state
from train.record.trace import Canvases
from train.record.weights import Weights
from train.record.window import Window
from train.translation import bodies, sheet
from train.translation.config import TranslationConfig
from train.translation.crops import CropMaker, Crops
from train.translation.patchgan import PatchGan
from train.translation.projected import WIDTHS, Mixing, Projected, map_head, sequence_head
from train.translation.semantic import Segmenter
from train.translation.step import TranslationStep, Translator


class PairLoader:
    """Batches of source and target side by side, each in an order of its own."""

    def __init__(self, source: Loader, target: Loader):
        self.source, self.target = source, target
        self.batches_per_epoch = source.batches_per_epoch

    @property
    def wait_seconds(self) -> float:
        return self.source.wait_seconds + self.target.wait_seconds

    def __next__(self) -> Any:
        return next(self.source), next(self.target)

    def state_dict(self) -> dict[str, int]:
        target = {f"target_{name}": value for name, value in self.target.state_dict().items()}
        return self.source.state_dict() | target

    def __enter__(self) -> "PairLoader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.source.close()
        self.target.close()


def open_pair(config: TranslationConfig) -> tuple[PackedDataset, PackedDataset]:
    """Source and target, of the same classes and packed to the same size."""
    source, target = PackedDataset(config.source), PackedDataset(config.target)
    check_pair(source, target)
    return source, target


def check_pair(source: PackedDataset, target: PackedDataset) -> None:
    if source.checksum == target.checksum:
        raise ValueError(f"--source {source.path} and --target {target.path} hold the same images; give two domains")
    if source.classes != target.classes:
        raise ValueError(
            f"the class lists differ: --source {source.path} has {list(source.classes)}, --target {target.path} has "
            f"{list(target.classes)}; pack one of them again with --classes in the other's order"
        )
    sides = [[dataset.info["encoding"][side] for side in ("short_side", "long_side")] for dataset in (source, target)]
    if sides[0] != sides[1]:
        raise ValueError(
            f"--source {source.path} was packed with --short-side {sides[0][0]} --long-side {sides[0][1]}, --target "
            f"{target.path} with --short-side {sides[1][0]} --long-side {sides[1][1]}; pack them alike"
        )


def identify(source: PackedDataset, target: PackedDataset) -> dict[str, Any]:
    both = hashlib.sha256(f"{source.checksum} {target.checksum}".encode()).hexdigest()
    return {"data_checksum": both, "teacher_checksum": None}


def check_identity(newest: Path, identity: dict[str, Any], config: TranslationConfig) -> None:
    if read_state(newest)["data_checksum"] != identity["data_checksum"]:
        raise ValueError(
            f"--source {config.source} and --target {config.target} are not the datasets this run was trained with "
            "(their checksum differs); give the same ones, or start another run with another --out"
        )


def make_discriminator(name: str, config: TranslationConfig) -> PatchGan | Projected:
    if name == "patchgan":
        return PatchGan(config.discriminator_width)
    if name == "efficientnet_lite0":
        mixing = Mixing(bodies.LITE_CHANNELS)
        return Projected(bodies.make_lite(), mixing, [map_head(each, level) for level, each in enumerate(mixing.out)])
    tokens = (bodies.DINO_SIDE // bodies.DINO_PATCH) ** 2
    mixing = Mixing((tokens,) * len(WIDTHS), sequences=True)
    heads = [sequence_head(each * bodies.DINO_WIDTH) for each in mixing.out]
    return Projected(bodies.make_dino(config.dinov2), mixing, heads)


class TranslationTask(Weights):
    """A generator, what judges it, two domains, and the optimizer."""

    measured = False
    alike = ()
    visits = 1

    def __init__(self, config: TranslationConfig, world: World, newest: Path | None):
        """newest: the checkpoint to continue from, whose data must be those of now."""
        self.config, self.world = config, world
        torch.backends.cudnn.benchmark = True  # crops are all of one size: timing pays
        num = world.size * config.accumulate
        if config.batch_size % num:
            raise ValueError(
                f"--batch-size {config.batch_size} does not divide into --accumulate {config.accumulate} parts on "
                f"{world.size} rank(s); choose a multiple of {num}"
            )
        self.source, self.target = open_pair(config)
        self.identity = identify(self.source, self.target)
        if newest is not None:
            check_identity(newest, self.identity, config)
        if world.first:
            say(describe_machine(world.device, config.loader.name))
        torch.manual_seed(config.seed)
        generator = make_generator(config.generator)
        if newest is not None:
            generator.load_state_dict(load_generator(newest)[0].state_dict())
        discriminators: dict[str, PatchGan | Projected] = {
            str(name): make_discriminator(name, config) for name in config.discriminators
        }
        segmenter = None
        if config.semantic_weight > 0:
            segmenter = Segmenter(config.segmenter_width, len(self.source.classes) + 1)
        dtype = choose_dtype(config.precision, world.device)
        self.translator = Translator(config, generator, discriminators, segmenter, dtype).to(world.device)
        self.layout = self.translator.layout
        self.parameters = {name: value for name, value in self.translator.named_parameters() if value.requires_grad}
        kinds = {name: frozenset({"discriminator"}) for name in self.parameters if name.startswith("discriminators.")}
        self.optimizer = Optimizer(self.parameters, config.optimizer, kinds)
        self.shipped = {name: value for name, value in self.parameters.items() if name.startswith("generator.")}
        self.ema = Ema(self.shipped, config.optimizer.ema_decay) if config.optimizer.ema_decay > 0 else None
        self.window = Window((*self.layout.names, "gradient_norm"), config.log_every, world.device)
        self.rate = scaled_rate(config.optimizer, config.batch_size)
        self.maker = CropMaker(config.crop, world.device)
        self.compiled = choose_compile(config.compile, world.device)

    def open(self, place: dict[str, int]) -> None:
        """The data from a place on, and the step, compiled where the run requests it."""
        config, world = self.config, self.world
        starts = [
            (self.source, config.seed, place["epoch"], place["cursor"]),
            # Another seed: two domains may number their images alike.
            (self.target, config.seed + 1, place.get("target_epoch", 0), place.get("target_cursor", 0)),
        ]
        loaders = [
            open_loader(
                data, config.batch_size // world.size, device=str(world.device), name=config.loader.name, seed=seed,
                rank=world.rank, world=world.size, epoch=epoch, cursor=cursor, threads=config.loader.threads,
                prefetch=config.loader.prefetch, hardware_share=config.loader.hardware_share,
            )
            for data, seed, epoch, cursor in starts
        ]  # fmt: skip
        self.loader = PairLoader(*loaders)
        self.total = config.steps or max(1, round(config.epochs * self.loader.batches_per_epoch))
        wrapped: Any = self.translator
        if self.compiled:
            torch._dynamo.config.optimize_ddp = False  # train/load.py says why
            wrapped = torch.compile(wrapped, fullgraph=True, dynamic=False)
        self.step = TranslationStep(
            over_ranks(wrapped, world), self.parameters, self.optimizer, self.ema, self.window,
            config.optimizer.clip_norm, config.accumulate,
        )  # fmt: skip

    def one_step(self, crops: Crops, step: int, stop: bool) -> None:
        self.step(crops, step, self.rate_at(step), stop)

    def rate_at(self, step: int) -> float:
        return self.rate * rate_factor(self.config.optimizer, step, self.total)

    def canvases(self) -> set[Canvases]:
        return {((self.config.crop.size,) * 2, None)} if self.compiled else set()

    def canvases_of(self, crops: Crops) -> Canvases:
        return tuple(crops.source_B3SS.shape[-2:]), None

    # -- saying -------------------------------------------------------------------------------------------------

    def describe(self) -> None:
        config = self.config
        for name, data in (("source", self.source), ("target", self.target)):
            domains = ", ".join(f"{domain} {count}" for domain, count in data.domain_counts.items())
            say(f"{name}: {data.path}: {len(data)} images of {len(data.classes)} classes: {domains}")
        count = sum(value.numel() for value in self.shipped.values())
        say(
            f"generator {config.generator.network} with {count / 1e6:.2f} million weights; discriminators "
            f"{', '.join(config.discriminators)}; crops of {config.crop.size} pixels"
        )
        epochs = self.total / self.loader.batches_per_epoch
        say(
            f"run: {self.total} steps of {config.batch_size} images of each domain on {self.world.size} rank(s), "
            f"{epochs:.1f} epochs of the source; learning rate {self.rate:g}"
        )

    def begin(self) -> None:
        """Nothing is to be looked at before the first step."""

    def measures(self, step: int) -> bool:
        return False

    def measure(self) -> dict[str, float]:
        return {}

    def describe_score(self, score: dict[str, float]) -> str:
        return ""

    # -- shipping -----------------------------------------------------------------------------------------------

    def ship(self, folder: Path, step: int) -> None:
        """The generator alone; and a sheet of what it does, in OUT/pictures."""
        config = self.config
        extra = {
            "step": step,
            "classes": list(self.source.classes),
            "short_side": self.source.info["encoding"]["short_side"],
            "long_side": self.source.info["encoding"]["long_side"],
            "source_domains": sorted(self.source.domain_counts),
            "target_domains": sorted(self.target.domain_counts),
            "target": config.target.resolve().name,
        }
        with self.shipped_weights():
            save_generator(folder, self.translator.generator, config.generator, extra)
            path = config.out / "pictures" / f"step-{step:08d}.jpg"
            seen = sheet.draw(path, self.translator.generator, self.source, self.target, config.pictures, step)
        for line in sheet.warnings(seen):
            say(f"warning: after step {step}, {line} ({path})")

    def name_images(self, numbers: list[int]) -> list[str]:
        return [str(number) for number in numbers if number >= 0]

    def buffers(self) -> dict[str, Tensor]:
        """The projected discriminators' random mixing, and what the spectral norms of their heads know of the weights.

        The pretrained networks come from files again. Running statistics are not used: a discriminator only trains.
        """
        parameters, buffers = self.translator.named_parameters(), self.translator.named_buffers()
        kept = {name: value for name, value in parameters if ".mixing." in name}
        return kept | {name: value for name, value in buffers if ".parametrizations." in name}
