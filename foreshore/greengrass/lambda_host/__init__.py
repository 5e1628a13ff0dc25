"""The Lambda host: runs an unmodified Lambda handler as a generic Greengrass component over plain IPC.

It is shipped into a component's artifacts as `lambda_host.pyz` (built by `foreshore.greengrass.host_artifact`), where
this package is named `foreshore_lambda_host`; so it imports nothing of foreshore, and its modules import one another
relatively. It runs on the classic nucleus, on nucleus lite and on Foreshore's core: it uses only operations that all
three have, unless the handler itself asks for more (shadows, secrets).

A delivered message goes wire -> `host.Host.accept` (queue) -> `host.Host.run` (the handler, in the main thread). What
the handler publishes goes greengrasssdk -> `shims` -> `services.Services` -> `host.Outbox` -> wire.
"""
