"""What does a saga do next? Pure and synchronous: no I/O, no clock, no randomness.

The modules are listed in import order; each imports only those before it::

    definition    what may happen         (data: nodes and policies)
    graph         in which order          (what stands before what, both ways)
    shape         which shape is it       (fingerprint, and back from a recorded one)
    events        what has happened       (facts, never changed)
    commands      what is asked           (time and random numbers arrive here)
    state         where it stands         (data, read-only for all but its owner)
    evolve        what an event changes   evolve(state, event) -> state
    answers       what the user answers   (predicates, items, durations)
    ready         what may begin          (asked by `advance` and `react`)
    draft         a decision being made   (its events, and the state they lead to)
    conflict      which results disagree
    forward       what begins             backward    what is compensated
    advance       what follows            (all rules about order)
    attempts      what became of an attempt
    verbs         what a person may ask   requests    what outside says
    decide        what is recorded next   decide(definition, state, command) -> events
    react         what is due             react(definition, state) -> effects
"""
