"""The scaling law of families: read runs, fit the law, certify the fit, and ask it what to train (arXiv 2512.23407).

    from pathlib import Path

    from scaling.fit import fit
    from scaling.lawfile import load_law, save_law
    from scaling.read import read_runs

    law = fit(read_runs(Path("runs.csv")).without_highest(5), "dense")
    loss, low, high = law.predict(n=[1e9, 7e9], d=2e11)
    save_law(law, Path("law.json"))

`scaling.runs.make_runs` takes arrays in place of a file. `scaling.frontier` has N*, D* and L* of a budget and the price
of a G, `scaling.budgets` all of it with intervals, `scaling.approaches` the three approaches of Hoffmann et al.,
`scaling.exits` the laws of each exit, `scaling.profile` a parameter's likelihood, `scaling.plots` the pictures. This
package imports nothing heavy by itself.
"""
