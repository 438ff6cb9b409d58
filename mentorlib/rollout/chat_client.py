"""Chat completions of one OpenAI-compatible server: requests are spaced, retried, and given up for a stated reason.

Transient errors (429, 5xx, time-outs, connection errors, garbled replies) are retried with exponential backoff and
jitter. A request that fails although the server answers others is a ConversationRefused; a server that answers no
request is a ServerGone; an error that no retry can fix (a wrong key or model) is an InputError.

The key is OPENAI_API_KEY of the environment, and goes nowhere but into the request's header.
"""

import math
import os
import threading
import time
from email.utils import parsedate_to_datetime
from typing import Any

import openai
import tenacity

from ..core import InputError
from ..runs.run import API_KEY_VARIABLE
from .names import check_server
from .replies import GARBLED, ErrorReply, UnreadableReply, parse_reply

FIRST_CONTACT_SECONDS = 15.0  # of retries while the server has not been reached yet: the address is probably wrong
MAX_HTTP_500_TRIES = 8  # of one request, at a server that has answered others: it fails on this request
MAX_HTTP_500_REQUESTS = 8  # given up in a row, without a reply in between: the server fails on everything
MIN_COMPLETION_TOKENS = 64  # fewer are not asked for when the context is nearly full
HTTP_500 = "HTTP 500"
ERROR_IN_REPLY = "error in the reply: "
MIN_SECRET = 16  # characters; shorter keys are placeholders of local servers ("EMPTY", "x"), and may be in any text


class TransientError(Exception):
    """An error that may be gone when the request is repeated; ``retry_after``: seconds the server asks to wait."""

    def __init__(self, reason: str, retry_after: float = 0.0):
        super().__init__(reason)
        self.retry_after = retry_after


class ConversationRefused(Exception):
    """The server does not answer this request, while it answers others."""


class ContextFull(Exception):
    """The messages fill the model's context."""


class ServerGone(Exception):
    """A server that answered before has stopped answering; the text is its last error."""


