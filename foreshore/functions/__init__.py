"""Lambda: functions, their execution environments, the Runtime API, invocations, HTTP APIs and event sources.

`service.py: Functions` is the room's shell and its public face. One invocation passes three files: `service.py` (find
the function), `invocations.py` (find or start an environment), `environments.py` (talk to the worker).
"""
