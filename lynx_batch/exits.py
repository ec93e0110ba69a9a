"""Exit codes of all commands."""

SUMMARY = (
    "Exit codes: 0 done; 1 a bug; 2 a rule is broken, nothing was started; 3 finished, but not everything is well; "
    "4 stopped, run it again; 5 a limit was reached. jobs/README.md, 'Exit codes', says more."
)
"""What `--help` says about them."""

DONE = 0
"""Every row was rendered, or the command did what it was asked to do."""

BUG = 1
"""A bug in lynx-batch. It prints a traceback; this is Python's own exit code for an uncaught exception."""

FAULTY = 2
"""An argument, the run file, the manifest or the model breaks a rule, or the store refuses access. Nothing was started."""

INCOMPLETE = 3
"""Some rows were rejected or failed, or the store withdrew a right during the run. Running again changes nothing by itself."""

STOPPED = 4
"""The infrastructure or a signal stopped the command. Run it again to continue."""

LIMITED = 5
"""A limit of the run file (`limits`) stopped the run. What was running is finished. Run it again once the limit allows more."""
