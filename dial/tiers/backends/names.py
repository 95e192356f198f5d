"""What may compute a tier, and in which numbers."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

Backend = Literal["torch", "openvino", "onnxruntime", "auto"]
DTYPES: dict[str, tuple[str, ...]] = {
    "openvino": ("float32", "bfloat16"),
    "onnxruntime": ("float32", "int8"),
    "auto": ("float32", "bfloat16"),
}
"""Numbers that backends other than torch compute in."""
PACKAGES = {"openvino": ("openvino", "onnx"), "onnxruntime": ("onnxruntime", "onnx")}


def missing_package(backend: str) -> str | None:
    """The first package that a backend needs and that is not installed; None if there is none."""
    return next((name for name in PACKAGES.get(backend, ()) if find_spec(name) is None), None)


def installed() -> list[str]:
    """Backends other than torch whose packages are installed."""
    return [name for name in PACKAGES if missing_package(name) is None]


def check_backend(backend: str, dtype: str) -> None:
    """Refuse a backend that there is not, one that is not installed, and numbers that it does not compute in.

    Raises:
        ValueError: naming ``backend`` or ``dtype``; for a package that lacks with the extra that installs it.

    Example:
        >>> check_backend("openvino", "float16")
        Traceback (most recent call last):
            ...
        ValueError: `dtype` must be float32 or bfloat16 where `backend` is openvino, but got 'float16'.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"`backend` must be one of {', '.join(get_args(Backend))}, but got {backend!r}.")
    allowed = DTYPES.get(backend)
    if allowed is not None and dtype not in allowed:
        raise ValueError(f"`dtype` must be {' or '.join(allowed)} where `backend` is {backend}, but got {dtype!r}.")
    if (lacking := missing_package(backend)) is not None:
        raise ValueError(
            f"`backend` {backend} needs the package {lacking}, which is not installed; "
            f"install the extra {backend} (pip install -e '.[{backend}]'), or take torch or auto."
        )
