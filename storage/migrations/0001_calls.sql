-- Calls, their turns, and what the carrier told us about them. Columns that end in _pii hold what people said or are
-- called; retention and redaction work on that ending.

CREATE TABLE calls (
    call_id     text PRIMARY KEY,
    caller_pii  text NOT NULL DEFAULT '',
    called      text NOT NULL DEFAULT '',
    started_at  timestamptz NOT NULL DEFAULT now(),
    duration_ms bigint NOT NULL DEFAULT 0 CHECK (duration_ms >= 0),
    turns       integer NOT NULL DEFAULT 0,
    barge_ins   integer NOT NULL DEFAULT 0,
    -- Empty while the call lives.
    end_reason  text NOT NULL DEFAULT '',
    counters    jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX calls_newest_first ON calls (started_at DESC, call_id DESC);
CREATE INDEX calls_by_end_reason ON calls (end_reason, started_at DESC);

CREATE TABLE turns (
    call_id           text NOT NULL REFERENCES calls ON DELETE CASCADE,
    turn              integer NOT NULL,
    kind              text NOT NULL,
    outcome           text NOT NULL,
    caller_text_pii   text NOT NULL DEFAULT '',
    caller_confidence real NOT NULL DEFAULT 0,
    agent_text_pii    text NOT NULL DEFAULT '',
    heard_text_pii    text NOT NULL DEFAULT '',
    sources           text[] NOT NULL DEFAULT '{}',
    failed_stages     text[] NOT NULL DEFAULT '{}',
    speculations      integer NOT NULL DEFAULT 0,
    -- Stage times by name, in ms on the call's clock.
    times_ms          jsonb NOT NULL DEFAULT '{}',
    -- Voice-to-voice by our own clock; NULL when the turn answers no speech.
    v2v_self_ms       integer,
    PRIMARY KEY (call_id, turn)
);

CREATE TABLE tool_calls (
    call_id  text NOT NULL,
    turn     integer NOT NULL,
    position integer NOT NULL,
    name     text NOT NULL,
    PRIMARY KEY (call_id, turn, position),
    FOREIGN KEY (call_id, turn) REFERENCES turns ON DELETE CASCADE
);

-- Status callbacks. No foreign key: the carrier also reports calls that were refused or never reached a stream.
CREATE TABLE carrier_events (
    call_id     text NOT NULL,
    -- Made of the carrier's own fields, so that a callback sent twice is kept once.
    event_key   text NOT NULL,
    kind        text NOT NULL,
    event       text NOT NULL,
    error       text NOT NULL DEFAULT '',
    details     jsonb NOT NULL DEFAULT '{}',
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (call_id, event_key)
);
