"""From an alarm to the fleet: select, retrain, export, calibrate, gate, publish, roll out.

`policy` says whether to begin, `steps` which commands make up a run, `run` goes through them on a
durable engine (`workflows`), and `executor` starts each command as a process of its own.
"""
