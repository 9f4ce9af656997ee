"""How Hugging Face's directories name what our network computes: `config.json` both ways, and the tensors' names."""

from chatwright.model.families.config_json import classifier_of, from_hugging_face, to_hugging_face
from chatwright.model.families.layout import OUTPUT, StoredTensor, layout, own_name

__all__ = ["OUTPUT", "StoredTensor", "classifier_of", "from_hugging_face", "layout", "own_name", "to_hugging_face"]
