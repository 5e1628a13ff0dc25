"""What CloudFront and Lambda@Edge do here, and what they do not."""

ROWS: list[tuple[str, str, str]] = [
    ("Cache behaviours, path patterns, cache and origin-request policies (managed and custom), ForwardedValues", "yes",
     "an id of a managed policy this version does not know is refused"),
    ("Cache key after a rewrite", "partly",
     "the behaviour's origin is part of the key; what AWS does when two behaviours meet at one path is not documented"),
    ("TTLs, revalidation, error caching, stale-while-revalidate, stale-if-error", "partly",
     "the cap of the two stale windows by the maximum TTL is an assumption; an Age from the origin is not counted"),
    ("Request collapsing", "yes", "not with CachingDisabled or with cookies in the key, as on AWS"),
    ("Range requests", "partly",
     "from a whole entry any ascending ranges; a part is kept under the very Range that asked for it, and not joined"),
    ("Compression", "partly", "gzip; brotli when the brotli package is installed, otherwise such viewers get gzip"),
    ("Custom error responses, default root object, origin groups", "yes", ""),
    ("Redirect to HTTPS, HTTPS only", "yes",
     "as on AWS; without an HTTPS listener the redirect's Location keeps the Host of the request"),
    ("Signed URLs and cookies", "partly",
     "checked before viewer-request (AWS does not document the order); public keys of a key group have to be given to "
     "the distribution, templates with AWS::CloudFront::KeyGroup are not made; TrustedSigners are refused"),
    ("Response-headers policies", "yes",
     "applied before viewer-response; Server-Timing has the pop, the id and the origin's time"),
    ("Lambda@Edge: four triggers, IncludeBody, generated responses, validation", "yes",
     "502 and 503 with AWS's X-Cache; some validation texts have no public source and are worded after AWS's"),
    ("Lambda@Edge: a header whose dictionary name has upper case", "partly", "taken as its lower-case form"),
    ("Lambda@Edge restrictions on the function (VPC, layers, environment, arm64, memory)", "no",
     "not checked; numbered versions in us-east-1 are"),
    ("Replicas of functions in other Regions", "no", "functions run where the edge runs"),
    ("Invalidations", "partly", "on the admin page and in process; the cloudfront control plane is not served"),
    ("CloudFront-Viewer-* geography headers", "partly",
     "only when the viewer sends them itself: there is no address database; device headers come from User-Agent"),
    ("Large bodies", "partly", "kept whole in memory, not streamed; server-sent events do not pass"),
    ("WebSocket through CloudFront, gRPC, HTTP/2, HTTP/3", "no", "HTTP/1.1 only"),
    ("CloudFront Functions, KeyValueStore, field-level encryption, real-time logs, VPC origins, continuous "
     "deployment", "no",
     "refused when a distribution has them"),
    ("Access logs, WAF, geo restriction, alternate domain names, certificates, origin access control signatures, "
     "Origin Shield, smooth streaming, response completion timeout", "no",
     "accepted in the configuration, without effect here; a WARN names those that change what viewers get"),
]  # fmt: skip
