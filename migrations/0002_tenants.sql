-- Tenants and their prices, keys, idempotency, what comes in (inbox, quarantine) and what goes out (event, callback).

create table tenant (
    tenant_id uuid primary key,
    name text not null,
    -- Legal identity: ICE (15 digits), IF, RC, TP, address. Null or empty until it is known.
    ice text,
    fiscal_id text,
    rc text,
    tp text,
    address text,
    contact_name text,
    contact_email text,
    contact_phone text,
    billing_email text,
    -- platform: Meta bills us and we bill the messages; direct: the tenant pays Meta itself, we bill the base fee.
    billing_mode text not null default 'platform' check (billing_mode in ('platform', 'direct')),
    -- Net per month, in ledger units of 0.0001 MAD.
    credit_limit_units bigint not null check (credit_limit_units >= 0),
    status text not null default 'active' check (status in ('active', 'suspended', 'cancelled')),
    language text not null default 'fr' check (language in ('fr', 'ar', 'en')),
    time_zone text not null default 'Africa/Casablanca',
    -- Words and files of messages are erased after so many months; their rows stay.
    retention_months integer not null default 24 check (retention_months between 1 and 120),
    created_at timestamptz not null default durable.now(),
    updated_at timestamptz not null default durable.now()
);

-- What a tenant pays, from a day on (a day of its own time zone). Ledger units of 0.0001 MAD.
create table plan_price (
    tenant_id uuid not null references tenant,
    valid_from date not null,
    plan text not null default 'basic' check (plan in ('basic', 'pro', 'enterprise')),
    base_fee_units bigint not null check (base_fee_units >= 0),
    price_per_message_units bigint not null check (price_per_message_units >= 0),
    -- A month's rent of one number; 0: the base fee covers it.
    number_rent_units bigint not null default 0 check (number_rent_units >= 0),
    primary key (tenant_id, valid_from)
);

-- A key is 256 random bits, shown once; here is its SHA-256.
create table api_key (
    key_id uuid primary key,
    hash bytea not null unique check (octet_length(hash) = 32),
    -- The first characters, so that people can tell keys apart.
    hint text not null,
    role text not null check (role in ('checkout', 'recruiter', 'finance', 'admin')),
    tenant_id uuid references tenant,
    created_at timestamptz not null default durable.now(),
    revoked_at timestamptz,
    check (case role when 'recruiter' then tenant_id is not null when 'finance' then true else tenant_id is null end)
);
create index api_key_of_tenant on api_key (tenant_id, key_id);

-- The first answer to a request, written in the transaction of its work.
create table idempotency (
    -- The tenant of the key; the nil UUID for keys without one.
    scope uuid not null,
    key text not null,
    -- SHA-256 of method, path and body.
    request_hash bytea not null check (octet_length(request_hash) = 32),
    status smallint not null,
    location text,
    -- Sealed (idempotency:body:<scope>/<key>): the answer to a new key holds the key.
    body_sealed bytea not null,
    created_at timestamptz not null default durable.now(),
    primary key (scope, key)
);
create index idempotency_age on idempotency (created_at);

-- Every webhook, once: Telnyx by data.id, Meta by the hash of the body.
create table inbox (
    provider text not null check (provider in ('telnyx', 'meta')),
    event_id text not null,
    received_at timestamptz not null default durable.now(),
    kind text not null,
    -- Raw bytes, sealed (inbox:body:<provider>:<event_id>); null once its messages and statuses are kept in their own tables,
    -- so that erasing a person erases what they said.
    body_sealed bytea,
    taken_at timestamptz,
    primary key (provider, event_id)
);
create index inbox_age on inbox (received_at);
create index inbox_untaken on inbox (received_at) where taken_at is null;

-- Events that belong to nobody we know (yet): listed, and replayed when they do.
create table quarantine (
    quarantine_id uuid primary key,
    provider text not null,
    event_id text not null,
    -- What could not be placed, such as a phone_number_id or a number.
    subject text not null,
    reason text not null,
    created_at timestamptz not null default durable.now(),
    replayed_at timestamptz,
    foreign key (provider, event_id) references inbox on delete cascade,
    unique (provider, event_id, subject)
);

-- What API keys are told live, in the order of event_id.
create table event (
    event_id bigint generated always as identity primary key,
    tenant_id uuid not null,
    type text not null,
    data jsonb not null,
    occurred_at timestamptz not null default durable.now()
);
create index event_of_tenant on event (tenant_id, event_id);
create index event_age on event (occurred_at);

-- The last event_id given out.
create function event_head() returns bigint language sql volatile as $$
    select last_value - (not is_called)::int from event_event_id_seq
$$;

-- A transaction that writes events holds, from before its first id until its end, a shared lock that names the id before it:
-- so readers know below which id nothing can appear any more.
create function begin_events() returns trigger language plpgsql as $$
begin
    if coalesce(current_setting('ligne.events', true), '') = '' then
        perform pg_advisory_xact_lock_shared(1701734000, (event_head() & 2147483647)::int);
        perform set_config('ligne.events', 'begun', true);
    end if;
    return null;
end $$;
create trigger event_begin before insert on event for each statement execute function begin_events();

-- Readers are told which tenants to look at, and no more.
create function tell_events() returns trigger language plpgsql as $$
begin
    perform pg_notify('ligne_event', told.tenant_id::text) from (select distinct tenant_id from added) as told;
    return null;
end $$;
create trigger event_tell after insert on event referencing new table as added for each statement execute function tell_events();

-- Every event up to this id has committed, or never will. The head first, then the locks: whoever has an id up to that head
-- holds its lock by now, or has ended. Locks name 31 bits; one that is ahead of the head concerns later ids alone.
create function event_tail(out head bigint, out tail bigint) language plpgsql volatile as $$
begin
    head := event_head();
    select coalesce(min(head - behind), head) into tail
    from (select (head - objid::bigint) & 2147483647 as behind from pg_locks
          where locktype = 'advisory' and classid = 1701734000 and objsubid = 2
            and database = (select oid from pg_database where datname = current_database())) as writer
    where behind < 1073741824;
end $$;

-- Outgoing callbacks: a row is the message, a job delivers it.
create table callback (
    callback_id uuid primary key,
    tenant_id uuid not null references tenant,
    url text not null,
    type text not null,
    -- The exact bytes that are signed and sent.
    body text not null,
    attempts integer not null default 0,
    -- When it is tried next; null: delivered, or given up.
    next_at timestamptz default durable.now(),
    last_status smallint,
    last_error text,
    created_at timestamptz not null default durable.now(),
    -- Since when tries count against the three days; a replay starts them again.
    first_tried_at timestamptz,
    delivered_at timestamptz
);
create index callback_due on callback (next_at) where next_at is not null;
