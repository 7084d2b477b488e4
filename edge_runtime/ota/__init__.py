"""Model updates that no crash, power cut or attacker turns into a device without a working model.

========== ==================================================================================
`update`   the life of an update as a table: states, events, and a pure function between them
`record`   what the device remembers about it, in one durable, checksummed record
`slots`    where the bundles are: A, B and golden; what is loaded, staged and wiped
`delta`    a new model as what differs from one that is here
`fs`       the few file operations all of this is made of, so that tests can cut the power
========== ==================================================================================
"""
