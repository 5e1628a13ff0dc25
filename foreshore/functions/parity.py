"""The Lambda rows of the parity table: (feature, "yes" | "partly" | "no", note)."""

ROWS: list[tuple[str, str, str]] = [
    ("Runtime API 2018-06-01 (next, response, error, init/error)", "yes", "one loopback port an environment"),
    (
        "Runtime clients",
        "yes",
        "a thin one of ours, awslambdaric, or a bootstrap with provided.*; equal bytes are tested",
    ),
    (
        "Runtimes",
        "partly",
        "Python and provided.*; Python functions run on this machine's Python and processor, whatever Runtime and "
        "Architectures say",
    ),
    (
        "Container images, layers by ARN, VPC, EFS, SnapStart",
        "no",
        "refused; a template's VpcConfig and SnapStart are a WARN, its layers from local folders work",
    ),
    ("Cold start", "yes", "forked from a warm server on Linux; a new process on macOS and Windows"),
    ("Init: 10 s limit, second try inside the first invocation, INIT_REPORT", "yes", ""),
    ("Result and error payloads, timeout, exit, out of memory, too large", "yes", "as recorded against AWS"),
    ("Stack traces", "partly", "name the real files, not /var/task"),
    ("Memory limit", "partly", "Linux: resident memory read every 5 ms; MemorySize does not slow the CPU"),
    ("Ephemeral storage limit, read-only /var/task", "no", "the code folder is the user's own"),
    ("Freeze between invocations", "yes", "SIGSTOP after 50 ms of idleness"),
    ("Log lines START, END, REPORT, log tail", "yes", "go to the trace store, not to CloudWatch Logs"),
    (
        "LogFormat JSON",
        "partly",
        "ApplicationLogLevel and the runtime's own lines; START, END and REPORT stay text, SystemLogLevel is a WARN",
    ),
    ("KMSKeyArn, SourceKMSKeyArn", "partly", "the first is kept and shown; nothing is encrypted"),
    ("Reserved concurrency and throttling", "yes", ""),
    (
        "Account concurrency of 1,000",
        "partly",
        "over this machine's limit (64 environments) invocations wait, never refused",
    ),
    ("Provisioned concurrency", "no", "NotEmulated"),
    (
        "Invoke: RequestResponse, Event, DryRun, qualifiers, client context",
        "yes",
        "1 MB asynchronous, 6 MB synchronous",
    ),
    (
        "InvokeWithResponseStream",
        "partly",
        "one PayloadChunk from a buffered function, parts as they come from a bootstrap",
    ),
    (
        "Asynchronous retries, event age, destinations, dead letters",
        "yes",
        "SQS, SNS, Lambda, EventBridge, S3; kept over kill -9",
    ),
    ("Versions, weighted aliases", "yes", "a version of a template's function runs the folder's current files"),
    ("Permissions, roles", "partly", "statements are kept and shown; local callers are not checked against them"),
    ("Function URLs", "partly", "BUFFERED only; AuthType AWS_IAM is not checked"),
    (
        "HTTP APIs: routes, payload formats 1.0 and 2.0, CORS",
        "yes",
        "Lambda proxy integrations; the 30 s limit is kept",
    ),
    (
        "HTTP APIs: authorizers, custom domains, stage variables, other integrations",
        "no",
        "a template that has them is refused",
    ),
    ("REST APIs (API Gateway v1), WebSocket APIs", "no", "refused"),
    ("Event sources: SQS", "yes", "batches, windows, filters, partial failures; a FIFO queue runs one batch at a time"),
    (
        "Event sources: Kinesis, DynamoDB streams",
        "yes",
        "retries, bisection, age, parallel lanes, filters, checkpoints",
    ),
    ("Tumbling windows", "partly", "a restart begins the open window anew; not together with parallel lanes"),
    ("Event sources: Kafka, MQ, DocumentDB", "no", "refused"),
    (
        "Event sources: provisioned pollers, metrics, logging",
        "no",
        "refused by the API, a WARN for a template; a KMSKeyArn for filters is not used",
    ),
    ("Environment variables", "partly", "AWS's, without the X-Ray daemon's address: there is no daemon here"),
    ("Extensions and Telemetry API", "no", "the Runtime API answers 404 and says so in the log"),
    ("Code signing, capacity providers, durable executions, tenants, recursion loop control", "no", "refused"),
]
