-- What is charged and what it costs: rate cards, charges, credit, the ledger, the month's invoices and their payment.
--
-- Charged amounts are ledger units of 0.0001 MAD, costs are millionths of a dollar. A month is its first day.

-- How a messaging account is billed by Meta: prices change at midnight of its own time zone.
create table messaging_account (
    messaging_account text primary key,
    time_zone text not null default 'Africa/Casablanca',
    currency text not null default 'USD'
);

-- Meta's rate cards; a row holds until its valid_to or the next row of its kind.
create table rate (
    market text not null,
    category text not null,
    currency text not null,
    price_micro bigint not null check (price_micro >= 0),
    valid_from date not null,
    valid_to date check (valid_to > valid_from),
    source text not null,
    primary key (market, category, currency, valid_from)
);
-- From when a country belongs to a market.
create table market_of (
    country text not null check (country ~ '^[A-Z]{2}$'),
    market text not null,
    valid_from date not null,
    valid_to date check (valid_to > valid_from),
    source text not null,
    primary key (country, valid_from)
);
create table exchange_rate (
    currency text not null,
    valid_from date not null,
    -- Millionths of a dirham for one unit of the currency.
    micro_mad bigint not null check (micro_mad > 0),
    source text not null,
    primary key (currency, valid_from)
);
-- What numbers cost at Telnyx.
create table number_price (
    country text not null check (country ~ '^[A-Z]{2}$'),
    number_type text not null,
    monthly_micro bigint not null check (monthly_micro >= 0),
    upfront_micro bigint not null check (upfront_micro >= 0),
    valid_from date not null,
    valid_to date check (valid_to > valid_from),
    source text not null,
    primary key (country, number_type, valid_from)
);

-- One per outbound wamid, ever.
create table charge (
    -- SHA-256: a wamid spells the person's number.
    wamid_hash bytea primary key check (length(wamid_hash) = 32),
    tenant_id uuid not null references tenant,
    line_id uuid not null references line,
    message_id uuid not null,
    -- provisional from sent, final from the first delivered or read, reversed if neither comes.
    state text not null check (state in ('provisional', 'final', 'reversed')),
    category text not null,
    -- Null: Meta has not told (yet); then it is charged as regular.
    pricing_type text check (pricing_type in ('regular', 'free_customer_service', 'free_entry_point')),
    -- Which status told the price (3 delivered, 2 read, 1 sent) and when: the order of arrival decides nothing.
    pricing_rank smallint not null default 0,
    pricing_at timestamptz,
    country text,
    sent_at timestamptz,
    failed_at timestamptz,
    -- First delivered or read.
    happened_at timestamptz,
    price_units bigint not null check (price_units >= 0),
    -- Null: no rate card was loaded for it.
    market text,
    rate_valid_from date,
    cost_micro bigint,
    -- The cost in ledger units, at the exchange rate of the day.
    cost_units bigint,
    -- The month of happened_at in the tenant's time zone, and the month on whose invoice it stands: a later one if it was closed.
    usage_month date check (extract(day from usage_month) = 1),
    billing_month date check (extract(day from billing_month) = 1),
    noted_at timestamptz not null default durable.now(),
    check (state <> 'final' or (happened_at is not null and usage_month is not null and billing_month >= usage_month))
);
-- All that adding up a month reads, without the rows themselves.
create index charge_of_month on charge (billing_month, tenant_id, usage_month, category, price_units) where state = 'final';
create index charge_of_line on charge (line_id, happened_at);
create index charge_provisional on charge (sent_at) where state = 'provisional';
create index charge_without_cost on charge (wamid_hash) where state = 'final' and cost_units is null;

-- Amounts to add to (or take from) the next invoice.
create table adjustment (
    adjustment_id uuid primary key,
    tenant_id uuid not null references tenant,
    -- The month on whose invoice it stands; null until one takes it.
    billing_month date,
    amount_units bigint not null check (amount_units % 100 = 0 and amount_units <> 0),
    description text not null,
    created_at timestamptz not null default durable.now()
);
create index adjustment_of_tenant on adjustment (tenant_id, billing_month);

