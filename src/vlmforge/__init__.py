"""vlmforge trains language and vision-language models from declarative recipes."""

__version__ = "0.1.0"
