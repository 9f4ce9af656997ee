"""chatwright: from raw documents to a chat model of your own, and better from the people who use it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatwright.model.chat import ChatModel, load

__version__ = "0.1.0"
__all__ = ["ChatModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Names that need PyTorch are imported when they are first used, so that small commands stay quick."""
    if name in ("ChatModel", "load"):
        from chatwright.model import chat

        return getattr(chat, name)
    raise AttributeError(f"module `chatwright` has no attribute `{name}`")
