"""Whether the fleet hears as well as it did: telemetry in, alarms that explain themselves out.

Everything here is pure; states are frozen dataclasses that `autotrain_cloud.plain` saves as JSON.

    device = observe(device, report, received_ms=now, settings=settings)   # one row per device
    outcome = look(fleet, devices, slice_of, settings=settings, now_ms=now)  # once a day
    for alarm in outcome.opened: ...

`blocks` makes observations of reports, `baseline` says what is usual, `evidence` weighs the one
against the other, `streams` does so for the fleet, slices and devices, `looking` raises alarms and
`tickets` tickets, `wer` estimates word error rates.
"""
