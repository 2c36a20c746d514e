"""Tensors and their description in one safetensors file, which proves that every bit of it is as written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harden.errors import DamagedFileError
from harden.storage.files import parse_json, read_bytes, require_file, write_whole

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
# where the digest of a file goes, which is taken over the file with this in its place
_NO_DIGEST = "0" * 64
_MOST_BYTES = 4 * 2**30
# what Python raises on a description that is not one of ours
ILL_DESCRIBED = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


def tensor_bytes(tensors: Mapping[str, Tensor], about: dict[str, Any]) -> bytes:
    """Return tensors and a JSON description as a safetensors file, with the digest of all its bytes in it."""
    from safetensors.torch import save

    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    # the digest's place comes first: it is the first of its kind in the file
    described: dict[str, Any] = {"format_version": FORMAT_VERSION, "file_digest": _NO_DIGEST}
    described |= {key: value for key, value in about.items() if key not in described}
    content = save(plain, metadata={"about": json.dumps(described, allow_nan=False)})
    digest = hashlib.sha256(content).hexdigest().encode()
    return content.replace(_NO_DIGEST.encode(), digest, 1)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a JSON description as one safetensors file, whole."""
    content = tensor_bytes(tensors, about)
    write_whole(path, lambda aside: aside.write_bytes(content))


def read_tensors(path: Path, made_by: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote, by the command `made_by`.

    Raises:
        MissingInputError, StorageError: not there, or it may not be read; DamagedFileError: other than that.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    content, about = _read(path, made_by)
    remedy = f"make it again with: {made_by}"
    try:
        tensors = load(content)
    except (*ILL_DESCRIBED, SafetensorError) as error:
        raise DamagedFileError(f"{path} is not a model file of harden ({error})", remedy) from error
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DamagedFileError(f"{path} holds NaN or infinite values in '{name}'", remedy)
    return tensors, about


def read_description(path: Path, made_by: str) -> dict[str, Any]:
    """Read the description alone, for which nobody waits for torch; errors as `read_tensors`."""
    return _read(path, made_by)[1]


def _read(path: Path, made_by: str) -> tuple[bytes, dict[str, Any]]:
    """Return a file whose every bit is as it was written, and its description."""
    remedy = f"make it again with: {made_by}"
    require_file(path, f"make it with: {made_by}")
    content = read_bytes(path, _MOST_BYTES)
    try:
        size = int.from_bytes(content[:8], "little")
        header = parse_json(content[8 : 8 + size].decode("utf-8"))
        about = parse_json(header["__metadata__"]["about"])
        version = about.get("format_version")
    except (*ILL_DESCRIBED, RecursionError) as error:
        raise DamagedFileError(f"{path} is not a model file of harden ({error})", remedy) from error
    if version != FORMAT_VERSION:
        raise DamagedFileError(f"{path} has format version {version!r}, not {FORMAT_VERSION}", remedy)
    digest = str(about.get("file_digest"))
    unsigned = content.replace(digest.encode(), _NO_DIGEST.encode(), 1)
    if digest != hashlib.sha256(unsigned).hexdigest():
        raise DamagedFileError(f"{path} does not have the digest that it was written with", remedy)
    return content, about
