-- Results of tools are masked before they are kept, and everything that is kept can be found by its age.

ALTER TABLE tool_runs ADD COLUMN masked boolean NOT NULL DEFAULT false;

-- Results kept in clear by earlier versions; calls that could still ask for one of them again are younger.
UPDATE tool_runs SET value_pii = '{}', say_pii = '', masked = true WHERE at < now() - interval '1 day';

CREATE INDEX tool_runs_by_age ON tool_runs (at);
CREATE INDEX messages_by_age ON messages (left_at);
CREATE INDEX carrier_events_by_age ON carrier_events (received_at);
