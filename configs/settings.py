"""Every setting, typed, with unit and meaning. A profile is YAML over these defaults; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Section(BaseModel):
    """Base of every section: frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(Section):
    """Addresses. Carriers see only the public URLs; signatures are checked against ``public_url``."""

    host: str = Field("127.0.0.1", description="Address the webhook and media servers bind to.")
    webhook_port: int = Field(8080, ge=0, le=65535, description="Port of the HTTP ingress; 0 picks a free one.")
    media_port: int = Field(8090, ge=0, le=65535, description="Port of the media WebSocket; 0 picks a free one.")
    public_url: str = Field(
        "", description="Public base URL of the webhooks, e.g. https://voice.example.com. Empty: the local address."
    )
    public_media_url: str = Field(
        "",
        description="Public wss:// URL of the media socket. Empty: the local address. `{gateway}` in it becomes the gateway's number from 1 on.",
    )
    api_key: str = Field(
        "",
        description="Key for /api (header X-API-Key). Empty: one is made at start and written to the run directory.",
        json_schema_extra={"secret": True},
    )


class TwilioSettings(Section):
    """Twilio account and limits on its sockets."""

    account_sid: str = Field(
        "", description="Account SID; also accepted as the expected accountSid in `start` when set."
    )
    auth_token: str = Field(
        "",
        description="Auth token: checks webhook and upgrade signatures. From TWILIO_AUTH_TOKEN.",
        json_schema_extra={"secret": True},
    )
    verify_signatures: bool = Field(
        True, description="Refuse unsigned webhooks and upgrades. Off only on a closed test bench."
    )
    token_ttl_s: float = Field(60.0, gt=0, description="Life of the single-use stream token.")
    start_timeout_s: float = Field(5.0, gt=0, description="A socket without a valid `start` closes after this.")
    max_message_bytes: int = Field(65536, ge=1024, description="Largest WebSocket message accepted.")
    max_messages_per_s: int = Field(200, ge=50, description="Message rate cap per socket.")


class MediaSettings(Section):
    """Playout and voice activity."""

    lead_ms: int = Field(400, ge=40, le=2000, description="How far ahead of the ear audio is sent.")
    chunk_ms: int = Field(200, ge=20, le=500, description="Size of one media message to the carrier.")
    mark_timeout_s: float = Field(
        2.0, gt=0, description="A mark not echoed this long after its audio should have ended counts as played."
    )
    ring_s: float = Field(30.0, gt=0, description="Caller audio kept for a replacement actor.")
    preroll_ms: int = Field(240, ge=0, description="Audio before the onset that belongs to the utterance.")
    upload_ms: int = Field(100, ge=20, description="Caller audio is sent to the call actor in pieces of this size.")
    gateways: int = Field(
        1,
        ge=1,
        le=8,
        description="Media gateways of a node, on ports from server.media_port on. With two, one takes the calls of the other at once when that dies.",
    )
    vad_engine: str = Field("silero", description="Voice activity engine: silero, energy.")
    vad_threshold: float = Field(
        0.5, gt=0, lt=1, description="Speech probability that starts speech; it ends 0.15 below."
    )
    vad_onset_windows: int = Field(
        2, ge=1, description="Consecutive 32 ms windows above the threshold that make an onset."
    )
    vad_onset_windows_playing: int = Field(2, ge=1, description="The same while the agent speaks.")
    pause_ms: int = Field(100, ge=32, description="Silence after speech that is reported as a pause.")
    actor_silence_ms: int = Field(
        1000,
        ge=500,
        description="A call actor not heard of for this long is taken for frozen, and its calls are moved.",
    )


