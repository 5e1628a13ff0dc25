"""The one store of spans and log lines, and the readers of it.

`recorder` takes spans and log lines from every room and writes them in batches; `store` is the SQLite schema and the
queries that the CLI, the console and the tests read with.
"""
