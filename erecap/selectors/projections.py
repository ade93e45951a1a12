"""The queries and keys that a layer computes from hidden states. Selectors without training score by them."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from erecap.distributed.tensor_parallel import gather_heads
from erecap.models.architecture import decoder_parts
from erecap.selectors.base import SelectorContext


class Projections:
    """The input norms and projections of a model's layers, by the names that Qwen2, Qwen3, Llama and Mistral share.

    ``hidden`` is the residual stream that enters ``layer``, ``(batch, n, hidden_size)``; ``positions`` are int64 ``(batch, n)``.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._parts, self._model = decoder_parts(model), model

    @classmethod
    def of(cls, context: SelectorContext, selector: str) -> "Projections":
        """Make the projections from the context's model. Raise ``ValueError``, naming ``selector``, where it has none."""
        if context.model is None:
            raise ValueError(f"the selector {selector!r} reads the model's projections and got no model: give one in the context")
        return cls(context.model)

    def keys(self, hidden: Tensor, layer: int) -> Tensor:
        """Compute keys before rotation, ``(batch, n, kv_heads, head_dim)``."""
        return self._project(hidden, layer, "k")

    def rotated_keys(self, hidden: Tensor, positions: Tensor, layer: int) -> Tensor:
        """Compute keys rotated to their positions, ``(batch, kv_heads, n, head_dim)``."""
        return self._rotated(self.keys(hidden, layer), hidden, positions)

    def queries(self, hidden: Tensor, positions: Tensor, layer: int) -> Tensor:
        """Compute queries rotated to their positions, ``(batch, heads, n, head_dim)``."""
        return self._rotated(self._project(hidden, layer, "q"), hidden, positions)

    def _project(self, hidden: Tensor, layer: int, which: str) -> Tensor:
        module: Any = self._parts.layers[layer]
        attention = module.self_attn
        heads = getattr(attention, f"{which}_proj")(module.input_layernorm(hidden)).unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, f"{which}_norm", None)
        made = heads if norm is None else norm(heads)
        return gather_heads(self._model, made).to(hidden.device)  # the layer may compute on another device

    def _rotated(self, heads: Tensor, hidden: Tensor, positions: Tensor) -> Tensor:
        cos, sin = (table.to(hidden.device) for table in self._parts.rotary(hidden, positions))
        turned, _ = apply_rotary_pos_emb(heads.transpose(1, 2), heads.transpose(1, 2)[:, :1], cos, sin)
        return turned  # type: ignore[no-any-return]  # transformers' function is untyped
