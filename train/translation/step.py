"""One step of an unpaired translation.

    source --generator--> fake ----discriminators----> generator's losses (their weights held)
    target --generator--> identity     real, fake ---> discriminators' losses (the fake held)
    patches of source and fake, of target and identity --contrast--> pull together

All losses are added and differentiated once: each network's gradient comes from its own losses alone, for what a loss
must not move is held constant in it. All networks see the weights of before the step, as in JoliGEN, whose two
optimizers step one after the other over one forward pass.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from model.translation.build import Generator
from train.optimizer import Ema, Optimizer, clip_gradient
from train.record.window import Window
from train.step import Layout
from train.translation import semantic
from train.translation.config import TranslationConfig
from train.translation.crops import Crops
from train.translation.nce import PatchSampler, draw_places, monce, patch_nce
from train.translation.patchgan import PatchGan
from train.translation.projected import Projected

LOGGED = ("change", "contrast")  # mean |fake - source|; the fakes' deviation over that of real target pictures


def held(network: nn.Module, images: Tensor) -> Tensor:
    """The network's output with its weights as constants: the gradient reaches the images alone."""
    constants = {name: value.detach() for name, value in network.named_parameters()}
    return functional_call(network, constants, (images,))


class Translator(nn.Module):
    """Crops -> (total loss, every scalar of the layout), in one graph."""

    def __init__(
        self,
        config: TranslationConfig,
        generator: Generator,
        discriminators: Mapping[str, PatchGan | Projected],
        segmenter: semantic.Segmenter | None,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.config, self.dtype = config, dtype
        self.generator = generator
        width = 4 * config.generator.width
        self.sampler = PatchSampler([width] * len(config.contrast.blocks), config.contrast.width)
        self.discriminators = nn.ModuleDict(discriminators)
        self.judges = dict(discriminators)  # as they are; ModuleDict owns them
        self.segmenter = segmenter
        names = ["patches", *(["identity"] if config.contrast.identity else [])]
        for name in discriminators:
            names += [f"{name}_deceived", name]
        names += ["semantic", "segmenter"] if segmenter is not None else []
        self.layout = Layout((*names, "total"), LOGGED)

    def contrast(self, maps: list[Tensor], translated: list[Tensor], keys_B: Tensor) -> Tensor:
        """Mean over the blocks; maps: the encoder's of the pictures, translated: of what became of them."""
        config = self.config.contrast
        places = draw_places(maps, config.num_patches, keys_B)
        losses = []
        with torch.autocast(keys_B.device.type, enabled=False):  # divided by 0.07, products need all their digits
            queries, keys = (self.sampler([each.float() for each in some], places) for some in (translated, maps))
            for query_BPD, key_BPD in zip(queries, keys, strict=True):
                if config.loss == "monce":
                    losses.append(monce(query_BPD, key_BPD, config.num_patches).mean())
                else:
                    losses.append(patch_nce(query_BPD, key_BPD).mean())
        return torch.stack(losses).mean()

    def forward(self, crops: Crops) -> tuple[Tensor, Tensor]:
        with torch.autocast(crops.keys_B.device.type, self.dtype, enabled=self.dtype != torch.float32):
            terms, fake_B3SS = self.terms(crops)
        total = torch.stack(list(terms.values())).sum() * crops.present_B[0]
        change = (fake_B3SS - crops.source_B3SS).detach().abs().float().mean()
        spread, real = (
            images.detach().float().mean(1).flatten(1).std(1).mean() for images in (fake_B3SS, crops.target_B3SS)
        )
        one = torch.ones_like(change)
        scalars = [*terms.values(), total, change, spread / real.clamp(min=1e-3), one, one]
        return total, torch.stack([scalar.detach().float() for scalar in scalars])

    def terms(self, crops: Crops) -> tuple[dict[str, Tensor], Tensor]:
        """Every weighed term in the layout's order, and the translated pictures."""
        config, blocks = self.config, self.config.contrast.blocks
        num, identity = len(crops.source_B3SS), config.contrast.identity
        real_B3SS = crops.target_B3SS
        shown = torch.cat([crops.source_B3SS, real_B3SS]) if identity or self.segmenter else crops.source_B3SS
        images, maps = self.generator(shown, blocks)
        fake_B3SS = images[:num]
        translated = self.generator.trunk(images if identity else fake_B3SS, blocks, blocks[-1])[:-1]

        terms = {}
        weight = config.contrast.weight * (0.5 if identity else 1.0)
        source = [each[:num] for each in maps]
        terms["patches"] = weight * self.contrast(source, [each[:num] for each in translated], crops.keys_B)
        if identity:
            target = [each[num:] for each in maps]
            terms["identity"] = weight * self.contrast(target, [each[num:] for each in translated], crops.keys_B)
        for name, judge in self.judges.items():
            terms[f"{name}_deceived"] = config.adversarial_weight * judge.deceived(held(judge, fake_B3SS).float())
            # One after the other: heads with batch norms see one domain at a time.
            real, fake = (judge(each).float() for each in (real_B3SS, fake_B3SS.detach().to(real_B3SS.dtype)))
            terms[name] = judge.loss(real, fake)
        if self.segmenter is not None:
            masks = crops.source_mask_BSS, crops.target_mask_BSS
            found = self.segmenter(torch.cat([crops.source_B3SS, real_B3SS]))
            again = held(self.segmenter, images)
            own = semantic.error(found[:num], masks[0]) + semantic.error(found[num:], masks[1])
            seen_BSS = torch.where(masks[1] == semantic.UNKNOWN, found[num:].argmax(1), masks[1])
            kept = semantic.error(again[:num], masks[0]) + semantic.error(again[num:], seen_BSS)
            teaches = (own.detach() <= semantic.LARGEST_ERROR).float()
            terms["semantic"] = config.semantic_weight * teaches * kept
            terms["segmenter"] = own
        return terms, fake_B3SS


class TranslationStep:
    """One step: the parts of a batch one after the other, then every weight at once."""

    def __init__(
        self,
        translator: Callable[[Crops], tuple[Tensor, Tensor]],  # a Translator, compiled or in DDP
        parameters: dict[str, nn.Parameter],
        optimizer: Optimizer,
        ema: Ema | None,
        window: Window,
        clip_norm: float,
        accumulate: int,
    ):
        self.translator, self.parameters, self.optimizer, self.ema = translator, parameters, optimizer, ema
        self.window, self.clip_norm, self.accumulate = window, clip_norm, accumulate

    def __call__(self, crops: Crops, step: int, rate: float, stop: bool = False) -> None:
        found = [self.backward(crops, index) for index in range(self.accumulate)]
        norm = clip_gradient(list(self.parameters.values()), self.clip_norm)
        scalars_T = torch.stack(found).mean(0)
        skip = self.window.record(step, torch.cat([scalars_T, norm[None]]), crops.ids_B, stop)
        self.optimizer.step(rate, skip)
        if self.ema is not None:
            self.ema.update(self.parameters, step, skip)

    def backward(self, crops: Crops, index: int) -> Tensor:
        """Add one part's gradient; ranks average theirs with the last part."""
        last = index == self.accumulate - 1
        alone = nullcontext() if last else getattr(self.translator, "no_sync", nullcontext)()
        with alone:
            total, scalars_T = self.translator(crops.part(index, self.accumulate))
            (total / self.accumulate).backward()
        return scalars_T
