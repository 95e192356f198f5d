"""Exported graphs as functions of torch tensors, computed by OpenVINO or onnxruntime on the CPU."""

from __future__ import annotations

import ctypes
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

FUSED_FROM = 192
"""Tokens of a row from which on OpenVINO computes attention as one operation, see ``benchmarks/bench_attention.py``."""
APART = {"SNIPPETS_MODE": "DISABLE"}


class Graph(ABC):
    """An exported module. It uses as many threads as torch does at the time of a call.

    Args:
        file: left by :func:`~dial.tiers.backends.export.export`.
        dtype: what it computes in; what goes in and comes out is float32.

    Attributes:
        name: of backend and numbers.
        used: how often it was called.
    """

    backend: str

    def __init__(self, file: Path, dtype: str) -> None:
        self.file, self.dtype, self.name = file, dtype, f"{self.backend} {dtype}"
        self._threads, self._lock, self.used = 0, Lock(), 0
        self._settle()

    def __reduce__(self) -> Any:
        """Copies and other processes open the file again: what was compiled cannot be copied."""
        return type(self), (self.file, self.dtype)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The graph's output in float32.

        Args:
            inputs: by name; those that the graph does not read are left out, a mask that is missing is one of ones and
                types that are missing are zeros.

        Raises:
            ValueError: the tensors are not on a CPU.
        """
        ids = inputs["input_ids"]
        if ids.device.type != "cpu":
            raise ValueError(
                f"`backend` {self.backend} computes on a CPU only, but the tier is on {ids.device.type}; "
                "take `backend` torch there."
            )
        self.used += 1
        with self._lock:  # one batch at a time, as it has all the threads
            if self._threads != torch.get_num_threads():
                self._settle()
            found = self._run([_given(name, inputs.get(name), ids.shape) for name in self._names])
        return torch.from_numpy(found)

    def _settle(self) -> None:
        self._threads = torch.get_num_threads()
        self._names = self._compile(self._threads)

    @abstractmethod
    def _compile(self, threads: int) -> list[str]:
        """Make it ready for a number of threads; gives the names of its inputs in order."""

    @abstractmethod
    def _run(self, inputs: list[np.ndarray]) -> np.ndarray:
        """The output, in memory of its own."""


def _given(name: str, value: Tensor | None, shape: tuple[int, ...]) -> np.ndarray:
    """An input as the libraries want it; what an encoding leaves out in NumPy, which is quicker than torch at it."""
    if value is None:
        return np.ones(shape, np.int64) if name == "attention_mask" else np.zeros(shape, np.int64)
    return np.ascontiguousarray(value.numpy())


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux: where a thread handles its signals."""

    _fields_: ClassVar = [("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def _same_signal_stack() -> Iterator[None]:
    """Put back where the thread handles its signals.

    OpenVINO gives the thread that compiles a stack of its own for them. When its last model is dropped in another
    thread, that is freed all the same, and the next SIGINT would end the process with a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


class OpenVinoGraph(Graph):
    """OpenVINO, which takes bf16 by itself where the processor has it, and is therefore told what to compute in.

    It can compute the products and the softmax of attention as one operation or each by itself. Batches of short rows
    take up to a fifth longer as one, long rows up to a seventh longer as several. So it is several for rows of fewer
    tokens than :data:`FUSED_FROM`; for others the file is opened a second time, once there are some.
    """

    backend = "openvino"

    def _compile(self, threads: int) -> list[str]:
        """Opens the graph for short rows, held to the numbers asked for; gives the names of its inputs."""
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "ENABLE_CPU_PINNING": "NO",  # other processes keep their cores
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[self.dtype],
        }
        compiled = self._opened(APART) or self._opened({})  # a version that cannot be told so
        self._requests = {False: compiled.create_infer_request()}
        kinds = {str(each.get_rt_info()["layerType"].astype(str)) for each in compiled.get_runtime_model().get_ops()}
        if "Softmax" not in kinds:  # no attention, or one operation already
            self._requests[True] = self._requests[False]
        return [str(port.get_node().get_friendly_name()) for port in compiled.inputs]  # a tensor has several names

    def _opened(self, more: Mapping[str, str]) -> Any:
        """The file, with settings that an OpenVINO may not know; None where this one does not.

        Raises:
            RuntimeError: it cannot be opened.
        """
        import openvino

        try:
            with _same_signal_stack():
                return openvino.Core().compile_model(str(self.file), "CPU", {**self._settings, **more})
        except RuntimeError as error:
            if more and "Unsupported property" in str(error):
                return None
            raise

    def _run(self, inputs: list[np.ndarray]) -> np.ndarray:
        """The output, in the form that is faster for rows of this length."""
        long = inputs[0].shape[1] >= FUSED_FROM
        if long not in self._requests:
            try:
                self._requests[long] = self._opened({}).create_infer_request()
            except RuntimeError:  # the file has gone, or there is too little memory for a second one
                self._requests[long] = self._requests[False]
        output: np.ndarray = self._requests[long].infer(dict(enumerate(inputs)), share_inputs=True)[0]
        return output


class OnnxRuntimeGraph(Graph):
    """onnxruntime; for int8 the file itself is quantised."""

    backend = "onnxruntime"

    def _compile(self, threads: int) -> list[str]:
        """Opens the graph with so many threads; gives the names of its inputs."""
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        settings.log_severity_level = 3  # errors
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other processes keep their cores
        if self.dtype == "int8":  # else sums of pairs of products overflow 16 bits where a processor lacks VNNI
            settings.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(str(self.file), settings, providers=["CPUExecutionProvider"])
        return [str(port.name) for port in self._session.get_inputs()]

    def _run(self, inputs: list[np.ndarray]) -> np.ndarray:
        output: np.ndarray = self._session.run(None, dict(zip(self._names, inputs, strict=True)))[0]
        return output


GRAPHS: dict[str, type[Graph]] = {kind.backend: kind for kind in (OpenVinoGraph, OnnxRuntimeGraph)}
