"""A fuzzer of everything that jaxflow reads: hostile files in, an answer or one `InputError` out.

`cases` says what a case and a reader are, `check` holds one against the contract, `mutate_*` make
cases of good files, `readers_*` list the readers with their good files and their oracles,
`campaign` runs millions, and `strategies` are Hypothesis's own way to the same readers. The
command is ``python -m tests.fuzz``.
"""
