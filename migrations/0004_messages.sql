-- Contacts, conversations, templates, messages and the lanes that send them.

create table contact (
    contact_id uuid primary key,
    tenant_id uuid not null references tenant,
    name text,
    language text,
    -- Opting out by API or stop word blocks everything; Meta's user_preferences stop blocks marketing only.
    opted_out boolean not null default false,
    marketing_opted_out boolean not null default false,
    -- When each was last wished: an older word that comes late changes nothing.
    wished_at timestamptz,
    marketing_wished_at timestamptz,
    consent_source text,
    consent_at timestamptz,
    last_contacted_at timestamptz,
    last_replied_at timestamptz,
    erased_at timestamptz,
    created_at timestamptz not null default durable.now()
);
create index contact_of_tenant on contact (tenant_id, contact_id);

-- Who a contact is known as, and from when to when: a phone may later belong to someone else.
create table contact_alias (
    tenant_id uuid not null references tenant,
    kind text not null check (kind in ('phone', 'bsuid', 'parent_bsuid')),
    value text not null,
    contact_id uuid not null references contact on delete cascade,
    valid_from timestamptz not null default durable.now(),
    valid_to timestamptz
);
create unique index contact_alias_live on contact_alias (tenant_id, kind, value) where valid_to is null;
create index contact_alias_of_contact on contact_alias (contact_id, kind, valid_to);

create table conversation (
    conversation_id uuid primary key,
    tenant_id uuid not null references tenant,
    line_id uuid not null references line,
    contact_id uuid not null references contact,
    status text not null default 'active' check (status in ('active', 'closed', 'archived', 'opted_out')),
    stage text not null default 'initial_contact'
        check (stage in ('initial_contact', 'screening', 'interview_scheduled', 'offer_sent', 'hired', 'rejected')),
    job_reference text,
    recruiter text,
    -- End of the customer service window, from the newest inbound message's own timestamp.
    window_until timestamptz,
    introduced_at timestamptz,
    unread integer not null default 0,
    message_count integer not null default 0,
    last_message_at timestamptz,
    last_message_from text check (last_message_from in ('us', 'contact')),
    created_at timestamptz not null default durable.now(),
    unique (line_id, contact_id)
);
create index conversation_of_tenant on conversation (tenant_id, last_message_at desc nulls last, conversation_id);
create index conversation_of_contact on conversation (contact_id);

-- One definition that every tenant's account gets a copy of.
create table global_template (
    global_template_id uuid primary key,
    name text not null,
    language text not null,
    category text not null check (category in ('MARKETING', 'UTILITY', 'AUTHENTICATION')),
    components jsonb not null,
    parameter_format text not null check (parameter_format in ('NAMED', 'POSITIONAL')),
    -- The introduction sent before the first message to a contact.
    introduction boolean not null default false,
    introduces boolean not null default false,
    message_send_ttl_seconds integer,
    created_at timestamptz not null default durable.now(),
    unique (name, language)
);

create table template (
    template_id uuid primary key,
    tenant_id uuid not null references tenant,
    global_template_id uuid references global_template,
    name text not null,
    -- The name at Meta, which carries the tenant's prefix: many tenants share one account.
    meta_name text not null,
    messaging_account text not null,
    language text not null,
    category text not null check (category in ('MARKETING', 'UTILITY', 'AUTHENTICATION')),
    components jsonb not null,
    parameter_format text not null check (parameter_format in ('NAMED', 'POSITIONAL')),
    introduces boolean not null default false,
    -- How long Meta tries to deliver what was sent with it; null: as long as it does for the category.
    message_send_ttl_seconds integer,
    status text not null default 'draft' check (status in
        ('draft', 'submitting', 'PENDING', 'APPROVED', 'REJECTED', 'PAUSED', 'DISABLED', 'IN_APPEAL',
         'LIMIT_EXCEEDED', 'PENDING_DELETION', 'DELETED', 'ARCHIVED', 'failed')),
    reason text,
    quality text,
    meta_template_id text,
    paused_until timestamptz,
    -- Meta's own time of the newest event applied; older ones are ignored.
    event_at timestamptz,
    times_sent bigint not null default 0,
    last_used_at timestamptz,
    submitted_at timestamptz,
    approved_at timestamptz,
    run_id uuid,
    version integer not null default 1,
    created_at timestamptz not null default durable.now(),
    deleted_at timestamptz
);
create unique index template_live on template (tenant_id, name, language) where deleted_at is null;
create unique index template_meta_id on template (meta_template_id) where meta_template_id is not null and deleted_at is null;
create index template_meta_name on template (messaging_account, meta_name, language);

-- Template creations per account, for the 100 an hour that Meta allows.
create table template_call (
    messaging_account text not null,
    called_at timestamptz not null default durable.now(),
    run_id uuid not null,
    step integer not null,
    primary key (run_id, step)
);
create index template_call_window on template_call (messaging_account, called_at);

-- Rows are the queue; a lane is the right to work it.
create table lane (
    line_id uuid primary key references line on delete cascade,
    -- Fencing: every hand-over raises it, every write of a holder names it.
    token bigint not null default 0,
    holder text,
    lease_until timestamptz,
    -- What the last holder left: so many sends that may still count at the provider until then (null: as many as the line may
    -- send), and the contacts that it sent to often, with the time at which nothing is owed for it any more.
    counting integer,
    counting_until timestamptz,
    pairs uuid[] not null default '{}',
    pairs_full_at timestamptz[] not null default '{}',
    -- A holder was lost: until then the messages themselves tell whom it sent to.
    look_back_until timestamptz,
    -- A run_lane job is queued or at work; whoever queues a message and finds the lane asleep enqueues one.
    awake boolean not null default false,
    -- What 130429 taught: sends a second, null for the number's own level.
    slowed_to integer,
    stopped_reason text,
    stopped_until timestamptz
);

