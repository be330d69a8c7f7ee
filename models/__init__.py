"""Provide models written from scratch that return their attention, with tokenizers and loading."""

from jaxflow.models.bert import Bert, BertConfig
from jaxflow.models.config import EncoderConfig
from jaxflow.models.decoder import Decoder, DecoderConfig, QueriesKeys
from jaxflow.models.disk import load, save, save_pretrained
from jaxflow.models.encoder import AgreementEncoder
from jaxflow.models.generation import Generated, generate
from jaxflow.models.gpt2 import Gpt2, Gpt2Config
from jaxflow.models.model import Model, in_bfloat16, init, make_module, with_head
from jaxflow.models.output import Answer, EncoderOutput, Values, answer_values
from jaxflow.models.relevance import attention_relevance
from jaxflow.models.subword import SubwordTokenizer, read_tokenizer
from jaxflow.models.tokenizer import Pieces, Tokenizer, WordTokenizer
from jaxflow.models.tracing import trace
from jaxflow.models.vit import ViT, ViTConfig

__all__ = [
    "AgreementEncoder",
    "Answer",
    "Bert",
    "BertConfig",
    "Decoder",
    "DecoderConfig",
    "EncoderConfig",
    "EncoderOutput",
    "Generated",
    "Gpt2",
    "Gpt2Config",
    "Model",
    "Pieces",
    "QueriesKeys",
    "SubwordTokenizer",
    "Tokenizer",
    "Values",
    "ViT",
    "ViTConfig",
    "WordTokenizer",
    "answer_values",
    "attention_relevance",
    "generate",
    "in_bfloat16",
    "init",
    "load",
    "make_module",
    "read_tokenizer",
    "save",
    "save_pretrained",
    "trace",
    "with_head",
]
