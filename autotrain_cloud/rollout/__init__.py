"""A release reaches the fleet in stages, and goes back by itself if it is bad.

Everything here is pure: facts and the time come in, entries of an append-only log come out, and the
state is whatever the entries make it.

    rollout = Rollout(plan)                       # or Rollout.replay(plan, entries) after a restart
    entries = rollout.tick(now_ms)                # save them; then act on rollout.target(device)

`plan` says what is to happen, `states` what may follow what, `log` what can have happened,
`failures` and `quality` judge, `controller` decides.
"""
