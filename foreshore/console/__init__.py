"""The console: one page in a browser that shows the endpoints and the live flow. Starlette and server-sent events."""
