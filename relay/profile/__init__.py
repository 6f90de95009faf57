"""What a machine takes for a bundle: forwards, memory, whole texts, the way upstream (`relay-node profile`).

A profile holds what was measured (`family.profile`); what follows from it is the planner's.
"""
