"""CloudFront's and Lambda@Edge's sizes, in bytes or characters. Pure.

Sources: CloudFront Developer Guide, "Quotas" and "Restrictions on Lambda@Edge".
"""

MAX_URL = 8_192
MAX_REQUEST_HEAD = 20_480
VIEWER_BODY = 40 * 1024
ORIGIN_BODY = 1024 * 1024
VIEWER_GENERATED = 40 * 1024
ORIGIN_GENERATED = 1024 * 1024
COMPRESS_MIN = 1_000
COMPRESS_MAX = 10_000_000
MAX_BEHAVIORS = 75
MAX_ORIGINS = 100
MAX_ORIGIN_GROUPS = 10
MAX_PATH_PATTERN = 255
MAX_TRIGGER_FUNCTIONS = 100
CACHE_BYTES = 256 * 1024 * 1024


def base64_limit(plain: int) -> int:
    """How long the base64 of a body of `plain` bytes may be (53.2 KB for 40 KB, 1.33 MB for 1 MB)."""
    return (plain + 2) // 3 * 4
