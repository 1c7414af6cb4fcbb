"""A model over HTTP: one scan comes in, its score goes out, and nothing of it is kept."""

from fanogan.serve.address import address_of, listening
from fanogan.serve.gate import Settings
from fanogan.serve.served import Load
from fanogan.serve.service import serve

__all__ = ["Load", "Settings", "address_of", "listening", "serve"]
