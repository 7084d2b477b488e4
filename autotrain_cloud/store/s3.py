"""Object stores that speak S3: how they are asked, and what their refusals mean.

Who asks, and where, is what every program of S3 reads: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_CA_BUNDLE, or `~/.aws`. Nothing of it
is part of a URL, so nothing secret is in settings, messages and logs.
"""

from __future__ import annotations

from typing import Any

# botocore alone would try five times for up to a minute each, and s3fs five times that: whoever
# asks has a transaction open, and tries again by itself.
OPTIONS: dict[str, Any] = {
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 15,
        "retries": {"mode": "standard", "total_max_attempts": 3},
        # Some servers answer a range with the checksum of the whole; we have digests of our own.
        "response_checksum_validation": "when_required",
    }
}
ATTEMPTS = 1  # of s3fs, each of all of botocore's
# Of one question in all: no timeout of botocore's holds while it waits to be told to send a body.
PATIENCE_S = 60

_MAY = "s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket"
_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials"
_REGION = "the bucket is in another region: set AWS_DEFAULT_REGION to it"
_SILENT = "nothing answers there: start it, or set AWS_ENDPOINT_URL to where it is"
_SLOW = "it takes connections and does not answer in time: look at its own log"
REMEDIES = {  # by code of an answer, or name of an exception of botocore
    "AccessDenied": f"these credentials may not do that here: allow them {_MAY}",
    "AllAccessDisabled": f"these credentials may not do that here: allow them {_MAY}",
    "AuthorizationHeaderMalformed": _REGION,
    "ConnectTimeoutError": _SILENT,
    "ConnectionClosedError": "it went away meanwhile; look at the object store's own log",
    "EndpointConnectionError": _SILENT,
    "FSTimeoutError": _SLOW,
    "ExpiredToken": "the credentials are no longer valid: renew AWS_SESSION_TOKEN",
    "IllegalLocationConstraintException": _REGION,
    "InternalError": "the object store failed, or is read-only or full: look at its own log",
    "InvalidAccessKeyId": "it does not know this key: correct AWS_ACCESS_KEY_ID",
    "InvalidToken": "correct AWS_SESSION_TOKEN, or leave it out",
    "NoCredentialsError": _KEYS,
    "NoSuchBucket": "there is no such bucket: make it, or correct store.blobs",
    "ParamValidationError": "correct store.blobs (expected s3://BUCKET/FOLDER)",
    "PartialCredentialsError": _KEYS,
    "PermanentRedirect": _REGION,
    "ProfileNotFound": "correct AWS_PROFILE, or ~/.aws/credentials",
    "ReadTimeoutError": _SLOW,
    "RequestTimeTooSkewed": "the clocks of this machine and of the object store differ by more than"
    " 15 minutes: set this one (NTP)",
    "SSLError": "its certificate is not trusted: set AWS_CA_BUNDLE to whom it is from",
    "SignatureDoesNotMatch": "the secret is not that of the key: correct AWS_SECRET_ACCESS_KEY",
    "SlowDown": "too many requests for it",
}


def code(error: Exception) -> str:
    """What kind of failure it is: the code of the answer, or the name of the exception."""
    for each in (error, error.__cause__):
        answer = getattr(each, "response", None)
        if isinstance(answer, dict):
            return str(answer.get("Error", {}).get("Code", ""))
    return type(error).__name__


def meaning(error: Exception) -> str:
    """What happened and what to do about it, in a line."""
    found = code(error)
    if isinstance(error, ValueError) and "endpoint" in str(error):
        return f"{error}: correct AWS_ENDPOINT_URL (expected http://HOST:PORT or https://HOST)"
    said = " ".join(str(error).split())[:200]
    remedy = REMEDIES.get(found, "")
    return "; ".join(filter(None, (f"{found}: {said}" if said else found, remedy)))
