-- Lines, what was bought for them, and how a code came in.

create table line (
    line_id uuid primary key,
    tenant_id uuid not null references tenant,
    -- virtual: bought by us; own: the tenant's, connected by Embedded Signup.
    kind text not null check (kind in ('virtual', 'own')),
    status text not null default 'ordered' check (status in
        ('ordered', 'bought', 'linked', 'verified', 'registered', 'live', 'paused', 'restricted', 'releasing', 'released', 'failed')),
    -- What it waits for, or why it is no longer what it was; a sentence for people.
    reason text,
    country text not null check (country ~ '^[A-Z]{2}$'),
    -- As Meta names them: fr, ar, en_US. The language of the code and of what is asked of people.
    language text not null default 'fr',
    display_name text not null,
    -- Meta's word for the review: PENDING_REVIEW, APPROVED, DECLINED, ...
    name_status text,
    profile jsonb not null default '{}',
    logo bytea,
    logo_type text check (logo_type in ('image/png', 'image/jpeg')),
    callback_url text,
    introduction text not null default 'auto' check (introduction in ('auto', 'off')),
    -- E.164.
    phone text check (phone ~ '^\+[1-9][0-9]{6,14}$'),
    -- Telnyx's id of the number: a decimal string beyond 2^53.
    number_id text,
    phone_number_id text,
    messaging_account text,
    portfolio text,
    -- Meta's coming id of the WhatsApp account; null today.
    waac_id text,
    quality text,
    throughput text,
    -- line:token:<line_id> and line:pin:<line_id>.
    token_sealed bytea,
    pin_sealed bytea,
    -- Millionths of cost_currency, as the provider told before it was bought.
    setup_cost_micro bigint,
    monthly_cost_micro bigint,
    -- What the provider had charged by the day of the release.
    final_cost_micro bigint,
    cost_currency text,
    provision_run uuid,
    release_run uuid,
    created_at timestamptz not null default durable.now(),
    changed_at timestamptz not null default durable.now(),
    bought_at timestamptz,
    live_at timestamptz,
    ended_at timestamptz,
    check ((logo is null) = (logo_type is null))
);
create unique index line_phone on line (phone) where phone is not null and status not in ('released', 'failed');
create unique index line_phone_number on line (phone_number_id)
    where phone_number_id is not null and status not in ('released', 'failed');
create index line_of_tenant on line (tenant_id, line_id);

-- The budget of a number, which Meta counts whoever owns it: written before the call, so that a lost answer counts too.
create table number_call (
    number_call_id bigint generated always as identity primary key,
    phone text not null,
    call text not null check (call in ('request_code', 'verify_code', 'register', 'deregister')),
    run_id uuid not null,
    called_at timestamptz not null default durable.now(),
    -- ok, or the code of the refusal; null if nobody knows.
    outcome text
);
create index number_call_window on number_call (phone, call, called_at);
-- 133016 and its like: no call of this sort before that time.
create table number_lockout (
    phone text not null,
    call text not null,
    until timestamptz not null,
    code text not null,
    primary key (phone, call)
);

-- A code that a run has asked for. Calls are answered and texts read only while one is open, and for that run alone.
create table code_request (
    code_request_id uuid primary key,
    run_id uuid not null,
    line_id uuid not null references line,
    phone text not null,
    method text not null check (method in ('voice', 'sms')),
    language text not null,
    since timestamptz not null,
    until timestamptz not null,
    closed_at timestamptz,
    -- Codes passed on to the run, so that none is passed on twice: code_request:passed:<code_request_id>.
    passed_sealed bytea[] not null default '{}'
);
create unique index code_request_open on code_request (phone) where closed_at is null;
create index code_request_of_run on code_request (run_id);

-- A call that we answered, bound to the request that was open when it came.
create table call_leg (
    call_leg_id text primary key,
    call_control_id text not null,
    code_request_id uuid not null references code_request on delete cascade,
    started_at timestamptz not null,
    ended_at timestamptz
);
create index call_leg_of_request on call_leg (code_request_id);

-- What was said on a leg. Events may come before the leg is known, so there is no foreign key.
create table heard (
    -- The event's id, or the recording's with the engine that heard it.
    heard_id text primary key,
    call_leg_id text not null,
    at timestamptz not null,
    source text not null check (source in ('live', 'recording')),
    is_final boolean,
    -- heard:text:<heard_id>
    text_sealed bytea not null,
    created_at timestamptz not null default durable.now()
);
create index heard_of_leg on heard (call_leg_id, at);
create index heard_age on heard (created_at);

-- One number that a run set out to buy.
create table purchase (
    purchase_id uuid primary key,
    run_id uuid not null,
    line_id uuid not null references line,
    customer_reference text not null,
    phone text not null,
    -- Millionths of currency.
    upfront_micro bigint,
    monthly_micro bigint,
    currency text,
    -- When the order call was last begun; null if never: then nothing can have been bought.
    called_at timestamptz,
    calls integer not null default 0,
    -- A call was made whose outcome nobody knows.
    in_doubt boolean not null default false,
    -- The code of the last refusal.
    refusal text,
    order_id text,
    -- open until it is known; taken: somebody else's; void: refused, cancelled or failed without a number.
    outcome text not null default 'open' check (outcome in ('open', 'ordered', 'owned', 'taken', 'void', 'released')),
    created_at timestamptz not null default durable.now(),
    unique (run_id, phone)
);
-- No two runs go after the same number.
create unique index purchase_live on purchase (phone) where outcome in ('open', 'ordered', 'owned');
create index purchase_of_line on purchase (line_id);
create index purchase_of_reference on purchase (customer_reference);

-- What was meant, done and answered, each hash covering the one before: proof of exactly one purchase.
create table receipt (
    seq bigint primary key,
    purchase_id uuid not null references purchase,
    record jsonb not null,
    hash bytea not null check (length(hash) = 32)
);
create index receipt_of_purchase on receipt (purchase_id, seq);

-- Numbers at a provider that no line of ours claims. Listed for a person; nothing is deleted by itself.
create table orphan_number (
    provider text not null check (provider in ('telnyx', 'meta')),
    -- The provider's id of the number.
    number_id text not null,
    phone text not null,
    customer_reference text,
    why text not null,
    first_seen_at timestamptz not null default durable.now(),
    last_seen_at timestamptz not null default durable.now(),
    primary key (provider, number_id)
);

-- What a portfolio may have, as Meta last told.
create table portfolio_limit (
    messaging_account text primary key,
    max_numbers integer,
    told_at timestamptz not null
);
