"""The modules that unmodified greengrasssdk imports and that exist only in the Lambda runtime of a Greengrass core.

`build_host` puts `greengrass_common` and `greengrass_ipc_python_sdk` at the root of the host's archive, so that
`import greengrass_common` finds them.
"""
