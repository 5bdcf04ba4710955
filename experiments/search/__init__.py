"""Search: would other values of some settings help, and which? Optuna searches, and is known in this package only.

`space` says what may vary, `plan` what a study is, `trials` what one run comes to, `study` how trials follow each
other in a `storage` that several processes and machines share, `workers` starts the processes, `check` looks for faults
that no value can mend, `findings` says what was learned.
"""
