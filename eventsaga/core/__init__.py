"""What does a saga do next? Pure and synchronous: no I/O, no clock, no randomness.

The modules are listed in import order; each imports only those before it::

    definition    what may happen         (data: nodes, policies, dependency graph)
    events        what has happened       (facts, never changed)
    commands      what is asked           (time and random numbers arrive here)
    state         where it stands         evolve(state, event) -> state
    ready         what may begin          (asked by `advance` and `react`)
    advance       what follows            (all rules about order)
    decide        what is recorded next   decide(definition, state, command) -> events
    react         what is due             react(definition, state) -> effects
"""
