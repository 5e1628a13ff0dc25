"""Viewer response: the security headers of the page and the API."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def handler(event, context):
    """Give the response with the headers added; what the origin set itself is replaced."""
    response = event["Records"][0]["cf"]["response"]
    for name, value in HEADERS.items():
        response["headers"][name.lower()] = [{"key": name, "value": value}]
    return response
