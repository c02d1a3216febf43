-- Which owner of a call wrote what, so that one who was only frozen cannot overwrite what came after; and its code.

ALTER TABLE calls
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0;

ALTER TABLE turns
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0,
    ADD COLUMN code text NOT NULL DEFAULT '';
