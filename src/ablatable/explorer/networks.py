"""Trained components as ONNX files, which a browser runs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import SettingsError, option

if TYPE_CHECKING:
    import onnx

INPUTS, OUTPUT = ("x", "t"), "noise"


def onnx_files(components: Iterator[nn.Module], shape: tuple[int, int, int]) -> Iterator[bytes]:
    """Each component as an ONNX model: (x: float32 (rows, C, H, W), t: int64 (1,)) -> noise, like x; any rows.

    The graph is traced once. Components of one run differ in their weights alone, so each gets a copy of the graph with
    its own weights put in before constants are folded.

    Raises `SettingsError` when the packages that export are not installed.
    """
    try:
        import onnx
        from onnxscript.optimizer import optimize
    except ImportError as error:
        raise SettingsError(
            f"exporting components needs the packages onnx and onnxscript ({error}); pip install 'ablatable[explorer]'"
        ) from None
    graph: onnx.ModelProto | None = None
    for component in components:
        graph = graph or _traced(component, shape)
        model = onnx.ModelProto()
        model.CopyFrom(graph)
        _put_weights(model, component)
        model = optimize(model)
        _drop_remarks(model)
        yield model.SerializeToString()


def _traced(component: nn.Module, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """The component's graph, with every parameter an initialiser under its own name."""
    example = (torch.zeros(2, *shape), torch.zeros(1, dtype=torch.int64))  # two rows: one would be taken as a constant
    rows = torch.export.Dim("rows", min=1, max=4096)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                component,
                example,
                dynamo=True,
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                dynamic_shapes={"x": {0: rows}, "t": None},
                optimize=False,  # folding would merge parameters that happen to be equal
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        raise SettingsError(
            f"a {type(component).__name__} cannot be exported to ONNX, so no browser can run it "
            f"({' '.join(str(error).split())[:160]}); let a server draw: {option('max_mb', 0)}"
        ) from error
    assert program is not None
    return program.model_proto


def _put_weights(model: onnx.ModelProto, component: nn.Module) -> None:
    """Replace every parameter in the graph by this component's; an error if the two do not match one to one."""
    from onnx import numpy_helper

    weights = {name: tensor.detach().numpy() for name, tensor in component.state_dict().items()}
    known = {initializer.name for initializer in model.graph.initializer}
    if missing := sorted(weights.keys() - known):
        raise AssertionError(f"the exported graph has no parameter {missing[0]}")
    for initializer in model.graph.initializer:
        if initializer.name in weights:
            weight = weights[initializer.name]
            assert tuple(initializer.dims) == weight.shape, initializer.name
            initializer.CopyFrom(numpy_helper.from_array(weight, initializer.name))


def _drop_remarks(model: Any) -> None:
    """Take out where in the Python sources each node came from: it is most of the graph, and names local paths."""
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells much that is of no use here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
