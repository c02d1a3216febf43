"""Requests that are cancelled leave nothing allocated, and all requests go as they go without this."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

_ROUTE = """
import asyncio, ctypes, gc, json, statistics, sys, threading
import grpc
from configs.grpc_batches import free_batches

free = sys.argv[1] == "free"
if free:
    assert free_batches() and free_batches()

class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

async def said(request, context):
    try:
        while True:
            yield request
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        yield b"an error, as Serve's replicas send"

async def counted(request, context):
    for number in range(int(request)):
        yield b"%d" % number

async def asked(request, context):
    await asyncio.sleep(600 if request == b"slow" * 200 else 0)
    return request

async def broken(request, context):
    await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

async def served():
    server = grpc.aio.server()
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {"said": stream(said), "counted": stream(counted), "asked": unary(asked), "broken": unary(broken)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port
"""

_HEAP = (
    _ROUTE
    + """
async def left(task):
    task.cancel()
    await asyncio.wait((task,))  # a server that sees many resets resets some requests itself

async def stream(channel):
    items = aiter(channel.unary_stream("/s/said")(b"x" * 100))
    await anext(items)
    reading = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0)
    await left(reading)

async def unary(channel):
    async def ask():
        await channel.unary_unary("/s/asked")(b"slow" * 200)

    asking = asyncio.ensure_future(ask())
    await asyncio.sleep(0.01)
    await left(asking)

async def main():
    server, port = await served()
    heap = ctypes.CDLL(None).mallinfo2
    heap.restype = Heap
    kept = {}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for ask in (stream, unary):
            rounds = []
            for _ in range(7):
                gc.collect()
                before = heap().uordblks
                for _ in range(10):
                    await asyncio.gather(*(ask(channel) for _ in range(50)))
                await asyncio.sleep(0.1)
                gc.collect()
                rounds.append((heap().uordblks - before) / 500)
            # Now and then a buffer of megabytes comes or goes, in one round.
            kept[ask.__name__] = statistics.median(rounds)
    await server.stop(0)
    print(json.dumps(kept))

asyncio.run(main())
"""
)

_MANNERS = (
    _ROUTE
    + """
async def main():
    server, port = await served()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        counted_, asked_ = channel.unary_stream("/s/counted"), channel.unary_unary("/s/asked")
        assert [item async for item in counted_(b"50")] == [b"%d" % number for number in range(50)]
        assert await asked_(b"a" * 100_000) == b"a" * 100_000
        try:
            await channel.unary_unary("/s/broken")(b"")
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND and error.details() == "no such thing"
        else:
            raise AssertionError("the failure was not told")

        try:
            await asyncio.wait_for(asked_(b"slow" * 200), 0.05)
        except TimeoutError:
            pass
        else:
            raise AssertionError("it did not wait for the answer")

        def elsewhere():
            async def ask():
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as other:
                    return await other.unary_unary("/s/asked")(b"from another thread")
            answers.append(asyncio.run(ask()))

        answers = []
        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert answers == [b"from another thread"]

        stream = channel.unary_stream("/s/said")(b"x")
        reading = aiter(stream)
        assert await anext(reading) == b"x"
        await server.stop(0)
        try:
            async for _ in reading:
                pass
        except grpc.aio.AioRpcError:
            print(json.dumps({"ok": True}))

asyncio.run(main())
"""
)


def run(script: str, way: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", script, way], check=True, timeout=120, capture_output=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc")
def test_a_cancelled_request_leaves_nothing_allocated() -> None:
    kept, tries = run(_HEAP, "as it is"), [run(_HEAP, "free") for _ in range(3)]
    # What is under way at the moment of the look counts as well, on a busy machine: that differs, a leak is in each.
    freed = {kind: min(one[kind] for one in tries) for kind in kept}
    assert kept["stream"] > 150, "this gRPC frees them itself: configs/grpc_batches.py can go"
    assert kept["unary"] > 500
    assert freed["stream"] < 50
    assert freed["unary"] < 50


@pytest.mark.parametrize("way", ["as it is", "free"])
def test_requests_go_as_they_go_without_it(way: str) -> None:
    assert run(_MANNERS, way) == {"ok": True}