class TurnSettings(Section):
    """When a turn ends, and what interrupts the agent."""

    speculate: bool = Field(True, description="Prepare the reply at a pause and release it at the endpoint.")
    model: str = Field("words", description="Turn model: words (the words alone, no cost), smart-turn (sound, ONNX).")
    model_options: dict[str, Any] = Field(default_factory=dict, description="Passed to the turn model.")
    endpoint_ms: int = Field(450, ge=100, description="Silence that ends the caller's turn.")
    endpoint_short_ms: int = Field(300, ge=100, description="The same when the words look complete.")
    endpoint_long_ms: int = Field(1200, ge=100, description="The same when they do not, or there are no words yet.")
    first_clause_words: int = Field(
        0,
        ge=0,
        description="The first clause may end in front of a conjunction or preposition after this many words, so that"
        " the voice starts early; 0: only at a comma or a sentence's end, which sounds better.",
    )
    endpoint_min_ms: int = Field(
        240, ge=100, description="The shortest it becomes for callers who never pause inside a sentence."
    )
    max_speculations: int = Field(3, ge=0, description="Replies prepared at pauses of one turn, at most.")
    max_early_speculations: int = Field(
        2, ge=0, description="Replies prepared before a pause, when the caller's voice falls, in one turn, at most."
    )
    speculate_below_load: float = Field(
        0.8, gt=0, le=1, description="Nothing is prepared when the model plane is busier than this (1: at its limit)."
    )
    barge_in_confirm_ms: int = Field(
        700, ge=100, description="Caller speech this long interrupts even before words are known."
    )
    keys_pause_s: float = Field(1.5, gt=0, description="Keys end an input after this pause, or at `#`.")
    filler_after_s: float = Field(
        1.25,
        gt=0,
        description="Silence in the agent's turn that is broken by a recorded phrase, `agent.filler` first; counted from"
        " the last sound of either side.",
    )
    reprompt_after_s: float = Field(8.0, gt=0, description="Silence after the agent's turn that brings a re-prompt.")
    reprompts: int = Field(2, ge=0, description="Re-prompts before the agent says goodbye.")
    max_call_s: float = Field(1800.0, gt=0, description="Longest call.")
    stage_deadline_s: float = Field(6.0, gt=0, description="A stage that has given nothing for this long has failed.")


class DeadlineSettings(Section):
    """What counts as a stall of an engine; see docs/resilience.md. `turn.stage_deadline_s` ends a stage for good."""

    stt_s: float = Field(1.0, gt=0, description="A recogniser that has not answered a pause by then has stalled.")
    search_s: float = Field(1.0, gt=0, description="The same of a search.")
    llm_first_s: float = Field(1.5, gt=0, description="The same of a model's first words.")
    llm_next_s: float = Field(1.5, gt=0, description="The same between its words.")
    llm_words_per_s: float = Field(
        2.0,
        ge=0,
        description="A model slower than this over two seconds or more counts as at fault; speech needs about 2.5.",
    )
    tts_first_s: float = Field(0.8, gt=0, description="A voice without audio by then has stalled.")
    tts_behind_s: float = Field(0.8, gt=0, description="A voice this far behind its own playout has stalled.")
    suspect_s: float = Field(3.0, ge=0, description="A replica that stalled once is avoided for so long.")
    faults: int = Field(3, ge=1, description="Faults in `window_s`, half of its requests or more, that open a breaker.")
    window_s: float = Field(30.0, gt=0, description="How long an outcome counts.")
    cool_down_s: float = Field(
        5.0, gt=0, description="From opening to the first probe; doubled by each probe that fails, to a minute."
    )


class AgentSettings(Section):
    """What the agent says by itself."""

    company: str = Field("the company", description="Name used in prompts.")
    system_prompt: str = Field(
        "You answer the phone for {company}. Be brief. Use only the passages given.",
        description="Instructions for a language model.",
    )
    greeting: str = Field("Hello, this is {company}. How can I help you?", description="First words of a call.")
    reprompt: str = Field("Are you still there? What can I do for you?", description="After silence.")
    unknown: str = Field(
        "I am sorry, I don't know that. Is there anything else I can help you with?",
        description="When the knowledge base has no answer.",
    )
    not_understood: str = Field(
        "I am sorry, I did not get that. Could you say it again?", description="When recognition is not confident."
    )
    apology: str = Field(
        "I am sorry, something went wrong on our side. Please say that again.", description="When a stage failed."
    )
    filler: str = Field("One moment, please.", description="Recorded at start; breaks a silence in the agent's turn.")
    hold: str = Field(
        "I am still here. Just a moment more, please.",
        description="The same when the silence comes again in that turn.",
    )
    goodbye: str = Field("Thank you for calling. Goodbye.", description="Last words.")
    silence_goodbye: str = Field(
        "I can't hear you, so I will hang up now. Please call again. Goodbye.",
        description="Last words after unanswered re-prompts.",
    )
    full_house: str = Field(
        "All our lines are busy at the moment. Please call again in a few minutes.",
        description="Spoken by the carrier when there is no room for the call.",
    )
    queue: str = Field(
        "All our lines are busy at the moment. Please hold the line, we will be with you in a moment.",
        description="Spoken by the carrier to a caller who waits for a line, at first and every nine seconds.",
    )
    out_of_service: str = Field(
        "We are sorry, we cannot take your call at the moment. Please call again later. Goodbye.",
        description="Spoken by the carrier when the platform cannot take or keep the call.",
    )


