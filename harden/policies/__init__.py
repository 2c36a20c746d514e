"""Policies in the formats of others: read from them, and written to them, checked against the original."""

import os

# or onnxruntime, once imported, reports its use over the network and writes an identifier below the home
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
