"""What every defence offers: images, the ids of their noise and the numbers of their purifications to logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hetpure_core import Purified, check_images, frozen


class Undefended(nn.Module):
    """The bare classifier with a defence's signature."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier, self.seed, self.training = classifier, 0, False

    def forward(self, images: Tensor, ids: Sequence | None = None, copies: Sequence | None = None) -> Tensor:
        check_images(images)
        return frozen(self.classifier)(images)


Defended = Purified | Undefended  # what is evaluated
