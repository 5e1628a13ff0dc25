"""Viewer request: one form of each request, so that equal requests share one cache entry.

`/api/…` loses its prefix (the HTTP API knows no `/api`), the query keeps only the parameters that mean something, in
order, and a path that names a folder asks for its index page.
"""

from urllib.parse import parse_qsl, urlencode

API_PREFIX = "/api"
API_PARAMETERS = ("limit", "next")


def handler(event, context):
    """Give the request as it is to be looked up and forwarded."""
    request = event["Records"][0]["cf"]["request"]
    uri = request["uri"]
    if uri == API_PREFIX or uri.startswith(API_PREFIX + "/"):
        request["uri"] = uri[len(API_PREFIX) :] or "/"
        request["querystring"] = normal_query(request["querystring"])
    else:
        request["querystring"] = ""
        if uri.endswith("/"):
            request["uri"] = uri + "index.html"
    return request


def normal_query(text):
    """The known parameters, sorted; the last value of each."""
    values = dict(parse_qsl(text))
    return urlencode([(name, values[name]) for name in API_PARAMETERS if name in values])
