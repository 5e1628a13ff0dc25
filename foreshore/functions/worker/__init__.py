"""The code that runs inside a worker process, loaded by path: standard library only, nothing else of Foreshore."""
