"""Prompts of the planner as token ids."""

from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt
from planner import Prompt


def encode_prompt(chat: ChatTokenizer, prompt: Prompt) -> TokenizedPrompt:
    """Tokenize a prompt, as the backends do: one message per segment, then the header of the answer."""
    return chat.encode((segment.role, segment.text, segment.protected) for segment in prompt.segments)
