"""Encoders of the tasks: small ones that need no download, and adaptors of pretrained ones."""

from lightning_normdyn.tasks.encoders.image import ImageEncoder
from lightning_normdyn.tasks.encoders.lora import Lora
from lightning_normdyn.tasks.encoders.pretrained_text import PretrainedTextEncoder
from lightning_normdyn.tasks.encoders.small_image import SmallImageEncoder
from lightning_normdyn.tasks.encoders.small_text import SmallTextEncoder
from lightning_normdyn.tasks.encoders.static_text import StaticTextEncoder
from lightning_normdyn.tasks.encoders.text import TextEncoder

__all__ = [
    "ImageEncoder",
    "Lora",
    "PretrainedTextEncoder",
    "SmallImageEncoder",
    "SmallTextEncoder",
    "StaticTextEncoder",
    "TextEncoder",
]
