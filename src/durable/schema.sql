-- The engine's own tables and what it changes about apalis 1.0. Idempotent; run by durable::setup under an advisory lock.

-- One row per run. `seq` is the fencing token: every claim and every lying down raises it, every write must know it.
-- `awake` says that exactly one activation (a row of apalis.jobs whose id is `job_id`) exists; a run that is not awake has none.
create table if not exists durable.run (
    run_id uuid primary key,
    job_id text not null,
    workflow text not null,
    key text,
    scope uuid,
    status text not null default 'running'
        check (status in ('running', 'waiting', 'succeeded', 'undoing', 'undone', 'stuck', 'cancelled')),
    input json not null,
    output json,
    error json,
    waiting_for text,
    seq bigint not null default 0,
    awake boolean not null default true,
    wake_at timestamptz,
    wait_topic text,
    wait_key text,
    cancel_at timestamptz,
    created_at timestamptz not null default durable.now(),
    ended_at timestamptz
) with (fillfactor = 80);
-- The step to which a signal is the answer; the run that started this one; when its journal was forgotten.
alter table durable.run
    add column if not exists wait_step text,
    add column if not exists parent_id uuid,
    add column if not exists forgotten_at timestamptz;
create unique index if not exists run_key on durable.run (workflow, key) where key is not null;
create index if not exists run_wake on durable.run (wake_at) where wake_at is not null;
create index if not exists run_wait on durable.run (wait_topic, wait_key) where wait_topic is not null;
create index if not exists run_scope on durable.run (scope, run_id) where scope is not null;
create index if not exists run_ended on durable.run (ended_at) where ended_at is not null and forgotten_at is null;
create index if not exists run_attention on durable.run (status, run_id) where status in ('waiting', 'undoing', 'stuck');

-- One row per step that was begun and did not end at once, or ended. No foreign key: the fence reads the run anyway.
create table if not exists durable.step (
    run_id uuid not null,
    name text not null,
    position integer not null,
    status text not null check (status in ('running', 'retrying', 'waiting', 'done', 'failed', 'abandoned')),
    attempts integer not null default 0,
    output json,
    error json,
    deadline timestamptz,
    started_at timestamptz not null,
    ended_at timestamptz,
    primary key (run_id, name)
);

-- Mailboxes: a signal stays until a run takes it.
create table if not exists durable.mail (
    mail_id bigint generated always as identity,
    topic text not null,
    key text not null,
    body json not null,
    sent_at timestamptz not null default durable.now(),
    primary key (topic, key, mail_id)
);
create index if not exists mail_sent on durable.mail (sent_at);

-- Cron cursors: the next tick that nobody has enqueued yet.
create table if not exists durable.tick (
    name text primary key,
    cron text not null,
    zone text not null,
    next_at timestamptz not null
);
-- Whether every tick counts, missed ones too; if not, the latest one stands for all that were missed.
alter table durable.tick add column if not exists each_counts boolean not null default true;

-- One lock per topic and key, for waiters and senders alike.
create or replace function durable.mailbox_lock(topic text, key text) returns bigint language sql immutable parallel safe as $$
    select hashtextextended(topic || chr(31) || key, 7)
$$;

-- Gives sleeping runs their next activation; awake and ended ones are left alone. Says which it woke.
create or replace function durable.wake(runs uuid[]) returns uuid[] language plpgsql as $$
declare
    woken uuid[];
begin
    if coalesce(cardinality(runs), 0) = 0 then
        return '{}';
    end if;
    with up as (
        update durable.run set
            awake = true, wake_at = null, wait_topic = null, wait_key = null, wait_step = null, waiting_for = null,
            status = case
                when status not in ('waiting', 'stuck') then status
                when error is null and cancel_at is null then 'running'
                else 'undoing'
            end
        where run_id = any(runs) and not awake and ended_at is null
        returning run_id, job_id
    ), pushed as (
        insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
        select job_id, 'durable.run', convert_to('{"run_id":"' || run_id || '"}', 'utf8'), 'Pending', 0, 50, durable.now(), 0
        from up
    )
    select coalesce(array_agg(run_id), '{}') into woken from up;
    return woken;
end $$;

-- Wakes what is due, at most `most`; says how many.
create or replace function durable.wake_due(most integer) returns integer language plpgsql as $$
begin
    return cardinality(durable.wake(array(
        select run_id from durable.run where wake_at <= durable.now() order by wake_at limit most for update skip locked
    )));
end $$;

-- Hands signals over: the first to the run that lies down for its mailbox, as the answer of its wait; the others stay in the
-- mailbox. The locks are held until the sender commits, so no waiter can look, see nothing, and lie down in between; they are
-- taken in one order, so that two senders never wait for each other.
create or replace function durable.signal(to_topic text, keys text[], bodies text[]) returns void language plpgsql as $$
declare
    waiters uuid[];