-- Stops that cover every line of a messaging account (131042 and its kin).
create table account_stop (
    messaging_account text primary key,
    code text not null,
    reason text not null,
    stopped_at timestamptz not null default durable.now(),
    until timestamptz
);

-- Few indexes on purpose: every change that one of them shows writes an entry in each.
create table message (
    message_id uuid primary key,
    tenant_id uuid not null references tenant,
    line_id uuid not null references line,
    contact_id uuid not null references contact,
    conversation_id uuid not null references conversation,
    seq bigint generated always as identity,
    direction text not null check (direction in ('in', 'out')),
    type text not null,
    -- The Cloud API body without its address, sealed (message:content:<id>); null once erased.
    content_sealed bytea,
    template_id uuid references template,
    category text check (category in ('marketing', 'utility', 'authentication', 'service')),
    policy text not null default 'at_most_once' check (policy in ('at_most_once', 'at_least_once')),
    -- 2 introduces or replies, 1 ordinary, 0 bulk.
    priority smallint not null default 1,
    status text not null check (status in
        ('queued', 'sending', 'unknown', 'accepted', 'held', 'sent', 'delivered', 'read', 'failed', 'parked', 'received')),
    -- What indexes ask instead of the status: from acceptance on its changes touch none of them, and PostgreSQL keeps the new row
    -- beside the old one (HOT).
    queued boolean not null generated always as (status = 'queued') stored,
    unsettled boolean not null generated always as (status in ('sending', 'unknown')) stored,
    in_doubt boolean not null generated always as (status in ('held', 'parked')) stored,
    due_at timestamptz not null default durable.now(),
    not_before timestamptz,
    waiting_for text,
    attempts smallint not null default 0,
    attempted_at timestamptz,
    hold_until timestamptz,
    wamid text,
    context_wamid text,
    error_code text,
    error_text text,
    error_class text,
    price_units bigint,
    cost_micro bigint,
    reserved_units bigint not null default 0,
    invoice_number text,
    campaign text,
    created_at timestamptz not null default durable.now(),
    accepted_at timestamptz,
    sent_at timestamptz,
    delivered_at timestamptz,
    read_at timestamptz,
    failed_at timestamptz
) with (fillfactor = 80);
-- The queue of a lane, in the order in which it is worked.
create index message_queue on message (line_id, priority desc, due_at, seq) where queued and direction = 'out';
-- What a contact has queued on a line: the head goes first.
create index message_queued_of_contact on message (line_id, contact_id, priority desc, seq) where queued and direction = 'out';
-- Nothing passes an unsettled attempt to the same contact.
create index message_unsettled on message (line_id, contact_id) where unsettled and direction = 'out';
create index message_of_conversation on message (conversation_id, seq);
create unique index message_wamid on message (wamid) where wamid is not null;
-- Old contents are looked for once a night; it costs next to nothing to keep.
create index message_age on message using brin (created_at);
-- What people are asked about, and what Meta holds: few.
create index message_in_doubt on message (tenant_id, message_id) where in_doubt;
create index message_of_template on message (template_id) where queued;

-- Attempts that did not end in a plain acceptance. An attempt is named `<message_id>.<number>` in biz_opaque_callback_data,
-- so a late webhook for any attempt finds its message without an index of its own.
create table message_attempt (
    message_id uuid not null references message on delete cascade,
    number smallint not null,
    ended_at timestamptz not null default durable.now(),
    outcome text not null check (outcome in ('refused', 'throttled', 'unclear', 'released')),
    code text,
    reason text,
    primary key (message_id, number)
);

-- Each distinct news about a message, kept once, in any order of arrival.
create table message_status (
    message_id uuid not null references message on delete cascade,
    -- The attempt that it is about, and Meta's id of what that attempt sent.
    attempt smallint not null,
    wamid text not null,
    status text not null,
    at timestamptz not null,
    seen_at timestamptz not null default durable.now(),
    code text,
    detail text,
    -- As Meta told: regular, free_customer_service, free_entry_point; marketing, utility, service, ...
    pricing_type text,
    pricing_category text,
    primary key (message_id, attempt, status, at)
);

-- What Meta lets a portfolio do; null: no limit.
create table portfolio (
    portfolio text primary key,
    messaging_limit integer,
    told_at timestamptz not null
);

-- Unique users outside a window, a portfolio and 24 hours.
create table portfolio_use (
    portfolio text not null,
    contact_key text not null,
    tenant_id uuid not null,
    used_at timestamptz not null,
    primary key (portfolio, contact_key)
);
create index portfolio_use_window on portfolio_use (portfolio, used_at);

-- The same, counted: new people by tenant and ten minutes.
create table portfolio_count (
    portfolio text not null,
    tenant_id uuid not null,
    since timestamptz not null,
    people bigint not null,
    primary key (portfolio, tenant_id, since)
);

-- Files of messages: ours, until they expire; theirs, as long as the message's words are kept.
create table media (
    media_id uuid primary key,
    tenant_id uuid not null references tenant,
    line_id uuid not null references line,
    -- The message it came with; null: it was given to us to be sent.
    message_id uuid references message on delete cascade,
    meta_media_id text,
    mime_type text not null,
    filename text,
    size_bytes bigint,
    -- Hex.
    sha256 text,
    -- The file (media:content:<id>); null: not fetched yet, or erased.
    content_sealed bytea,
    -- Why it can never be fetched.
    failed text,
    expires_at timestamptz,
    created_at timestamptz not null default durable.now(),
    erased_at timestamptz
);
create index media_of_message on media (message_id);
create index media_expiry on media (expires_at) where erased_at is null;
