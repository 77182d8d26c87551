"""Floor 5 · whole jobs that join rooms; what the command line and the Python API both call.

Comes in: what a person asked.  Goes out: a finished folder, or figures.  Never: prints (it tells a `Watcher`), parses.
Start reading: fit.py from `fit` down; plan.py decides what it does.
Nothing is imported here, because choose.py and watch.py do without torch.
"""
