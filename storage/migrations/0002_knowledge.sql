-- The knowledge base: which documents it holds now, what each ingest made of them, and its versions.

CREATE TABLE documents (
    source       text PRIMARY KEY,
    title        text NOT NULL DEFAULT '',
    content_hash text NOT NULL,
    version      integer NOT NULL DEFAULT 1,
    chunks       integer NOT NULL DEFAULT 0,
    size_bytes   bigint NOT NULL DEFAULT 0,
    ingested_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE document_versions (
    source       text NOT NULL,
    version      integer NOT NULL,
    content_hash text NOT NULL,
    chunks       integer NOT NULL DEFAULT 0,
    -- ingested or removed
    change       text NOT NULL,
    at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, version)
);

CREATE TABLE kb_versions (
    kb_version text PRIMARY KEY,
    documents  integer NOT NULL,
    chunks     integer NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX kb_versions_newest_first ON kb_versions (at DESC);