class ChatClient:
    """A client for one model at one server; safe to use from several threads.

    Args:
        url, model, per_minute, timeout, patience: see Endpoint.
        answered: whether the server has answered before (in the run's log).

    Raises:
        InputError: an invalid address, one that contains a password, or a negative rate.
    """

    def __init__(self, url: str, model: str, *, per_minute: float, timeout: float, patience: float, answered: bool):
        check_server(url, model)
        if not 0 <= per_minute < math.inf:
            raise InputError(f"per_minute={per_minute}: requests a minute, or 0 for no limit")
        self.url, self.model, self.timeout, self.patience = url, model, timeout, patience
        self._interval = 60 / per_minute if per_minute else 0.0  # seconds between requests
        self._next_start = 0.0  # when the next request may start (time.monotonic)
        self._client = openai.OpenAI(
            base_url=url,
            api_key=os.environ.get(API_KEY_VARIABLE) or "none",  # the client requires one, local servers do not
            max_retries=0,
            timeout=openai.Timeout(timeout, connect=min(10.0, timeout)),
        )
        self._limit_name = "max_tokens"
        self._lock = threading.Lock()
        self.retries = 0
        self.reached = False  # whether the server received a request, even if it failed on it
        self.answered = answered
        self.last_reply = -math.inf  # time.monotonic
        self.failed_in_a_row = 0  # requests given up for errors of their own since the last reply

    def complete(self, request: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        """Ask until there is a reply, with half as many tokens where the context has no room for all of them.

        Args:
            request: model, messages, tools, temperature, max_tokens.
            stop: ends all waiting; the request is then refused.

        Returns:
            A reply as ``parse_reply`` gives it, with ``failures`` (one text a retry) and ``seconds``.

        Raises:
            ConversationRefused, ContextFull, ServerGone, InputError: see the top of this file.
        """
        failures: list[str] = []
        begun = time.monotonic()
        while True:
            try:
                reply = self._retrying(stop, failures)(self._send, request, stop)
                return {**reply, "failures": failures, "seconds": round(time.monotonic() - begun, 3)}
            except ContextFull:  # servers say in different ways how many tokens would fit
                if request["max_tokens"] < MIN_COMPLETION_TOKENS:
                    raise
                request = {**request, "max_tokens": request["max_tokens"] // 2}
            except TransientError as e:
                if not stop.is_set():
                    self._check_server(str(e), begun, request, stop)
                raise ConversationRefused(str(e)) from None

    def _retrying(self, stop: threading.Event, failures: list[str]) -> tenacity.Retrying:
        def count_failure(state: tenacity.RetryCallState) -> None:
            failures.append(_reason(state))
            with self._lock:
                self.retries += 1

        def give_up(state: tenacity.RetryCallState) -> bool:
            patience = self.patience if self.reached else min(FIRST_CONTACT_SECONDS, self.patience)
            always_fails = self._is_request_specific(_reason(state)) and state.attempt_number >= MAX_HTTP_500_TRIES
            return always_fails or stop.is_set() or tenacity.stop_before_delay(patience)(state)

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            wait=tenacity.wait_exception(lambda e: getattr(e, "retry_after", 0.0))
            + tenacity.wait_random_exponential(multiplier=0.5, max=60),
            stop=give_up,
            sleep=tenacity.sleep_using_event(stop),
            before_sleep=count_failure,
            reraise=True,
        )

    def _is_request_specific(self, reason: str) -> bool:
        """Whether an error may be due to this request: it came from a server that answers others."""
        return (reason == HTTP_500 or reason.startswith((ERROR_IN_REPLY, GARBLED))) and self.answered

    def _check_server(self, reason: str, begun: float, request: dict[str, Any], stop: threading.Event) -> None:
        """After a request that was given up: raise if the server answers no other request either.

        Where several failed by errors of their own and no other was asked (a rerun asks only what failed before), the
        same request with one word as its conversation decides.
        """
        if not self.reached and not self._is_request_specific(reason):
            raise InputError(
                f"{self.url}: no chat-completions server answers ({reason}): start it, or fix the address (most end "
                "in /v1)"
            )
        if self._is_request_specific(reason):
            with self._lock:
                self.failed_in_a_row += 1
            gone = self.failed_in_a_row >= MAX_HTTP_500_REQUESTS and not self._answers_probe(request, stop)
        else:
            gone = self.last_reply < begun
        if gone:
            raise ServerGone(reason)

    def _answers_probe(self, request: dict[str, Any], stop: threading.Event) -> bool:
        try:
            self._send({**request, "messages": [{"role": "user", "content": "Hi"}]}, stop)
        except TransientError:
            return False
        except (ConversationRefused, ContextFull):
            pass
        return True

    def _send(self, request: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        """Send one request in its turn; gives the reply, or raises what the error is classified as."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + self._interval
        if stop.wait(start - now):
            raise TransientError("stopped")
        limit_name = self._limit_name
        body = {k: v for k, v in request.items() if k != "max_tokens" and (k != "tools" or v)}
        body[limit_name] = request["max_tokens"]
        error: Exception
        try:
            # Read as text: the client accepts more as JSON than the log could store.
            text = self._client.chat.completions.with_raw_response.create(**body).text
        except openai.APITimeoutError as e:
            self.reached |= type(e.__cause__).__name__ != "ConnectTimeout"  # it may be loading its model
            error = TransientError("timeout")
        except openai.APIConnectionError:
            error = TransientError("connection")
        except openai.APIStatusError as e:
            self.reached = True
            text = redact_key(" ".join(str(e.message).split()))[:200]
            error = self._classify(e.status_code, text, e.code, limit_name, e.response.headers.get("retry-after"))
        except (openai.OpenAIError, ValueError):  # such as a reply in another encoding than it declares
            error = TransientError(GARBLED)
        else:
            try:
                reply = parse_reply(redact_key(text))
            except ErrorReply as e:
                self.reached = True
                error = self._classify(_status_of(e), str(e), e.code, limit_name)
            except UnreadableReply as e:
                error = TransientError(str(e))
            else:
                self.reached, self.answered = True, True
                self.last_reply, self.failed_in_a_row = time.monotonic(), 0
                refusal = reply["message"].get("refusal")
                if reply["finish"] == "content_filter":
                    error = ConversationRefused("content filter")
                elif refusal and not reply["message"].get("content") and not reply["message"].get("tool_calls"):
                    error = ConversationRefused(f"the model refuses: {refusal}"[:200])
                else:
                    return reply
        raise error  # outside of except: the client's own errors hold the request with its headers

    def _classify(
        self, status: int, text: str, code: Any, limit_name: str, retry_after: str | None = None
    ) -> Exception:
        """The error of a status, whether it is the response's or stands in a reply with status 200.

        Args:
            status: of HTTP; 200 for a reply that does not say which.
            text: the server's words, on one line and without the key.
            code: the error's code, such as "insufficient_quota".
            limit_name: the name under which the token limit was sent.
            retry_after: the header.
        """
        lower = text.lower()
        if status == 402 or code == "insufficient_quota":
            return InputError(f"{self.url}: the account has run out (HTTP {status}: {text}): add to it, then run again")
        if status in (408, 409, 425, 429) or status >= 500:
            return TransientError(f"HTTP {status}", retry_after_seconds(retry_after))
        if status == 200 and not (code == "context_length_exceeded" or "context length" in lower):
            return TransientError(f"{ERROR_IN_REPLY}{text}")
        if status in (401, 403):
            return InputError(f"{self.url} refuses the key (HTTP {status}): set {API_KEY_VARIABLE} to a valid one")
        if status == 404:
            return InputError(
                f"{self.url}: no model {self.model!r}, or no chat completions at this address (HTTP 404: {text}): "
                f"fix the model's name{self._served_models()} or the address (most end in /v1)"
            )
        # Before the limit's name is looked for: vLLM's message names both limits when the context is full.
        if status == 413 or code == "context_length_exceeded" or "context length" in lower:
            return ContextFull(f"HTTP {status}")
        if limit_name == "max_tokens" and "max_completion_tokens" in lower:
            self._limit_name = "max_completion_tokens"  # OpenAI's reasoning models accept no other name
            return TransientError("max_completion_tokens")
        if self.answered:
            return ConversationRefused(text)  # it accepts these settings, but not this conversation
        if "tool" in lower:
            return InputError(
                f"{self.url} serves {self.model!r} without tool calls (HTTP {status}: {text}): take a model with "
                "tools, or start vLLM with --enable-auto-tool-choice --tool-call-parser"
            )
        return InputError(
            f"{self.url} refuses the request (HTTP {status}: {text}): fix the model's name, {self.model!r}"
            f"{self._served_models()}, or its settings"
        )

    def _served_models(self) -> str:
        try:
            names = [redact_key(str(model.id))[:60] for model in self._client.models.list().data[:8]]
        except Exception:  # a hint only
            return ""
        return f" (there are: {', '.join(names)})" if names else ""


def _status_of(error: ErrorReply) -> int:
    """The HTTP status that an error in a reply stands for; 200 if it does not say."""
    names = {"rate_limit_exceeded": 429, "invalid_api_key": 401, "model_not_found": 404, "insufficient_quota": 402}
    code = names.get(str(error.code), error.code)
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    if isinstance(code, int) and 400 <= code < 500:  # above that, its words say more than its number
        return code
    return 400 if error.kind in ("invalid_request_error", "BadRequestError") else 200


def _reason(state: tenacity.RetryCallState) -> str:
    return str(state.outcome.exception()) if state.outcome else ""


def redact_key(text: str) -> str:
    """The text without the API key, in case a server sends it back; placeholders (MIN_SECRET) stay."""
    key = os.environ.get(API_KEY_VARIABLE, "")
    return text.replace(key, f"[{API_KEY_VARIABLE}]") if len(key) >= MIN_SECRET else text


def retry_after_seconds(header: str | None) -> float:
    """A Retry-After header (RFC 9110: seconds or a date) in seconds from now; 0 if it is missing or unreadable."""
    try:
        seconds = float(header or 0)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(str(header)).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
