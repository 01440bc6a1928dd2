"""How both makers of fixtures write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

MADE_BY = f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager, CPU"


def digits(values: torch.Tensor) -> list[float]:
    """Enough digits to give every float32 back."""
    return [float(f"{v:.9g}") for v in values.float().reshape(-1).tolist()]


def write(path: Path, content: dict[str, Any]) -> None:
    """One line a key, so that a change shows where it is."""
    lines = [
        f"{json.dumps(k)}: {json.dumps(x, separators=(',', ':'))}"
        for k, x in content.items()
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
