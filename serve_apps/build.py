"""The one place where the plain deployment classes meet Ray Serve."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from configs import policies
from configs.logs import REPLICA_LOGGING, logging_at_start
from configs.process import settled_at_start
from configs.runtime import StackContext
from configs.settings import Settings, StageSettings
from configs.tool_files import load_tools
from engines import chosen
from engines.optional import need
from kb.opening import vocabulary_dir
from serve_apps.ingress import ingress_app
from serve_apps.language_model import LanguageModel
from serve_apps.retriever import Retriever
from serve_apps.speech_to_text import SpeechToText
from serve_apps.text_to_speech import TextToSpeech
from serve_apps.tools import Tools
from voice_agent.errors import ConfigError
from voice_agent.tools import openai_tools, usable

# A dead replica is found and replaced in seconds: a call's retry waits for it where there is no second one.
_HEALTH_CHECK_PERIOD_S = 2.0
_HEALTH_CHECK_TIMEOUT_S = 10.0
_GRACEFUL_SHUTDOWN_TIMEOUT_S = 5.0
_GRACEFUL_SHUTDOWN_WAIT_LOOP_S = 0.2
# Autoscaling aims at this share of the requests a replica takes at most; the rest is room for the time it needs.
_AUTOSCALING_SHARE = 0.25
RAY_SERVE_LLM: Final = "ray-serve-llm"
_ROUTER: Any = "actors.call.replicas.AvoidingRouter"
_STICKY_ROUTER: Any = "actors.call.replicas.StickyAvoidingRouter"


def build_apps(context: StackContext) -> dict[str, serve.Application]:
    """The applications of the model plane and the ingress by name, in the order in which they are to be started.

    ``retriever`` comes first: an ingest writes the vocabulary that ``stt`` needs to start. ``ingress`` is the only one
    with a route prefix.

    Raises:
        ConfigError: an engine is not known, a stage cannot have as many replicas as asked for, or a tool is declared
            wrongly.
        EngineUnavailableError: the model of ``ray-serve-llm`` cannot be served for want of a library.
    """
    settings = context.settings
    _check(settings)
    log_level = settings.telemetry.log_level
    tools = StageSettings(
        engine="tools",
        replicas=settings.tools.replicas,
        max_ongoing_requests=settings.tools.max_ongoing_requests,
        num_cpus=settings.tools.num_cpus,
    )
    return {
        "retriever": _deploy(Retriever, settings.retriever, log_level).bind(context),
        "stt": _deploy(SpeechToText, settings.stt, log_level, sticky=True).bind(
            *with_fallback(context, "stt", stt_options(context)),
            turn_model="" if settings.turn.model == "words" else settings.turn.model,
            turn_options=settings.turn.model_options,
        ),
        "llm": _deploy(LanguageModel, settings.llm, log_level).bind(
            *with_fallback(context, "llm", _with_server(settings)),
            first_clause_words=settings.turn.first_clause_words,
        ),
        "tts": _deploy(TextToSpeech, settings.tts, log_level).bind(
            *with_fallback(context, "tts", settings.tts.options), voice=settings.tts.voice
        ),
        "tools": _deploy(Tools, tools, log_level).bind(
            load_tools(settings), context.dsn, policy=policies.of(settings), pool_size=settings.storage.pool_size
        ),
        "ingress": ingress_app(context),
    }


def with_fallback(context: StackContext, port: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Engine and options of a stage; where it has a fallback, those of the engine that wraps both."""
    settings = context.settings
    stage: StageSettings = getattr(settings, port)
    if not stage.fallback:
        return stage.engine, options
    alone = stage.model_copy(update={"engine": stage.fallback, "options": stage.fallback_options})
    instead = replace(context, settings=settings.model_copy(update={port: alone}))
    if port == "stt":
        fallback_options = stt_options(instead)
    else:
        fallback_options = llm_options(instead.settings) if port == "llm" else alone.options
    limits = settings.deadlines
    judged: dict[str, dict[str, float]] = {
        "stt": {"answer_s": limits.stt_s},
        "llm": {
            "first_s": limits.llm_first_s,
            "next_s": limits.llm_next_s,
            "words_per_s": limits.llm_words_per_s,
        },
        "tts": {"first_s": limits.tts_first_s, "behind_s": limits.tts_behind_s},
    }
    return "fallback", {
        "engines": [
            {"engine": stage.engine, "options": options},
            {"engine": stage.fallback, "options": fallback_options},
        ],
        "breaker": {"faults": limits.faults, "window_s": limits.window_s, "cool_down_s": limits.cool_down_s},
        **judged[port],
    }


