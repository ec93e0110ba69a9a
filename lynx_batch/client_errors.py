"""Facts from a client library's error: its types, the store's error code, the HTTP status. Every library stores them differently."""

from collections.abc import Iterator


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def types_of(error: BaseException) -> set[str]:
    """The class names of the error and of its causes, base classes included."""
    return {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}


def code_of(error: BaseException) -> str | None:
    """The store's own error code. S3 sends it in the response body, Azure in a header."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        code = (
            response.get("Error", {}).get("Code") if isinstance(response, dict) else getattr(link, "error_code", None)
        )
        if code:
            return str(getattr(code, "value", code))
    return None


def status_of(error: BaseException) -> int | None:
    """The HTTP status."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        statuses = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")] if isinstance(response, dict) else []
        for status in (*statuses, *(vars(link).get(name) for name in ("status", "status_code", "code"))):
            if str(status).isdecimal():
                return int(str(status))
    return None


def unwrapped(error: BaseException) -> BaseException:
    """The error inside botocore's HTTPClientError, which wraps unhandled errors without setting a cause; else `error` itself."""
    if type(error).__name__ != "HTTPClientError":
        return error
    inner = getattr(error, "kwargs", {}).get("error")
    return inner if isinstance(inner, BaseException) else error
