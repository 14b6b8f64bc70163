"""The forward pass of a UNet computed by OpenVINO, on a CPU, with one thread.

OpenVINO fuses convolutions with what follows them and keeps the layout that suits them, where torch computes one
operation after the other. torch traces the pass once for each architecture, with all weights as inputs; each component
then gets the graph with its own weights as constants, which OpenVINO compiles in a fraction of a second.

OpenVINO reports its import and its conversions to a server, unless its telemetry is missing. Here it is kept out.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from .._runtime.devices import CPU
from ..errors import SettingsError, option
from .fast_unet import PlainUpsample, SharedTimestepUNet

TELEMETRY = "openvino_telemetry"
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # in OpenVINO's words
MOST_OFF = {"fp32": 1e-4, "bf16": 0.1}  # part of the largest value; seen: 1e-6 and 0.01 to 0.02
ONE_THREAD = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "PERFORMANCE_HINT": "LATENCY",
    "ENABLE_CPU_PINNING": False,  # or all workers would share one core
}

Shapes = tuple[tuple[int, ...], ...]


def missing_for_openvino(hardware: str, precision: str) -> str | None:
    """What OpenVINO lacks here, as part of a sentence; None if nothing is missing.

    Args:
        hardware: see `devices.hardware`.
        precision: of the forward passes.
    """
    if hardware != CPU:
        return f"a CPU ({option('device', CPU)}), and this is {hardware}"
    if find_spec("openvino") is None:
        return "the package openvino, which is not installed: pip install 'ablatable[openvino]'"
    if precision == "bf16" and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return f"a processor with instructions for bf16, and this one has none; take {option('precision', 'fp32')}"
    return None


class OpenVINOUNet(SharedTimestepUNet):
    """As `SharedTimestepUNet`; its `predict` is computed by OpenVINO, from a copy of the weights.

    It is compiled at the first pass of each batch size, and must then predict what torch does, but for rounding.
    """

    upsampling = PlainUpsample  # OpenVINO does best with it

    def __init__(self, unet: Any, captured: bool = False, precision: str = "fp32") -> None:
        """`precision`: `fp32` or `bf16`; the model's weights, inputs and outputs are float32 in both."""
        super().__init__(unet)
        self.precision = precision
        self._requests: dict[Shapes, Request] = {}

    def _whole_pass(self, x: Tensor, *biases: Tensor) -> Tensor:
        shapes = tuple(tuple(tensor.shape) for tensor in (x, *biases))
        if shapes not in self._requests:
            self._requests[shapes] = request = Request(self, shapes)
            self._check(request(x, biases), self.predict(x.clone(), biases))
        return self._requests[shapes](x, biases)

    def _check(self, given: Tensor, expected: Tensor) -> None:
        error = float((given - expected).abs().max() / expected.abs().max())
        if not error <= MOST_OFF[self.precision]:
            raise SettingsError(
                f"OpenVINO's forward pass differs from torch's by {error:.1e} of the largest value, more than rounding "
                f"can; take {option('backend', 'eager')}"
            )


class Request:
    """One component's pass, compiled for inputs of some shapes. It has memory of its own for inputs and output."""

    def __init__(self, model: OpenVINOUNet, shapes: Shapes) -> None:
        """Compile the pass with the model's weights as they are."""
        constant = _openvino().op.Constant
        graph = _graph(type(model.unet), json.dumps(dict(model.unet.config), sort_keys=True, default=str), shapes)
        own = graph.clone()
        for place, weight in zip(own.get_parameters()[len(shapes) :], model.parameters(), strict=True):
            place.output(0).replace(constant(weight.detach().float().contiguous().numpy()).output(0))
            own.remove_parameter(place)
        own.reshape({number: list(shape) for number, shape in enumerate(shapes)})
        settings = {**ONE_THREAD, "INFERENCE_PRECISION_HINT": PRECISIONS[model.precision]}
        self._request = _core().compile_model(own, "CPU", settings).create_infer_request()
        self._inputs = [torch.from_numpy(self._request.get_input_tensor(k).data) for k in range(len(shapes))]
        self._output = torch.from_numpy(self._request.get_output_tensor(0).data)
        self._biases: Sequence[Tensor] = ()

    def __call__(self, x: Tensor, biases: Sequence[Tensor]) -> Tensor:
        """As `SharedTimestepUNet.predict`."""
        self._inputs[0].copy_(x)
        if len(biases) != len(self._biases) or any(a is not b for a, b in zip(biases, self._biases, strict=True)):
            for place, bias in zip(self._inputs[1:], biases, strict=True):
                place.copy_(bias)
            self._biases = biases
        self._request.infer()
        return self._output.clone()


class _Template(nn.Module):
    """A pass that takes its weights with every call."""

    def __init__(self, model: SharedTimestepUNet, biases: int) -> None:
        super().__init__()
        self.model, self.biases = model, biases
        self.names = [name for name, _ in model.named_parameters()]

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        for name, weight in zip(self.names, rest[self.biases :], strict=True):
            owner, _, own = name.rpartition(".")
            module = self.model.get_submodule(owner)
            module._parameters.pop(own, None)
            setattr(module, own, weight)
        return self.model.predict(x, rest[: self.biases])


@lru_cache(maxsize=2)
def _graph(unet_class: Any, config: str, shapes: Shapes) -> Any:
    """The pass as OpenVINO's graph: x, the biases and all weights, in the order of the model's, are its inputs."""
    _openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that are taken as they are, which is what is wanted
        with torch.device("meta"):
            model = OpenVINOUNet(unet_class.from_config(json.loads(config)))
        template = _Template(model, len(shapes) - 1).eval()
        weights = [tuple(weight.shape) for weight in model.parameters()]
        traced = torch.jit.trace(template, [torch.zeros(s) for s in (*shapes, *weights)], check_trace=False)
        decoder = TorchScriptPythonDecoder(traced)  # kept by name: what is loaded refers to it
        frontend = FrontEndManager().load_by_framework("pytorch")
        loaded = frontend.load(decoder)
        return frontend.convert(loaded)


@lru_cache(maxsize=1)
def _core() -> Any:
    return _openvino().Core()


@lru_cache(maxsize=1)
def _openvino() -> Any:
    """The package, imported without its telemetry, which would send a message at once."""
    known = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # pyright: ignore[reportArgumentType]  # so that importing it fails
    try:
        return import_module("openvino")
    finally:
        del sys.modules[TELEMETRY]
        if known is not None:
            sys.modules[TELEMETRY] = known
