-- Which engine really answered, by stage, and how often a recorded phrase broke a silence of the turn.

ALTER TABLE turns
    ADD COLUMN engines jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN fillers integer NOT NULL DEFAULT 0;
