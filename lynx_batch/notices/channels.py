"""Ways to deliver a notice: a signed webhook, and the services that the package apprise knows."""

import base64
import binascii
import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from importlib.util import find_spec

from lynx_batch.config import NotifyConfig
from lynx_batch.config.references import (
    STANDARD_SECRET,
    WEB_SCHEMES,
    environment_name,
    explain_address,
    mask_address,
    scheme_of,
)
from lynx_batch.errors import ConfigError
from lynx_batch.named_files import read_reference
from lynx_batch.notices.notice import Notice

TIMEOUT_S = 10.0
MAX_SECRET_BYTES = 4096

Send = Callable[[str, Notice], None]
"""Delivers a notice under an id, which is the same for each try. Raises NotSent."""


class NotSent(Exception):
    """A notice was not delivered. The message holds no address and nothing that the receiver answered."""


def open_channel(key: str, config: NotifyConfig) -> tuple[str, Send]:
    """What may be shown of the address, and how to send to it. `key` is that of `config` in the run file.

    Raises:
        ConfigError: If the address or the secret breaks a rule, or a package is missing.
        MissingFile, InputRefused, StoreRefused, StoreUnavailable: As `read_reference`.
    """
    url = _read_address(f"{key}.url", config.url)
    shown = mask_address(url)
    if scheme_of(url) in WEB_SCHEMES:
        secret = None if config.secret is None else _read_secret(f"{key}.secret", config.secret)
        return shown, lambda notice_id, notice: _post(url, secret, notice_id, notice)
    if config.secret is not None:
        raise ConfigError(f"{key}.secret: only a webhook (http://, https://) is signed, not {shown}")
    return shown, _open_service(f"{key}.url", url, shown)


def sign(secret: bytes, notice_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`. Source: the specification of Standard Webhooks, version 1.0.0."""
    signed = b".".join((notice_id.encode(), str(timestamp).encode(), body))
    return f"v1,{base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()}"


def _read_address(key: str, address: str) -> str:
    if environment_name(address) is None:
        return address
    url = read_reference(key, address, MAX_SECRET_BYTES).decode().strip()
    rule = "must not name another variable" if environment_name(url) is not None else explain_address(url)
    if rule is not None:
        raise ConfigError(f"{key}={address!r}: its content {rule}")
    return url


def _read_secret(key: str, reference: str) -> bytes:
    """The bytes to sign with: after `whsec_`, what base64 encodes; else the text itself."""
    text = read_reference(key, reference, MAX_SECRET_BYTES).strip()
    encoded = text.removeprefix(STANDARD_SECRET.encode())
    try:
        secret = text if encoded == text else base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ConfigError(f"{key}={reference!r}: what follows {STANDARD_SECRET} must be base64") from None
    if not secret:
        raise ConfigError(f"{key}={reference!r}: must not be empty")
    return secret


def _post(url: str, secret: bytes | None, notice_id: str, notice: Notice) -> None:
    """One POST. It follows no redirect and reads nothing of the answer but its status."""
    import httpx2

    body, timestamp = notice.as_json(), int(time.time())
    headers = {"content-type": "application/json", "webhook-id": notice_id, "webhook-timestamp": str(timestamp)}
    if secret is not None:
        headers["webhook-signature"] = sign(secret, notice_id, timestamp, body)
    try:
        with httpx2.stream("POST", url, content=body, headers=headers, timeout=TIMEOUT_S) as response:
            status = response.status_code
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        raise NotSent(type(error).__name__) from None
    if not 200 <= status < 300:
        raise NotSent(f"status {status}")


def _open_service(key: str, url: str, shown: str) -> Send:
    if find_spec("apprise") is None:
        raise ConfigError(f"{key}: {shown} needs the package apprise: pip install 'lynx-batch[notify]'")

    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its messages may hold parts of addresses
    if apprise.Apprise.instantiate(url) is None:
        raise ConfigError(f"{key}: {shown} is no address that apprise {apprise.__version__} knows")

    def send(notice_id: str, notice: Notice) -> None:
        service = apprise.Apprise()
        service.add(url)
        try:
            is_sent = service.notify(body=notice.text, title=notice.title)
        except Exception as error:  # noqa: BLE001  a plugin may raise anything
            raise NotSent(type(error).__name__) from None
        if not is_sent:
            raise NotSent("apprise could not deliver it")

    return send