-- Credit. The row is the lock of a tenant's reservations; what is given back or charged meanwhile waits in credit_delta, so that
-- webhooks never wait for senders.
create table credit (
    tenant_id uuid primary key references tenant,
    reserved_units bigint not null default 0,
    -- The last warning: month and percent.
    warned_month date,
    warned_percent smallint not null default 0
);
create table credit_month (
    tenant_id uuid not null references tenant,
    month date not null,
    charged_units bigint not null default 0,
    primary key (tenant_id, month)
);
create table credit_delta (
    tenant_id uuid not null,
    -- Null with reserved_units.
    month date,
    charged_units bigint not null default 0,
    reserved_units bigint not null default 0
);
create index credit_delta_of_tenant on credit_delta (tenant_id);

-- Whoever may spend more is warned anew.
create function warn_anew() returns trigger language plpgsql as $$
begin
    update credit set warned_percent = 0 where tenant_id = new.tenant_id;
    return null;
end $$;
create trigger tenant_limit_raised after update of credit_limit_units on tenant for each row
    when (new.credit_limit_units > old.credit_limit_units) execute function warn_anew();

-- A reservation ends with its message, whoever ends it.
create function end_reservation() returns trigger language plpgsql as $$
begin
    new.reserved_units := 0;
    return new;
end $$;
create trigger message_reservation_ends before update on message for each row
    when (new.reserved_units > 0 and new.status in ('failed', 'parked')) execute function end_reservation();
create function give_back_reservation() returns trigger language plpgsql as $$
begin
    insert into credit_delta (tenant_id, reserved_units) values (old.tenant_id, new.reserved_units - old.reserved_units);
    return null;
end $$;
create trigger message_reservation_given_back after update on message for each row
    when (new.reserved_units < old.reserved_units) execute function give_back_reservation();

-- The ledger: a chain of entries per tenant. The head's row is the lock of the chain, and of the tenant's periods.
create table ledger_head (
    tenant_id uuid primary key references tenant,
    seq bigint not null default 0,
    hash bytea check (length(hash) = 32)
);
create table ledger_entry (
    tenant_id uuid not null references tenant,
    seq bigint not null check (seq > 0),
    at timestamptz not null,
    kind text not null,
    -- {"tenant_id","seq","at_us","kind","detail","postings"}: what is hashed.
    body jsonb not null,
    hash bytea not null check (length(hash) = 32),
    primary key (tenant_id, seq)
);
create table ledger_posting (
    tenant_id uuid not null,
    seq bigint not null,
    account text not null,
    -- MAD: ledger units; USD: millionths. Debits are positive.
    currency text not null check (currency in ('MAD', 'USD')),
    amount bigint not null check (amount <> 0),
    primary key (tenant_id, seq, account, currency),
    foreign key (tenant_id, seq) references ledger_entry
);
create index ledger_posting_of_account on ledger_posting (tenant_id, account);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end $$;
create trigger ledger_entry_stays before update or delete or truncate on ledger_entry for each statement execute function refuse_change();
create trigger ledger_posting_stays before update or delete or truncate on ledger_posting for each statement execute function refuse_change();
-- Every statement that posts, posts whole entries.
create function refuse_imbalance() returns trigger language plpgsql as $$
begin
    if exists (select from posted group by tenant_id, seq, currency having sum(amount) <> 0) then
        raise exception 'a ledger entry does not balance' using errcode = 'check_violation';
    end if;
    return null;
end $$;
create trigger ledger_posting_balances after insert on ledger_posting referencing new table as posted
    for each statement execute function refuse_imbalance();

-- Months that are closed: what happens in them from now on stands on a later invoice.
create table billing_period (
    tenant_id uuid not null references tenant,
    month date not null check (extract(day from month) = 1),
    frozen_at timestamptz not null default durable.now(),
    primary key (tenant_id, month)
);

