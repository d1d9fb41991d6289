"""Where numbers go beside metrics.jsonl: one file per tracker, found by `tracking.kind`.

A file defines `open_tracker(run: FollowedRun) -> Tracker`; to add one, copy none.py (from outside:
docs/plugins.md).
"""
