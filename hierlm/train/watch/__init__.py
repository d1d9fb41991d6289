"""Who looks after an attempt while it runs: stop signals, heartbeats and hangs, slow ranks."""