class StageSettings(Section):
    """One stage of the model plane."""

    engine: str = Field(..., description="Registry name of the engine.")
    replicas: int = Field(1, ge=1, description="Replicas, or the least number when max_replicas is larger.")
    max_replicas: int = Field(0, ge=0, description="Autoscaling limit; 0 = fixed at `replicas`.")
    max_ongoing_requests: int = Field(200, ge=1, description="Requests in flight per replica.")
    num_cpus: float = Field(0.1, ge=0, description="Ray CPUs reserved per replica.")
    num_gpus: float = Field(0.0, ge=0, description="GPUs reserved per replica; fractions share one.")
    options: dict[str, Any] = Field(default_factory=dict, description="Passed to the engine; see docs/engines.md.")
    fallback: str = Field(
        "",
        description="Engine that answers while the first one is at fault, in the same replicas; empty: none. See"
        " docs/resilience.md.",
    )
    fallback_options: dict[str, Any] = Field(default_factory=dict, description="Passed to the fallback engine.")
    fallback_when_busy: bool = Field(
        False,
        description="The fallback is the cheaper engine: it answers first while the stack is overloaded (llm and tts"
        " only; see docs/resilience.md).",
    )


class SpeechToTextSettings(StageSettings):
    """Speech to text."""

    engine: str = Field("pocketsphinx", description="pocketsphinx, faster-whisper, simulated; see docs/engines.md.")


class LanguageModelSettings(StageSettings):
    """The reply."""

    engine: str = Field("extractive", description="extractive, openai, ray-serve-llm, simulated; see docs/engines.md.")


class TextToSpeechSettings(StageSettings):
    """Text to speech."""

    engine: str = Field(
        "auto", description="auto (flite if its library is there, else espeak), flite, espeak, simulated, coqui."
    )
    voice: str = Field("slt", description="Voice; the engine's default when it does not have it (told at start).")


class RetrieverSettings(StageSettings):
    """Retrieval."""

    engine: str = Field("minilm", description="Embedder: minilm, sentence-transformers.")
    top_k: int = Field(4, ge=1, le=50, description="Passages per question.")
    min_dense: float = Field(0.40, ge=-1, le=1, description="Cosine below which a passage is no answer.")
    min_confidence: float = Field(
        0.55, ge=0, le=1, description="Recogniser confidence below which the agent asks again."
    )


class KnowledgeSettings(Section):
    """Knowledge base."""

    sources: list[Path] = Field(
        default_factory=lambda: [Path("kb/sample")], description="Files or folders ingested at start."
    )
    collection: str = Field("kb", description="Qdrant collection.")
    qdrant_url: str = Field("", description="Qdrant server; empty: embedded under data_dir.")
    qdrant_api_key: str = Field("", description="Key of the Qdrant server.", json_schema_extra={"secret": True})
    copy_sentences: int = Field(
        20_000,
        ge=0,
        description="What a Qdrant server holds is copied into the retriever, up to so many sentences, to answer from while "
        "the server is away. 0: no copy.",
    )
    chunk_words: int = Field(120, ge=20, description="Largest chunk, in words.")


class StorageSettings(Section):
    """Postgres."""

    dsn: str = Field(
        "", description="Postgres DSN; empty: the embedded server under data_dir.", json_schema_extra={"secret": True}
    )
    pool_size: int = Field(4, ge=1, description="Connections per process that needs them.")
    spool_max_mb: int = Field(256, ge=1, description="Records kept on disk while Postgres is away.")
    keep_days: float = Field(
        0.0, ge=0, description="Calls, messages, results of tools and event logs older than this are deleted. 0: never."
    )


class CallSettings(Section):
    """Call actors."""

    calls_per_actor: int = Field(1, ge=1, le=100, description="Calls hosted by one actor.")
    max_calls: int = Field(10, ge=1, description="Calls admitted at once.")
    admit_per_s: float = Field(
        5.0,
        gt=0,
        description="New calls let in per second, so many at once after a quiet second; less under load. Others wait.",
    )
    queue_s: float = Field(
        20.0,
        ge=0,
        description="Longest wait of a caller for whom there is no line yet, then `agent.full_house`; below 3 nobody waits.",
    )
    spare_actors: int = Field(1, ge=0, description="Warm actors beyond max_calls, for take-over.")
    num_cpus: float = Field(0.01, ge=0, description="Ray CPUs reserved per call actor.")
    reserve_s: float = Field(
        30.0, gt=0, description="A slot promised to a webhook is given back after this without a stream."
    )


