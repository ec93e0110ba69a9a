"""What the exit code of a command says."""

DONE = 0
"""Every row was rendered, or the command did what it was asked."""

BUG = 1
"""A fault of lynx-batch itself: a traceback was printed. Python ends a process so by itself."""

FAULTY = 2
"""An argument, the run file, the manifest or the model breaks a rule; nothing was started."""

INCOMPLETE = 3
"""Some rows were rejected or failed, or the store refused them in mid-run: running again at once changes nothing."""

STOPPED = 4
"""Stopped by the infrastructure or by somebody; running again goes on."""
