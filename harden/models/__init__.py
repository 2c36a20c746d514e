"""The world model, and roll-outs imagined in it."""
