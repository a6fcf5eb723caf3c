"""Who does the work? A worker that owns sagas, drives each by its state, and recovers them.

The modules in import order::

    clock      what time is it          the database's, carried on by the monotonic clock
    http       what a step sends        keys and correlation ids on every request
    context    what a step is given     `StepContext`
    threads    where plain functions run
    answers    what the user answers    predicates, items and durations, checked
    patch      what a step returned     checked against the context's model
    prepare    how a saga begins        its input checked, its first events
    mail       what messages mean       commands in, messages out
    process    who is gone              dead processes of this machine
    outcome    what an error means      failed, in doubt, wait
    execute    how an attempt runs      one function call, one outcome
    host       what a run needs         of the worker that owns it
    run        one saga in memory       commands in, appends and attempts out
    recover    how does it go on        a replay, then one command
    lease      may this worker act      heartbeat and its margin
    waiting    who waits for an end     told here, or polled for
    limits     may an attempt begin     permits that all workers share
    schedule   what is due by calendar  each slot once, over all workers
    worker     all sagas of a process   claim, recover, mail, drain
"""