-- The series of numbers, one per kind and calendar year; the row is the lock.
create table invoice_series (
    kind text not null check (kind in ('invoice', 'credit_note')),
    year integer not null,
    last bigint not null default 0,
    primary key (kind, year)
);
-- All documents are one chain, in the order of issue; the row is the lock.
create table invoice_head (
    one boolean primary key default true check (one),
    seq bigint not null default 0,
    hash bytea check (length(hash) = 32)
);
insert into invoice_head default values;

create table invoice (
    invoice_id uuid primary key,
    kind text not null check (kind in ('invoice', 'credit_note')),
    tenant_id uuid not null references tenant,
    month date not null check (extract(day from month) = 1),
    status text not null default 'draft' check (status in ('draft', 'final', 'sent', 'paid', 'overdue')),
    -- The invoice that a credit note takes back from.
    corrects uuid references invoice,
    reason text,
    -- From here to hash: null in a draft, fixed from then on.
    number text unique,
    issued_at timestamptz,
    due_at timestamptz,
    net_units bigint not null check (net_units % 100 = 0),
    vat_units bigint not null check (vat_units % 100 = 0),
    total_units bigint not null check (total_units = net_units + vat_units),
    -- Place in the chain of documents; the canonical record that is hashed, with seller, buyer and lines as they were.
    seq bigint unique,
    body jsonb,
    hash bytea check (length(hash) = 32),
    previous_hash bytea check (length(previous_hash) = 32),
    sent_at timestamptz,
    paid_at timestamptz,
    -- Times a reminder was sent.
    reminders smallint not null default 0,
    created_at timestamptz not null default durable.now(),
    check ((corrects is not null) = (kind = 'credit_note')),
    check ((status = 'draft') = (number is null)),
    check (number is null or (issued_at is not null and seq is not null and body is not null and hash is not null))
);
create unique index invoice_of_month on invoice (tenant_id, month) where kind = 'invoice';
create index invoice_corrected on invoice (corrects) where corrects is not null;
create index invoice_by_month on invoice (month, number);

-- A numbered document never changes, but for how far it has come.
create function keep_invoice() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        raise exception 'an issued invoice is never deleted' using errcode = 'restrict_violation';
    end if;
    if (to_jsonb(old) - array['status', 'sent_at', 'paid_at', 'reminders']) is distinct from (to_jsonb(new) - array['status', 'sent_at', 'paid_at', 'reminders']) then
        raise exception 'an issued invoice never changes' using errcode = 'restrict_violation';
    end if;
    return new;
end $$;
create trigger invoice_stays before update or delete on invoice for each row when (old.status <> 'draft') execute function keep_invoice();
create trigger invoice_no_truncate before truncate on invoice for each statement execute function refuse_change();
-- The lines as they were hashed, for whoever asks the database.
create view invoice_line as
    select i.invoice_id, l.place::integer as position, l.line ->> 'kind' as kind, l.line ->> 'category' as category,
        (l.line ->> 'usage_month' || '-01')::date as usage_month, l.line ->> 'description' as description, (l.line ->> 'quantity')::bigint as quantity,
        ((l.line ->> 'unit_price')::numeric * 10000)::bigint as unit_price_units, ((l.line ->> 'amount')::numeric * 10000)::bigint as amount_units
    from invoice i, jsonb_array_elements(i.body -> 'lines') with ordinality as l(line, place);

create table payment (
    payment_id uuid primary key,
    invoice_id uuid not null references invoice,
    tenant_id uuid not null references tenant,
    amount_units bigint not null check (amount_units > 0 and amount_units % 100 = 0),
    paid_at timestamptz not null,
    reference text not null,
    created_at timestamptz not null default durable.now(),
    unique (invoice_id, reference)
);
create index payment_of_tenant on payment (tenant_id, paid_at);

-- What was done about an unpaid invoice.
create table dunning (
    invoice_id uuid not null references invoice,
    step text not null check (step in ('overdue', 'reminder_1', 'reminder_2', 'suspended', 'resumed')),
    at timestamptz not null default durable.now(),
    primary key (invoice_id, step)
);
