"""The exit codes of all commands."""

DONE = 0
"""Every row was rendered, or the command did its work."""

BUG = 1
"""A bug in lynx-batch: it printed a traceback. This is Python's own exit code for an uncaught exception."""

FAULTY = 2
"""An argument, the run file, the manifest or the model breaks a rule. Nothing was started."""

INCOMPLETE = 3
"""Some rows were rejected or failed, or the store refused them in mid-run. Running again at once changes nothing."""

STOPPED = 4
"""Stopped by the infrastructure or by a signal. Running again continues."""
