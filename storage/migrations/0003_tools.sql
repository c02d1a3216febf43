-- What tools did, what they work on, and messages that callers left.

-- One row a run of a tool, under the key that makes it happen once. Written in the transaction of its effect.
CREATE TABLE tool_runs (
    idempotency_key text PRIMARY KEY,
    call_id         text NOT NULL,
    turn            integer NOT NULL,
    position        integer NOT NULL,
    name            text NOT NULL,
    arguments_pii   jsonb NOT NULL DEFAULT '{}',
    ok              boolean NOT NULL DEFAULT false,
    code            text NOT NULL DEFAULT '',
    value_pii       jsonb NOT NULL DEFAULT '{}',
    say_pii         text NOT NULL DEFAULT '',
    at              timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX tool_runs_of_call ON tool_runs (call_id, turn, position);

CREATE TABLE messages (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    call_id    text NOT NULL,
    name_pii   text NOT NULL DEFAULT '',
    phone_pii  text NOT NULL DEFAULT '',
    text_pii   text NOT NULL,
    left_at    timestamptz NOT NULL DEFAULT now()
);

-- Orders of the made-up company of the sample knowledge base.
CREATE TABLE orders (
    order_number text PRIMARY KEY,
    item         text NOT NULL,
    status       text NOT NULL,
    -- In words, as they are spoken.
    expected     text NOT NULL DEFAULT '',
    total_usd    numeric(8, 2) NOT NULL
);

INSERT INTO orders (order_number, item, status, expected, total_usd) VALUES
    ('1001', 'city bike',        'on its way',         'tomorrow',            749.00),
    ('1002', 'bicycle helmet',   'delivered',          '',                     59.90),
    ('1003', 'cargo bike',       'being assembled',    'next Friday',        2890.00),
    ('1004', 'bicycle lock',     'on its way',         'on Wednesday',         39.50),
    ('1005', 'electric bike',    'ready for pick up',  '',                   2199.00),
    ('1006', 'child seat',       'on its way',         'in two days',         119.00),
    ('1007', 'front light',      'delivered',          '',                     34.90),
    ('1008', 'folding bike',     'waiting for a part', 'in ten days',         899.00),
    ('1009', 'rain jacket',      'returned',           '',                     79.00),
    ('1010', 'road bike',        'on its way',         'on Monday',          1499.00),
    ('1011', 'tyre repair kit',  'delivered',          '',                     12.50),
    ('1012', 'mountain bike',    'being assembled',    'next week',          1290.00),
    ('1013', 'bicycle bell',     'cancelled',          '',                      9.90),
    ('1014', 'luggage rack',     'on its way',         'tomorrow',             54.00),
    ('1015', 'saddle bag',       'ready for pick up',  '',                     44.90),
    ('1016', 'bicycle pump',     'on its way',         'on Thursday',          27.00),
    ('1017', 'winter gloves',    'delivered',          '',                     29.90),
    ('1018', 'bicycle trailer',  'waiting for a part', 'in three weeks',      349.00),
    ('1019', 'spare battery',    'being tested',       'next Tuesday',        529.00),
    ('1020', 'gravel bike',      'on its way',         'on Friday',          1799.00);