class ToolSettings(Section):
    """Tools of the agent, and who a caller may be connected to; see docs/tools.md."""

    files: list[Path] = Field(
        default_factory=lambda: [Path("configs/tools/default.yaml")],
        description="Files that declare tools; a later one replaces tools of an earlier one by name.",
    )
    inline: dict[str, Any] = Field(
        default_factory=dict, description="Tools by name, written as in a file below `tools`."
    )
    transfer_targets: dict[str, str] = Field(
        default_factory=dict,
        description="Who a caller may be connected to, by name: a number (+15550100), sip:user@host or queue:name.",
    )
    replicas: int = Field(1, ge=1, description="Replicas that run tools.")
    max_ongoing_requests: int = Field(100, ge=1, description="Tools running at once per replica.")
    num_cpus: float = Field(0.05, ge=0, description="Ray CPUs reserved per replica.")

    @field_validator("transfer_targets", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """YAML reads ``+15550100`` without quotes as a number and drops the plus."""
        if not isinstance(value, dict):
            return value
        return {name: f"+{to}" if type(to) is int else to for name, to in value.items()}


class PolicySettings(Section):
    """Rules on what is heard, said and kept; see docs/policies.md."""

    files: list[Path] = Field(
        default_factory=lambda: [Path("default")],
        description="Policy files in order; `default` ships with the program. A later file may replace rules of an earlier one.",
    )
    escalate_to: str = Field(
        "",
        description="Whom callers who ask for a human are put through to: a name of tools.transfer_targets, a number, sip:user@host or queue:name. Empty: nobody.",
    )
    escalate_after_failures: int = Field(
        3,
        ge=0,
        description="Turns in a row without an answer, after which the agent puts the caller through; 0: never.",
    )
    caller_number: Literal["whole", "last_four", "none"] = Field(
        "whole", description="What is kept and logged of the number that the carrier names as the caller."
    )


class DialogSettings(Section):
    """The scripted part of a call; see docs/dialogs.md."""

    flow: str = Field(
        "",
        description="Flow file, or the name of one that ships with the program: order_status, appointment. Empty: a free dialog.",
    )


class RaySettings(Section):
    """The Ray cluster."""

    address: str = Field("", description="Existing cluster, e.g. ray://... or auto. Empty: a local one is started.")
    namespace: str = Field("voice-agent", description="Ray namespace of the named actors.")
    dashboard: bool = Field(
        False, description="Start the Ray dashboard of a local cluster (needed for `ray job submit`)."
    )
    dashboard_port: int = Field(8265, ge=0, le=65535, description="Its port.")
    num_cpus: int = Field(
        0, ge=0, description="Logical CPUs of a local cluster; 0: as many as the processes of the profile reserve."
    )
    auth: Literal["token", "disabled"] = Field("token", description="Ray's own authentication mode.")
    fork_workers: bool = Field(
        True,
        description="Fork the workers of a local cluster from a process that has imported what they all import.",
    )


class TelemetrySettings(Section):
    """Metrics, traces, event logs."""

    metrics_port: int = Field(9464, ge=0, le=65535, description="Prometheus port of the journal; 0 picks a free one.")
    otlp_endpoint: str = Field(
        "", description="OTLP/HTTP endpoint for spans, e.g. http://collector:4318. Empty: no spans are exported."
    )
    trace_pii: bool = Field(
        False, description="Put what was said into spans, under voice.pii.*, for a collector that may hold it."
    )
    event_log: bool = Field(
        True, description="Write every call's event log (JSON lines, replayable) under the run directory."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Log level.")


class Settings(Section):
    """The whole configuration of a stack."""

    profile: str = Field("embedded", description="Name of the profile the values came from.")
    data_dir: Path = Field(Path("var"), description="Postgres, Qdrant and generated language models live here.")
    runs_dir: Path = Field(Path("runs"), description="Each run of the stack writes to a folder of its own here.")
    server: ServerSettings = ServerSettings()
    twilio: TwilioSettings = TwilioSettings()
    media: MediaSettings = MediaSettings()
    turn: TurnSettings = TurnSettings()
    deadlines: DeadlineSettings = DeadlineSettings()
    agent: AgentSettings = AgentSettings()
    stt: SpeechToTextSettings = SpeechToTextSettings()
    llm: LanguageModelSettings = LanguageModelSettings()
    tts: TextToSpeechSettings = TextToSpeechSettings()
    retriever: RetrieverSettings = RetrieverSettings()
    kb: KnowledgeSettings = KnowledgeSettings()
    storage: StorageSettings = StorageSettings()
    calls: CallSettings = CallSettings()
    dialog: DialogSettings = DialogSettings()
    tools: ToolSettings = ToolSettings()
    policy: PolicySettings = PolicySettings()
    ray: RaySettings = RaySettings()
    telemetry: TelemetrySettings = TelemetrySettings()
