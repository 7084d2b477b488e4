"""The device's agent: what is kept of what was heard, sealed, and brought to the cloud.

Needs the extra `agent`; the recogniser does without. Nothing here is imported by it.
"""
