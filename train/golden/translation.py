"""JoliGEN's parts: contrastive losses, the generator with attention masks, both discriminators."""

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.translation.attention import AttentionGenerator
from train.golden.cases import GRADIENT, LOSS, OUTPUT, Case, Check
from train.translation.nce import PatchSampler, monce, patch_nce, transport
from train.translation.patchgan import PatchGan
from train.translation.projected import Mixing, Projected, sequence_head

CONFIGURED_LAYERS = 5  # what JoliGEN divides by: 0, 4, 8, 12 and 16, although only some of these blocks exist
NceLoss = Callable[[Tensor, Tensor], Tensor]


def run_nce(case: Case) -> Iterator[Check]:
    """Losses and gradients of given vectors, the plan, the sampler and the sum over layers."""
    config = case.facts["config"]
    batch = config["batch"]
    losses: dict[str, NceLoss] = {
        "patchnce": patch_nce,
        "monce": lambda query, key: monce(query, key, config["num_patches"]),
        "monce_npatches256": lambda query, key: monce(query, key, 256),
    }
    for name, loss in losses.items():
        query, key = (case[which].unflatten(0, (batch, -1)).requires_grad_() for which in ("query", "key"))
        losses_BP = loss(query, key)
        yield Check(f"{name}.loss", losses_BP.flatten(), case[f"{name}.loss"], LOSS)
        gradients = torch.autograd.grad(losses_BP.mean(), (query, key))
        for which, gradient in zip(("query", "key"), gradients, strict=True):
            yield Check(f"{name}.gradient", gradient.flatten(0, 1), case[f"{name}.grad_{which}"], GRADIENT)
    plan_BPP = transport(query, key)
    yield Check("plan", plan_BPP.transpose(1, 2), case["monce.ot_plan"], OUTPUT)

    maps, others = case.levels("sampler.feat"), case.levels("sampler.feat2")
    sampler = PatchSampler([each.shape[1] for each in maps], config["dim"])
    sampler.load_state_dict(case.named("sampler.netF."))
    places = case.levels("sampler.patch_ids")
    keys, queries = sampler(maps, places), sampler(others, places)
    for index, (key_BPD, query_BPD) in enumerate(zip(keys, queries, strict=True)):
        yield Check("sampler", key_BPD.flatten(0, 1), case[f"sampler.out.{index}"], OUTPUT)
        yield Check("sampler", query_BPD.flatten(0, 1), case[f"sampler.out2.{index}"], OUTPUT)
    for name in ("patchnce", "monce"):
        layers = [losses[name](query, key).mean() for query, key in zip(queries, keys, strict=True)]
        average = torch.stack(layers).sum() / CONFIGURED_LAYERS
        yield Check("layers", average, case[f"layer_average.{name}"], LOSS)


def run_generator(case: Case) -> Iterator[Check]:
    config = case.facts["config"]
    generator = AttentionGenerator(config["ngf"], config["n_blocks"], config["nb_mask_attn"])
    generator.load_state_dict({own_name(name): value for name, value in case.named("state.").items()})
    images = case["input"].clone().requires_grad_()
    kept = [index for index in (0, 4, 8, 12, 16) if index < config["n_blocks"]]
    output, maps = generator(images, kept)
    *_, features = generator.trunk(images)
    mixed, contents_BI3HW, masks_BMHW = generator.mix(images, features)
    yield Check("output", output, case["output"], OUTPUT)
    yield Check("output", mixed, case["output"], OUTPUT)
    for index, expected in enumerate(case.levels("block_feat")):
        yield Check("maps", maps[index], expected, OUTPUT)
    for index, expected in enumerate(case.levels("content")):
        yield Check("contents", contents_BI3HW[:, index], expected, OUTPUT)
    for index, expected in enumerate(case.levels("mask")):
        yield Check("masks", masks_BMHW[:, index : index + 1], expected, OUTPUT)
    named = dict(generator.named_parameters())
    expected_gradients = case.named("grad.")
    leaves = [images if name == "input" else named[own_name(name)] for name in expected_gradients]
    gradients = torch.autograd.grad((output * case["cotangent"]).sum(), leaves)
    largest = max(float(value.abs().max()) for value in expected_gradients.values())
    for (name, expected), gradient in zip(expected_gradients.items(), gradients, strict=True):
        # A bias before a norm has no effect: its gradient is rounding, so it is measured beside the others.
        scale = torch.full_like(expected.flatten()[:1], largest)
        got, wanted = (torch.cat([value.flatten(), scale]) for value in (gradient, expected))
        yield Check("gradient", got, wanted, GRADIENT)
        if not name.endswith("bias"):
            yield Check("gradient.weights", gradient, expected, GRADIENT)


def own_name(name: str) -> str:
    return f"trunk.{name}" if name.startswith(("conv", "resnet_blocks.")) else name


