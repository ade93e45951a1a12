"""The draft head: a small recurrent network that guesses the next tokens of an answer from one hidden state of the model.

After Recurrent Drafter (arXiv 2403.09919), which conditions such a network on the model's last hidden state, as Medusa's heads
(arXiv 2401.10774) are. Here it reads the whole answer so far, so it knows what a line began with. It guesses where nothing can be
copied from, as in a first plan. A guess changes no answer: it is verified as any draft.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from erecap.models.identity import ModelIdentity
from erecap.models.network_files import NetworkFiles

_FILES = NetworkFiles("draft head", "draft_head", "erecap train-draft-head", (1,))
WEIGHTS_FILE, CONFIG_FILE = _FILES.weights, _FILES.config
WIDTH, AHEAD = 192, 6


class DraftHeadMismatchError(ValueError):
    """An error for a draft head that was trained for another model than the present one."""


class DraftHead(nn.Module):
    """A network that guesses tokens of an answer. Its guesses are features for the model's own output matrix.

    Parameters
    ----------
    identity
        Identity of the model that it is trained for.
    width
        Width of the recurrent state.
    ahead
        How many tokens it guesses after one hidden state.

    Raises
    ------
    ValueError
        For a width or a number of tokens below 1.
    """

    def __init__(self, identity: ModelIdentity, width: int = WIDTH, ahead: int = AHEAD) -> None:
        super().__init__()
        if width < 1 or ahead < 1:
            raise ValueError(f"width={width}, ahead={ahead}: give a width and a number of tokens of at least 1")
        self.identity, self.width, self.ahead = identity, width, ahead
        size = identity.hidden_size
        self.reader = nn.GRU(size, width, batch_first=True)
        self.places = nn.Embedding(ahead, width)
        self.up = nn.Linear(size + width, 2 * size)
        self.down = nn.Linear(2 * size, size)
        self.norm = nn.LayerNorm(size)

    def read(self, embeddings: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read tokens of an answer.

        Parameters
        ----------
        embeddings
            Their input embeddings, float ``(rows, n, hidden_size)``.
        state
            State behind the tokens before, float32 ``(1, rows, width)``; ``None`` at the answer's beginning.

        Returns
        -------
        tuple of Tensor
            The state behind each token, float32 ``(rows, n, width)``, and the last one as ``state``.
        """
        states, last = self.reader(_normal(embeddings), state)
        return states, last

    def forward(self, hidden: Tensor, states: Tensor, place: int) -> Tensor:
        """Compute the features of the token that comes ``place`` tokens after the next one.

        Parameters
        ----------
        hidden
            Hidden state after the model's final norm, from which it wrote a token of the answer, float ``(..., hidden_size)``.
        states
            State behind the last token before the one to guess, float32 ``(..., width)``. That is the token written from
            ``hidden`` for place 0, and one more guess for each further place.
        place
            Number of guesses before this one, below ``ahead``.

        Returns
        -------
        Tensor
            Input of the model's output matrix, float32 ``(..., hidden_size)``.
        """
        features = torch.cat([_normal(hidden), states + self.places.weight[place]], -1)
        made: Tensor = self.norm(self.down(functional.gelu(self.up(features))))
        return made

    def check_model(self, model: ModelIdentity) -> None:
        """Raise ``DraftHeadMismatchError`` unless this head was trained for ``model``; the message names both models."""
        if not self.identity.matches(model):
            raise DraftHeadMismatchError(
                f"the draft head was trained for {self.identity.describe()}, the model is {model.describe()}: use the head of this "
                "model, train one with `erecap train-draft-head`, or leave it out (draft=plan+context)"
            )

    def save_pretrained(self, directory: Path | str) -> None:
        """Write weights (safetensors) and configuration (JSON) into ``directory``. Make the directory if it is missing."""
        _FILES.save(directory, self, self.identity, {"width": self.width, "ahead": self.ahead})

    @classmethod
    def from_pretrained(cls, directory: Path | str, model: ModelIdentity | None = None) -> "DraftHead":
        """Read what ``save_pretrained`` wrote, in evaluation mode.

        Parameters
        ----------
        directory
            The head's directory.
        model
            The model whose answers it will guess; ``None`` skips the check.

        Raises
        ------
        DraftHeadMismatchError
            For the head of another model.
        ValueError
            For a directory without a head, or with one that is broken or of another format.
        """
        head = _FILES.load(directory, lambda identity, saved: cls(identity, saved["width"], saved["ahead"]))
        if model is not None:
            head.check_model(model)
        return head


def _normal(values: Tensor) -> Tensor:
    return functional.layer_norm(values.float(), values.shape[-1:])
