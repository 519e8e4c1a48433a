"""The device and what it does at most: products by precision, and copying."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import psutil
import torch

from prbench.timing import embed, fit
from prbench.timing.gpu.part import Clock, Outcome, Setting
from prbench.training.compute import computing

PACKAGES = ("torch", "numpy", "scipy", "psutil", "threadpoolctl", "pydantic", "safetensors", "transformers")


def measure(setting: Setting, clock: Clock) -> Outcome:
    """Facts of the machine, and the product rates [operations per second] that other parts are compared with."""
    device = setting.device
    products: dict[str, float] = {}
    with computing("highest"):
        products["float32"] = embed.matmul_rate(device, torch.float32)
    # A CPU without units for it takes a minute for one product in bfloat16, and no part of prbench asks it for any.
    if setting.on_gpu:
        products["bfloat16"] = embed.matmul_rate(device, torch.bfloat16)
        with computing("high"):
            products["float32 as TF32"] = embed.matmul_rate(device, torch.float32)
    setting.rates.update(products)
    rows = [
        {"what": f"matrix product, {name}", "rate": rate / 1e12, "unit": "TFLOP/s"} for name, rate in products.items()
    ]
    rows.append({"what": "copying, read and written", "rate": fit.copy_bandwidth(device) / 1e9, "unit": "GB/s"})
    return Outcome(_facts(setting), rows)


def _facts(setting: Setting) -> dict[str, Any]:
    found: dict[str, Any] = {
        "device": setting.device,
        "cores": os.cpu_count(),
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "processor": platform.processor() or platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    if setting.on_gpu:
        properties = torch.cuda.get_device_properties(setting.device)
        found |= {
            "gpu": properties.name,
            "gpu_memory_gb": properties.total_memory / 1e9,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda or torch.version.hip,
            "gpus_here": torch.cuda.device_count(),
        }
    return found | {"versions": {name: version for name in PACKAGES if (version := _version(name))}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
