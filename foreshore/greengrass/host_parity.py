"""What the Lambda host and the stream manager emulate, and what they do not."""

ROWS: list[tuple[str, str, str]] = [
    ("Lambda handlers as generic components (classic and lite)", "yes", "unmodified handler, context, json and binary"),
    (
        "Lambda parameters from component configuration",
        "yes",
        "API and on-device spellings; execArgs have no effect, which is a WARN",
    ),
    ("Pinned functions", "yes", "one instance in the host's process; a timeout ends the process and loses its queue"),
    (
        "On-demand functions",
        "yes",
        "instances are processes: per concurrent message, reused, idle stop, killed on timeout",
    ),
    (
        "Lambda container isolation, volumes, devices",
        "no",
        "a generic component is a plain process; from-lambda says so",
    ),
    ("greengrasssdk iot-data publish", "yes", "routes in the configuration replace V1 subscriptions"),
    (
        "greengrasssdk shadow calls",
        "yes",
        "on classic; on lite a ShadowError with code 501 says why there are none",
    ),
    (
        "greengrasssdk secretsmanager",
        "partly",
        "where the core has secrets; CreatedDate is 0: the IPC does not tell it",
    ),
    ("greengrasssdk lambda invoke", "partly", "between components on the Lambda host, over local publish/subscribe"),
    ("greengrasssdk and stream-manager stream clients", "yes", "see stream manager"),
    ("Greengrass V1 runtime HTTP API (GG_DAEMON_PORT)", "no", "the shims call the host in process"),
    ("AWS Lambda runtime components (LambdaManager, LambdaLauncher)", "no", "the Lambda host replaces them"),
    ("Stream manager: create, append, read, list, describe, update, delete", "yes", "protocol 1.0.0 and 1.1.0"),
    ("Stream manager: size, segments, time to live, overwrite or reject", "yes", "totalBytes counts payloads only"),
    ("Stream manager: File and Memory persistence, flushOnWrite", "yes", "SQLite; File survives kill -9"),
    ("Stream manager: update of persistence", "yes", "UpdateNotAllowed, as there; so is a maxSize below what it holds"),
    (
        "Stream manager: configuration of aws.greengrass.StreamManager",
        "partly",
        "port, folder, client authentication, bandwidth, threads, part size, LOG_LEVEL; JVM_ARGS and the Kinesis "
        "delay between calls have no effect, which is a WARN",
    ),
    ("Stream manager: export to Kinesis", "yes", "at least once; messages over 1 MB are skipped and reported"),
    (
        "Stream manager: export to S3",
        "yes",
        "one PUT or multipart by threshold and part size; status streams; InProgress is told at level DEBUG",
    ),
    ("Stream manager: export to HTTP", "yes", "RAW_NOT_BATCHED and JSON_BATCHED"),
    (
        "Stream manager: export to IoT SiteWise",
        "partly",
        "sent to the AWS endpoint; the default backend has no SiteWise, and the export status says so",
    ),
    ("Stream manager: export to IoT Analytics", "no", "AWS closed the service; refused when the stream is created"),
    (
        "Stream manager: priorities, batches, backoff, bandwidth limit",
        "yes",
        "each export one batch at a time, retried for ever at up to five minutes",
    ),
]
