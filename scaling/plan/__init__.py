"""`plan-family`: which family to train, where to cut it, and what it takes to run it.

`scaling.plan.cost` is the seam: what a machine takes for a forward, whoever knows it. `scaling.plan.model.predict` says
what a `Deployment` costs on such machines. Imports no torch, no onnxruntime and no relay.
"""
