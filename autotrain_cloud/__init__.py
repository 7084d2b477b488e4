"""The fleet's other end: takes segments in, learns from them, and brings models out.

    ingest, store          what devices send, and where it is kept
    monitor                whether the fleet hears as well as it did
    teacher, labels, selection, datasets, review     from segments to what is trained on
    pipeline, gate         from that to a bundle that may replace the one that runs
    release, rollout       to the devices, signed, in stages
    service                ties these together over the store

Training and calibration are started as processes and never imported.
"""
