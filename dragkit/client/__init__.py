"""The phone's half of a model: `SplitClient` cuts it, `Layout` says how to read what it sends."""

from dragkit.client.client import Layout, SplitClient
from dragkit.client.cut import block_path

__all__ = ["Layout", "SplitClient", "block_path"]
