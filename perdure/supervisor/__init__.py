"""The process beside the worker: it listens, starts, watches, and starts again.

What it guarantees is that one object cannot take the others down for good. A turn that never ends
and an event that ends its process are named, counted, and after three deaths set aside.
"""
