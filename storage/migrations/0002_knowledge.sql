-- The knowledge base: which documents it holds now, which contents each of them has had, and its versions as a whole.

CREATE TABLE documents (
    source       text PRIMARY KEY,
    title        text NOT NULL DEFAULT '',
    content_hash text NOT NULL,
    chunks       integer NOT NULL,
    size_bytes   bigint NOT NULL,
    version      integer NOT NULL,
    ingested_at  timestamptz NOT NULL DEFAULT now()
);

-- Stays when a document goes, so that a version number never means two contents.
CREATE TABLE document_versions (
    source       text NOT NULL,
    version      integer NOT NULL,
    content_hash text NOT NULL,
    chunks       integer NOT NULL,
    size_bytes   bigint NOT NULL,
    ingested_at  timestamptz NOT NULL DEFAULT now(),
    removed_at   timestamptz,
    PRIMARY KEY (source, version)
);

CREATE TABLE kb_versions (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kb_version text NOT NULL,
    documents  integer NOT NULL,
    chunks     integer NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);
