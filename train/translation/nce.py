"""PatchNCE and MoNCE: a patch of the translated picture belongs to the source's patch at the same place.

CUT (Park et al., ECCV 2020), MoNCE (Zhan et al., CVPR 2022), both as JoliGEN computes them. Patches of one picture are
each other's negatives. The key is a constant in the positive pair alone: through the negatives its gradient reaches
the encoder of the source picture, where CUT's own code detaches all of it.
"""

import torch
from torch import Tensor, nn

from model.boxes.assign import draw_order

TEMPERATURE = 0.07
SAME = -10.0  # stands where a patch meets itself: exp(-10 / 0.07) is nothing
SINKHORN_STEPS = 50
PATCH_STREAM = 80  # of the draws of a step; the detectors' streams are smaller


class PatchSampler(nn.Module):
    """Vectors of length 1 at given places of feature maps, each map through two layers of its own."""

    def __init__(self, channels: list[int], width: int):
        super().__init__()
        for index, each in enumerate(channels):
            layers = nn.Linear(each, width), nn.Linear(width, width)
            for layer in layers:
                nn.init.normal_(layer.weight, 0.0, 0.02)
                nn.init.zeros_(layer.bias)
            self.add_module(f"mlp_{index}", nn.Sequential(layers[0], nn.ReLU(), layers[1]))

    def forward(self, maps: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        """maps: (B, C, H, W) each; places: P flat positions each, the same in all pictures -> vectors_BPD each."""
        found = []
        for index, (features, places_P) in enumerate(zip(maps, places, strict=True)):
            vectors_BPC = features.flatten(2)[:, :, places_P].transpose(1, 2)
            vectors_BPD = self.get_submodule(f"mlp_{index}")(vectors_BPC)
            found.append(vectors_BPD / (torch.linalg.vector_norm(vectors_BPD, dim=-1, keepdim=True) + 1e-7))
        return found


def draw_places(maps: list[Tensor], num_patches: int, keys_B: Tensor) -> list[Tensor]:
    """Positions without repetition, one list a map, from the first picture's key: all of them in a small map."""
    return [
        draw_order(keys_B[:1], features[0, 0].numel(), PATCH_STREAM + index)[0].argsort(stable=True)[:num_patches]
        for index, features in enumerate(maps)
    ]


def patch_nce(query_BPD: Tensor, key_BPD: Tensor, extra_BPP: Tensor | None = None) -> Tensor:
    """-log softmax([q.k+, q.k-] / tau) of the positive, for each patch: losses_BP.

    extra_BPP: added to the negatives' logits before they are divided by tau.
    """
    positive_BP1 = (query_BPD * key_BPD.detach()).sum(-1, keepdim=True)
    negative_BPP = query_BPD @ key_BPD.transpose(1, 2)
    if extra_BPP is not None:
        negative_BPP = negative_BPP + extra_BPP
    itself_PP = torch.eye(query_BPD.shape[1], dtype=torch.bool, device=query_BPD.device)
    logits_BPX = torch.cat([positive_BP1, negative_BPP.masked_fill(itself_PP, SAME)], dim=-1) / TEMPERATURE
    return logits_BPX.float().logsumexp(-1) - logits_BPX[..., 0].float()


def transport(query_BPD: Tensor, key_BPD: Tensor) -> Tensor:
    """The plan of optimal transport between queries (rows) and keys: `SINKHORN_STEPS` steps from exp(q.k).

    Rows and columns sum to 1. Similar patches get more, so that hard negatives count more.
    """
    itself_PP = torch.eye(query_BPD.shape[1], dtype=torch.bool, device=query_BPD.device)
    kernel_BPP = (query_BPD @ key_BPD.transpose(1, 2)).masked_fill(itself_PP, SAME).float().exp()
    columns_B1P = torch.ones_like(kernel_BPP[:, :1])
    for _ in range(SINKHORN_STEPS):
        rows_BP1 = 1 / (kernel_BPP * columns_B1P).sum(2, keepdim=True)
        columns_B1P = 1 / (kernel_BPP * rows_BP1).sum(1, keepdim=True)
    return rows_BP1 * kernel_BPP * columns_B1P


def monce(query_BPD: Tensor, key_BPD: Tensor, num_patches: int) -> Tensor:
    """PatchNCE whose negatives are weighed by a transport plan: q.k- + tau log((P - 1) plan + 1e-8).

    num_patches: P as requested, which JoliGEN uses also where a map has fewer. The keys are constants in the plan.
    """
    plan_BPP = transport(query_BPD, key_BPD.detach())
    return patch_nce(query_BPD, key_BPD, TEMPERATURE * ((num_patches - 1) * plan_BPP + 1e-8).log())
