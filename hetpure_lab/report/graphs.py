"""Networks as ONNX graphs with their gradients written out, for onnxruntime-web on the live page.

Four graphs share one file of weights: noise prediction, its vector-Jacobian product, logits with
attention maps, and loss with gradient.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetpure_core import attention_maps
from hetpure_lab.data import DATASETS
from hetpure_lab.networks.benches import Bench

if TYPE_CHECKING:
    import onnx

LARGE = 1024  # bytes from which a tensor moves from a graph into the shared file

aten = torch.ops.aten


class ExportError(RuntimeError):
    """Why networks cannot be exported, in one sentence."""


@dataclass(frozen=True)
class Function:
    """A function of tensors to export: examples of its `inputs`, by name, and the names of its
    `outputs`.
    """

    function: Callable[..., Tensor | tuple[Tensor, ...]]
    inputs: dict[str, Tensor]
    outputs: Sequence[str]


def functions(bench: Bench) -> dict[str, Function]:
    """The page's questions to the networks, for one image (1, 3, 32, 32): names, example inputs and
    outputs.

    ``eps`` is the predicted noise, ``product`` its vector-Jacobian product with respect to x,
    ``look`` are logits and the maps of Eq 2 and 3, ``ascend`` is the cross-entropy with its
    gradient with respect to the image. Noise and vectors are in the [-1, 1] scale, images in [0,
    1], `time` is (1,) in 1..T, `label` is one-hot (1, classes).
    """
    denoiser, classifier = bench.denoiser, bench.classifier
    size = DATASETS[bench.dataset].size
    example = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    time = torch.tensor([100.0])
    label = torch.eye(len(bench.classes))[:1]

    def product(x: Tensor, time: Tensor, vector: Tensor) -> Tensor:
        return torch.func.vjp(lambda z: denoiser(z, time), x)[1](vector)[0]

    def look(image: Tensor) -> tuple[Tensor, Tensor]:
        return classifier(image), attention_maps(image, classifier, classifier.taps())

    def ascend(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        loss, pull = torch.func.vjp(lambda z: -(classifier(z).log_softmax(-1) * label).sum(), image)
        return loss, pull(torch.ones_like(loss))[0]

    state = {"x": example, "time": time}
    return {
        "eps": Function(lambda x, time: denoiser(x, time), state, ["eps"]),
        "product": Function(product, state | {"vector": example}, ["product"]),
        "look": Function(look, {"image": example}, ["logits", "maps"]),
        "ascend": Function(ascend, {"image": example, "label": label}, ["loss", "gradient"]),
    }


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: object,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    wanted: list[bool],
) -> tuple[Tensor, None, None]:
    """The gradient of a convolution with respect to its input: a transposed convolution, and the
    other way round.

    ONNX has no operator for it. The gradient with respect to weights is never wanted here.
    """
    if wanted[1]:
        raise ExportError("gradients with respect to weights are not exported")
    if transposed:
        return (
            aten.convolution.default(
                grad, weight, None, stride, padding, dilation, False, [0, 0], groups
            ),
            None,
            None,
        )
    reach = [
        (grad.shape[i + 2] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[i + 2] - 1)
        + 1
        for i in range(2)
    ]
    missing = [x.shape[i + 2] - reach[i] for i in range(2)]  # pixels that the stride skipped
    return (
        aten.convolution.default(
            grad, weight, None, stride, padding, dilation, True, missing, groups
        ),
        None,
        None,
    )


def export(wanted: Function) -> onnx.ModelProto:
    """A function as an ONNX graph, gradients written out. Raises `ExportError` where the exporter
    is not installed.
    """
    try:
        import onnxscript  # noqa: F401 (torch's exporter needs it and says so at length)
    except ImportError as error:
        raise ExportError(
            f"the networks could not be exported: the package {error.name} is not installed"
        ) from error
    from torch.fx.experimental.proxy_tensor import make_fx

    example = tuple(
        value.clone() for value in wanted.inputs.values()
    )  # one object twice would be traced as one input
    table = {aten.convolution_backward.default: convolution_backward}
    with _quietly():
        traced = make_fx(torch.func.functionalize(wanted.function), decomposition_table=table)(
            *example
        )
        program = torch.export.export(traced, example)
        return torch.onnx.export(
            program,
            input_names=list(wanted.inputs),
            output_names=wanted.outputs,
            dynamo=True,
            verbose=False,
        ).model_proto


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's messages to its own authors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def share(models: dict[str, onnx.ModelProto]) -> tuple[dict[str, bytes], bytes]:
    """Graphs without their large tensors, and one file ("weights") that has each of these once."""
    from onnx.external_data_helper import set_external_data

    weights, places = io.BytesIO(), {}
    for model in models.values():
        for tensor in model.graph.initializer:
            raw = tensor.raw_data
            if len(raw) < LARGE:
                continue
            if raw not in places:
                places[raw] = weights.tell()
                weights.write(raw + b"\0" * (-len(raw) % 16))
            set_external_data(tensor, "weights", places[raw], len(raw))
            tensor.ClearField("raw_data")
    return {name: model.SerializeToString() for name, model in models.items()}, weights.getvalue()