READS: Final = {
    "retriever": ("retriever", "kb"),
    "stt": ("stt", "deadlines", "turn.model", "turn.model_options"),
    "llm": (
        "llm",
        "deadlines",
        "turn.first_clause_words",
        "agent",
        "retriever.min_dense",
        "retriever.min_confidence",
        "tools",
    ),
    "tts": ("tts", "deadlines"),
    "tools": ("tools", "policy", "storage.pool_size"),
}
"""Settings that each application is built from: it is deployed anew when one of them changes.

The ingress is not among them: what it reads is fixed while a stack runs.
"""


def stt_options(context: StackContext) -> dict[str, Any]:
    """Options of the recogniser: those of the profile over what the stack knows."""
    settings = context.settings.stt
    known: dict[str, Any] = {}
    if settings.engine == "pocketsphinx":
        known = {"vocabulary_dir": str(vocabulary_dir(context.data_dir))}
    return known | settings.options


def llm_options(settings: Settings) -> dict[str, Any]:
    """Options of the language model: those of the profile over what the stack knows."""
    agent, retriever = settings.agent, settings.retriever
    known: dict[str, Any] = {}
    if settings.llm.engine == "extractive":
        known = {
            "unknown": agent.unknown,
            "not_understood": agent.not_understood,
            "goodbye": agent.goodbye,
            "min_dense": retriever.min_dense,
            "min_confidence": retriever.min_confidence,
        }
    if settings.llm.engine in ("openai", RAY_SERVE_LLM):
        known = {"tools": openai_tools([spec for spec in load_tools(settings) if usable(spec)])}
    return known | settings.llm.options


def _with_server(settings: Settings) -> dict[str, Any]:
    """Options of the language model; with ``ray-serve-llm`` also its model, a deployment that Serve makes a handle of.

    Raises:
        EngineUnavailableError: vLLM is not installed here.
    """
    options = llm_options(settings)
    if settings.llm.engine == RAY_SERVE_LLM:
        options["server"] = need("serve_apps.llm_server", "ray.serve.llm", "gpu-llm").llm_server(options)
    return options


def _deploy(deployment_class: type[Any], stage: StageSettings, log_level: str, *, sticky: bool = False) -> Any:
    """The class as a deployment with the stage's replicas and resources.

    ``sticky``: requests with the same ``handle.options(session_id=...)`` go to the same replica while it is there.
    """
    options: dict[str, Any] = {}
    if stage.max_replicas > stage.replicas:
        options["autoscaling_config"] = AutoscalingConfig(
            min_replicas=stage.replicas,
            initial_replicas=stage.replicas,
            max_replicas=stage.max_replicas,
            target_ongoing_requests=max(1.0, stage.max_ongoing_requests * _AUTOSCALING_SHARE),
        )
    else:
        options["num_replicas"] = stage.replicas
    if max(stage.replicas, stage.max_replicas) > 1:
        router = _STICKY_ROUTER if sticky else _ROUTER
        options["request_router_config"] = RequestRouterConfig(request_router_class=router)
    return serve.deployment(
        logging_at_start(settled_at_start(deployment_class), log_level),
        name=deployment_class.__name__,
        max_ongoing_requests=stage.max_ongoing_requests,
        ray_actor_options={"num_cpus": stage.num_cpus, "num_gpus": stage.num_gpus},
        health_check_period_s=_HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=_HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_timeout_s=_GRACEFUL_SHUTDOWN_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=_GRACEFUL_SHUTDOWN_WAIT_LOOP_S,
        logging_config=REPLICA_LOGGING,
        **options,
    )


def _check(settings: Settings) -> None:
    """Say what is wrong before anything starts: a replica's failure is told much later and much worse."""
    chosen.check_names(settings)
    if not settings.kb.qdrant_url and max(settings.retriever.replicas, settings.retriever.max_replicas) > 1:
        raise ConfigError(
            "retriever.replicas must be 1 with the embedded vector store, which one process can hold;"
            " set kb.qdrant_url for more."
        )
