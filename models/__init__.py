"""Models written from scratch whose attention is a pure output."""

from jaxflow.models.config import EncoderConfig
from jaxflow.models.encoder import AgreementEncoder, EncoderOutput
from jaxflow.models.model import Model
from jaxflow.models.store import load, save
from jaxflow.models.tokenizer import WordTokenizer

__all__ = [
    "AgreementEncoder",
    "EncoderConfig",
    "EncoderOutput",
    "Model",
    "WordTokenizer",
    "load",
    "save",
]
