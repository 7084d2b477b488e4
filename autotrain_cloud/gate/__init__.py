"""Champion against challenger: whether a new model may replace the one that devices run.

`evaluate` hears the sets, `compare` says what the differences can be due to chance, `hygiene` asks
whether the sets may be trusted, `verdict` decides and says why, `ledger` remembers.
"""
