"""Who does the work? A worker that owns sagas, drives each by its state, and recovers them.

The modules in import order::

    clock      what time is it          the database's, carried on by the monotonic clock
    http       what a step sends        keys and correlation ids on every request
    context    what a step is given     `StepContext`
    outcome    what an error means      failed, in doubt, wait
    execute    how an attempt runs      one function call, one outcome
    run        one saga in memory       commands in, appends and attempts out
    recover    how does it go on        a replay, then one command
    lease      may this worker act      heartbeat and its margin
    waiting    who waits for an end     told here, or polled for
    limits     may an attempt begin     permits that all workers share
    schedule   what is due by calendar  each slot once, over all workers
    worker     all sagas of a process   claim, recover, mail, drain
"""
