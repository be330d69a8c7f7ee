"""Inject faults into whole commands, and count the results.

`server` forks one child for each command from a process that has imported everything, and injects
faults into it; `works` are the commands and the comparison of their folders; `trials` are kills,
damage, full disks and signals, and `campaign` counts them. Run by ``python -m tests.faults``.
"""
