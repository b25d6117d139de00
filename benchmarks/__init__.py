"""How fast accountledger decodes, ingests and replays, side by side with the alternatives: `python -m benchmarks`.

Uses the public API only, as any program would. Every claim is a ratio of two sides measured in one run.
"""
