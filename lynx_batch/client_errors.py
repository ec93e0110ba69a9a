"""What can be read from an error of a store's client, where every library has another name for it."""

from collections.abc import Iterator


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def types_of(error: BaseException) -> set[str]:
    """The names of its classes, of their bases, and of those of its causes."""
    return {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}


def code_of(error: BaseException) -> str | None:
    """What the store calls it: S3 in the body of its answer, Azure in a header."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        code = (
            response.get("Error", {}).get("Code") if isinstance(response, dict) else getattr(link, "error_code", None)
        )
        if code:
            return str(getattr(code, "value", code))
    return None


def status_of(error: BaseException) -> int | None:
    """Its HTTP status, for which every library has another name."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        given = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")] if isinstance(response, dict) else []
        for status in (*given, *(vars(link).get(name) for name in ("status", "status_code", "code"))):
            if str(status).isdecimal():
                return int(str(status))
    return None


def unwrapped(error: BaseException) -> BaseException:
    """What botocore wraps as unhandled, and names no cause of."""
    if type(error).__name__ != "HTTPClientError":
        return error
    inner = getattr(error, "kwargs", {}).get("error")
    return inner if isinstance(inner, BaseException) else error
