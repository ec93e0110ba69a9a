"""Softmax attention of one sequence, through the kernel that was chosen."""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(query_BTHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
    """Attention of T queries over S keys, per head; (B, T, H, D)."""
    query, key, value = (x.transpose(1, 2) for x in (query_BTHD, key_BSHD, value_BSHD))
    return scaled_dot_product_attention(query, key, value).transpose(1, 2)
