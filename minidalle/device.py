"""Where to compute and how precisely, decided in one place, with the reason.  (Chapter 13)"""

import torch


def choose_precision(device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype of autocast on a device, and the reason in words."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16, "this GPU multiplies bfloat16 natively"
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16, "this processor multiplies bfloat16 natively"
    return torch.float32, f"no native bfloat16 on this {device.type}"


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision where the device has it; otherwise float32."""
    dtype, _ = choose_precision(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