begin
    perform pg_advisory_xact_lock(box)
        from (select distinct durable.mailbox_lock(to_topic, key) as box from unnest(keys) as key order by box) boxes;
    with letter as (
        select key, body::json as body, i, row_number() over (partition by key order by i) as nth
        from unnest(keys, bodies) with ordinality as letter (key, body, i)
    ), waiter as (
        select run_id, wait_step, wait_key as key from durable.run
        where wait_topic = to_topic and wait_key = any(keys) order by run_id for no key update
    ), queue as (
        select *, row_number() over (partition by key order by run_id) as nth from waiter
    ), taken as (
        update durable.step set status = 'done', output = json_build_array(letter.body), ended_at = durable.now()
        from queue join letter using (key, nth)
        where step.run_id = queue.run_id and step.name = queue.wait_step and step.status = 'waiting'
        returning letter.i
    ), kept as (
        insert into durable.mail (topic, key, body)
        select to_topic, key, body from letter where i not in (select i from taken) order by i
    )
    select array_agg(run_id) into waiters from waiter;
    perform durable.wake(waiters);
end $$;

-- Keyed jobs that were wanted while one with that key was there. Whoever claims that one strikes off what had been committed by
-- then, for the job will see it; what is left when it is done, or comes later, makes it run again. Nobody waits for anybody.
create table if not exists durable.wanted (
    wanted_id bigint generated always as identity,
    queue text not null,
    key text not null,
    payload bytea not null,
    max_attempts integer not null,
    primary key (queue, key, wanted_id)
);

-- apalis keeps two of its indexes twice, and two full ones of which the engine needs the rows with a value alone. An activation
-- is written five times in its life, so each index counts.
drop index if exists apalis.lidx;
drop index if exists apalis.unique_job_id;
alter table apalis.jobs drop constraint if exists fk_worker_lock_by;
do $$
begin
    if not exists (select from pg_indexes where schemaname = 'apalis' and indexname = 'durable_lock_by') then
        drop index if exists apalis.idx_apalis_jobs_lock_by;
        drop index if exists apalis.idx_jobs_idempotency_key;
        create index durable_lock_by on apalis.jobs (lock_by) where lock_by is not null;
        create unique index durable_key on apalis.jobs (job_type, idempotency_key) where idempotency_key is not null;
    end if;
end $$;
-- People look at the dead beside any number of the living.
create index if not exists durable_dead on apalis.jobs (id) where status = 'Killed';

-- apalis scans the whole backlog per fetch and lives in real time only. This walks the fetch index from the highest priority
-- down, reads due rows alone, and lives by durable.now().
create or replace function apalis.get_jobs(worker_id text, v_job_type text, v_job_count integer default 5)
returns setof apalis.jobs language plpgsql volatile as $$
declare
    due timestamptz := durable.now();
    want integer := v_job_count;
    level integer;
    got integer;
begin
    -- In place of apalis's foreign key, which would ask once per row: nobody claims under a name that has been struck off.
    if worker_id is not null then
        perform from apalis.workers where id = worker_id for key share;
        if not found then
            return;
        end if;
    end if;
    select max(priority) into level from apalis.jobs where job_type = v_job_type and status = 'Pending';
    while level is not null and want > 0 loop
        return query
            with claimed as (
                update apalis.jobs set status = 'Queued', lock_by = worker_id, lock_at = clock_timestamp()
                where id = any(array(
                    select id from apalis.jobs
                    where job_type = v_job_type and status = 'Pending' and priority = level and run_at <= due
                    order by run_at limit want for update skip locked
                ))
                returning *
            ), struck as (
                delete from durable.wanted using claimed
                where wanted.queue = v_job_type and wanted.key = claimed.idempotency_key
            )
            select * from claimed;
        get diagnostics got = row_count;
        want := want - got;
        select max(priority) into level from apalis.jobs
            where job_type = v_job_type and status = 'Pending' and priority < level;
    end loop;
end $$;

-- apalis notifies once per row with the row's id; here one notification per queue and transaction.
create or replace function durable.tell_workers() returns trigger language plpgsql as $$
begin
    perform pg_notify('durable_job', queue)
        from (select distinct job_type as queue from fresh where status = 'Pending' and run_at <= durable.now()) due;
    return null;
end $$;
drop trigger if exists notify_workers on apalis.jobs;
create or replace trigger durable_tell_workers after insert on apalis.jobs
    referencing new table as fresh for each statement execute function durable.tell_workers();

create table if not exists durable.version (
    one boolean primary key default true check (one),
    apalis bigint not null,
    schema_hash text not null
);
