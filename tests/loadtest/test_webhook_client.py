"""The carrier's HTTP client: what servers may answer, which connections it keeps, what counts as an error."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from loadtest.webhooks import WebhookClient

FORM = {"CallSid": "CA1", "SpeechResult": "a b&c"}


@asynccontextmanager
async def server(*answers):
    """Answers each request on a connection with the next of ``answers``; None closes. Tells requests by connection."""
    requests, left = [], list(answers)

    async def serve(reader, writer):
        own = []
        requests.append(own)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
                own.append((head, await reader.readexactly(size)))
                answer = left.pop(0)
                if answer is None:
                    break
                writer.write(answer)
        except asyncio.IncompleteReadError:
            pass  # the client has closed
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", requests
    finally:
        listening.close()


SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"


async def test_a_form_is_posted_and_connections_are_kept():
    async with server(SIZED, SIZED) as (url, requests), WebhookClient() as http:
        for _ in range(2):
            answer = await http.post(f"{url}/twilio/voice?x=1", FORM, {"X-Twilio-Signature": "s"}, 5.0)
            assert (answer.status, answer.text, answer.is_success) == (200, "yes", True)
    [connection] = requests
    head, body = connection[0]
    assert head.startswith(b"POST /twilio/voice?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"X-Twilio-Signature: s\r\n" in head
    assert body == b"CallSid=CA1&SpeechResult=a+b%26c"
    assert len(connection) == 2


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno", 503, "no"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\nT: 1\r\n\r\n", 200, "abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED, 200, "yes"),
    ],
)
async def test_answers(answer, status, text):
    async with server(answer, SIZED) as (url, requests), WebhookClient() as http:
        found = await http.post(url, FORM, {}, 5.0)
        assert (found.status, found.text) == (status, text)
        assert (await http.post(url, FORM, {}, 5.0)).text == "yes", "the answer was read to its end"
    assert len(requests) == 1


async def test_a_connection_that_will_close_is_not_used_again():
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nyes"
    async with server(closing, SIZED) as (url, requests), WebhookClient() as http:
        for _ in range(2):
            await http.post(url, FORM, {}, 5.0)
    assert len(requests) == 2


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"220 mail\r\n\r\n"])
async def test_what_is_no_answer_is_an_error_and_not_sent_again(answer):
    async with server(SIZED, answer, SIZED) as (url, requests), WebhookClient() as http:
        await http.post(url, FORM, {}, 5.0)
        with pytest.raises(ConnectionError, match=r"no answer in HTTP/1\.1"):
            await http.post(url, FORM, {}, 5.0)
        assert [len(connection) for connection in requests] == [2]
        assert (await http.post(url, FORM, {}, 5.0)).text == "yes"


async def test_a_server_that_does_not_answer_is_a_timeout():
    async with server(b"HTTP/1.1 200 OK\r\n") as (url, _), WebhookClient() as http:
        with pytest.raises(TimeoutError):
            await http.post(url, FORM, {}, 0.05)
