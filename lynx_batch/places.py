"""Which URIs name a place that all processes of a run share and that outlives them."""

WRITABLE = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
READABLE = (*WRITABLE, "http", "https")


def explain_place(uri: str, schemes: tuple[str, ...]) -> str | None:
    """The rule that `uri` breaks, or None. A memory store ends with its process; a chained or caching URL is private to each process."""
    if not uri.strip():
        return "must not be empty"
    scheme, separator, rest = uri.partition("://")
    if scheme == "file" and separator and not rest.startswith("/"):
        return "must be file:/// and an absolute path"
    if not separator or scheme in schemes:
        return None
    return f"must be a path or a URI with one of the schemes {', '.join(schemes)}, and not a chained URL"
