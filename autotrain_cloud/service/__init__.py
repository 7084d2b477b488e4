"""The loop that closes: telemetry to alarms, alarms to retrainings, retrainings to the fleet.

    watch    telemetry out of the store, into the monitor; alarms into the store
    learn    alarms to runs of the pipeline; what was published to a rollout
    roll     rollouts: who may update when, by what devices report
    journal  what happened, for people

Each has a `step` that does what is due and can be killed anywhere: what it decided is in the store
before anything is done about it, and doing it again changes nothing.
"""
