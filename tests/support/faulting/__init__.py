"""Faults injected into whole commands, and what they leave counted.

`server` is a process that has imported everything and forks one child for each command; `faults`
are what a child does to itself on the way; `works` are the commands with the folders they fill and
what of these must come out equal; `kills`, `damages`, `disks` and `signals` are the trials, and
`campaign` counts them. The command is ``python -m tests.faults``.
"""