class Embedding(nn.Module):
    """The case's stand-in for a pretrained network: tiles of the pooled picture, in rows, through a layer a level:
    tanh(W x + b)."""

    def __init__(self, layers: int, grid: tuple[int, int], length: int, values: int):
        super().__init__()
        self.w = nn.ModuleList(nn.Linear(values, length) for _ in range(layers))
        self.side = round((values / 3) ** 0.5)
        self.canvas = (grid[0] * self.side, grid[1] * self.side)

    def forward(self, images: Tensor) -> list[Tensor]:
        pooled = F.adaptive_avg_pool2d(images, self.canvas)
        tiles = F.unfold(pooled, self.side, stride=self.side).transpose(1, 2)
        return [layer(tiles).tanh() for layer in self.w]


def compare_discriminator(
    case: Case,
    name: str,
    network: PatchGan | Projected,
    scores: tuple[Tensor, Tensor],
    parameters: Mapping[str, Tensor],
) -> Iterator[Check]:
    real, fake = scores
    yield Check(f"{name}.scores", real, case[f"{name}.pred_real"], OUTPUT)
    yield Check(f"{name}.scores", fake, case[f"{name}.pred_fake"], OUTPUT)
    loss = network.loss(real, fake)
    yield Check(f"{name}.loss", loss, case[f"{name}.loss_D"], LOSS)
    yield Check(f"{name}.deceived", network.deceived(fake), case[f"{name}.loss_G"], LOSS)
    expected = case.named(f"{name}.grad_D.")
    gradients = torch.autograd.grad(loss, [parameters[each] for each in expected], retain_graph=True)
    largest = torch.stack([value.abs().max() for value in expected.values()]).max()
    for (each, wanted), gradient in zip(expected.items(), gradients, strict=True):
        got, value = (torch.cat([part.flatten(), largest[None]]) for part in (gradient, wanted))
        yield Check(f"{name}.gradient", got, value, GRADIENT)
        if not each.endswith("bias"):
            yield Check(f"{name}.gradient.weights", gradient, wanted, GRADIENT)


def run_discriminators(case: Case) -> Iterator[Check]:
    config = case.facts["config"]
    patchgan = PatchGan(config["ndf"], config["n_layers"])
    patchgan.load_state_dict(case.named("patchgan."))
    fake = case["fake"].clone().requires_grad_()
    scores = patchgan(case["real"]), patchgan(fake)
    yield from compare_discriminator(case, "lsgan", patchgan, scores, dict(patchgan.named_parameters()))
    (gradient,) = torch.autograd.grad(patchgan.deceived(scores[1]), fake)
    yield Check("lsgan.gradient of the picture", gradient, case["lsgan.grad_G_fake"], GRADIENT)

    state = case.named("projected.freeze_feature_network.")
    features = {which: case.levels(f"projected.backbone_feat.{which}") for which in ("real", "fake")}
    num = len(features["real"])
    mixing = Mixing(
        [each.shape[1] for each in features["real"]],
        [state[f"scratch.layer{index}_ccm.weight"].shape[0] for index in range(num)],
        sequences=True,
    )
    names = {"across_channels": "ccm", "across_scales": "csm.out_conv"}
    mixing.load_state_dict(
        {
            f"{ours}.{index}.{kind}": state[f"scratch.layer{index}_{theirs}.{kind}"]
            for ours, theirs in names.items()
            for index in range(num)
            for kind in ("weight", "bias")
        }
    )
    for which, levels in features.items():
        for index, mixed in enumerate(mixing(levels)):
            yield Check("projected.mixed", mixed, case[f"projected.mixed.{which}.{index}"], OUTPUT)
    heads = [sequence_head(state_of["1.weight"].shape[1]) for state_of in head_states(case, num)]
    for head, state_of in zip(heads, head_states(case, num), strict=True):
        head.load_state_dict(state_of)
    length, values = state["pretrained.w.0.weight"].shape
    fake = case["fake"].clone().requires_grad_()
    num_tiles = features["fake"][0].shape[1]
    bodies = []
    for rows in [rows for rows in range(1, num_tiles + 1) if num_tiles % rows == 0]:
        bodies.append(Embedding(num, (rows, num_tiles // rows), length, values))
        weights = {name.removeprefix("pretrained."): v for name, v in state.items() if "pretrained" in name}
        bodies[-1].load_state_dict(weights)
    # A case tells the number of tiles only, not their rows.
    body = min(bodies, key=lambda each: (each(fake)[0] - features["fake"][0]).detach().abs().max())
    network = Projected(body, mixing, heads)
    yield Check("projected.features", body(fake)[0], features["fake"][0], OUTPUT)
    scores = network(case["real"]), network(fake)
    named = {f"discriminator.mini_discs.{name}": value for name, value in network.heads.named_parameters()}
    yield from compare_discriminator(case, "projected", network, scores, named)
    (gradient,) = torch.autograd.grad(network.deceived(scores[1]), fake)
    yield Check("projected.gradient of the picture", gradient, case["projected.grad_G_fake"], GRADIENT)


def head_states(case: Case, num: int) -> list[dict[str, Tensor]]:
    return [case.named(f"projected.discriminator.mini_discs.{index}.") for index in range(num)]


def run_joligen(case: Case) -> Iterator[Check]:
    yield from run_generator(case) if "output" in case else run_discriminators(case)
