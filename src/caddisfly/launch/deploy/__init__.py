"""Deploys: from a config and an image to Machines that run it, or to the Machines as they were.

    plan ──▶ leases ──▶ release record ──▶ release command ──▶ canary ──▶ create ──▶ replace ──▶ remove ──▶ complete
                              │                  │               │          │          │
                              │                  ╰───────────────┴──────────┴──────────┴──✗──▶ undo ──▶ failed
                              ╰─ says what was done, so that the next deploy goes on where this one was killed

`plan` decides everything that can be decided beforehand and touches nothing; what it decides is shown first. What
happens then happens through a `Fleet`, which notes how every Machine was before it is touched. Nothing of the old
version is removed until the new one is well, so that everything up to there can be undone.
"""
