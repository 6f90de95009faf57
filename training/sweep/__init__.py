"""IsoFLOP sweeps of families: budgets x sizes x granularity x placement x seeds (arXiv 2512.23407, section 3.3).

`design` is what a person writes, `plan` what follows from it run by run, `corpus` the text, `loop` one run's training,
`rows` what a run leaves behind, `work` and `cluster` who does which run, `rate` the learning-rate rule, `plot` the
pictures.
"""
