"""Model updates that no crash, power cut or attacker turns into a device without a working model.

========== ==================================================================================
`updater`  what an agent holds: looks, downloads, tests, switches, watches, tells
`settings` the table [update] of agent.toml
`update`   the life of an update as a table: states, events, and a pure function between them
`record`   what the device remembers about it, in one durable, checksummed record
`slots`    where the bundles are: A, B and golden; what is loaded, staged and wiped
`trust`    what a repository says, and whether to believe it
`compat`   what a release needs against what the device is; `facts` finds that out
`selftest` whether a staged model may run; `health` whether one on probation is kept
`delta`    a new model as what differs from one that is here
`audit`    what happened, as a chain of hashes; `reports` puts it into words
`http`     files over a line that may be slow, cut or wrong
`lock`     one updater at a time
`durable`  a few bytes that must not be lost
`fs`       the few file operations all of this is made of, so that tests can cut the power
========== ==================================================================================
"""
