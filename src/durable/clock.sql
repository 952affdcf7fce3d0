-- The one clock: real time plus what a sandbox has advanced it by. Also run as migration 0001, so that later migrations may
-- use durable.now() in a default; must stay idempotent.
create schema if not exists durable;

create table if not exists durable.clock (
    one boolean primary key default true check (one),
    advanced_us bigint not null default 0 check (advanced_us >= 0)
);
insert into durable.clock default values on conflict do nothing;

create or replace function durable.now() returns timestamptz language sql stable parallel safe as $$
    select clock_timestamp() + (select advanced_us from durable.clock) * interval '1 microsecond'
$$;
