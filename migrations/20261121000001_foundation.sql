-- The metadata of Howdah. Forward only: expand first, contract one release later.

-- Which metadata this is, from its making on, also after a restore. Each `local.root` says in a
-- file which metadata its servers are on record in.
create table metadata (
    id uuid not null default gen_random_uuid(),
    -- There is one row.
    single boolean primary key default true check (single)
);
insert into metadata default values;

create table projects (
    id text primary key,
    create_time timestamptz not null default now()
);
insert into projects (id) values ('default');

-- Machines (more exactly: local roots) that run servers of the provider `local`.
create table hosts (
    id uuid primary key,
    name text not null,
    -- Versions of PostgreSQL that servers can be made of there.
    versions text[] not null default '{}',
    -- Ports that its servers are given, as the newest process there is configured.
    first_port integer not null default 1 check (first_port between 1 and 65535),
    last_port integer not null default 65535 check (last_port between 1 and 65535)
);

-- Processes of Howdah. Those that have been silent for long are forgotten, except for the
-- last one of each host. A process that serves for another host after a restart has a row for
-- each: the former one says since when the former host is silent.
create table processes (
    -- The identity that a process finds in its data directory: the same after a restart.
    worker uuid not null,
    host uuid not null references hosts,
    -- Where it listens, for people.
    endpoint text not null,
    version text not null,
    start_time timestamptz not null,
    -- Last sign of life.
    seen_time timestamptz not null default now(),
    primary key (worker, host)
);
create index processes_host on processes (host, seen_time);

-- Hosts on which all processes have been silent for so long that nothing is to be expected
-- of them. A host on which no process has ever served is not known to be gone.
create view hosts_gone as
    select id, name, seen_time, seen_time + interval '60 seconds' as since
    from (select h.id, h.name,
            (select max(p.seen_time) from processes p where p.host = h.id) as seen_time
        from hosts h) as seen
    where seen_time < now() - interval '60 seconds';

-- What a process has to itself: a subscription, or the supervision of the servers of a place.
create sequence lease_tokens;
create table leases (
    -- The subscription, or the place: a host, or any, which the nil uuid is for.
    resource uuid primary key,
    worker uuid not null,
    -- Another one at each taking, greater than all before.
    token bigint not null default nextval('lease_tokens'),
    until timestamptz not null
);
create index leases_worker on leases (worker);
create index leases_until on leases (until);

-- Keys that values are sealed with. A process registers the key that it seals with at
-- its start. Values are re-sealed with the newest one; the others are forgotten when
-- no value is sealed with them and no living process seals with them.
create table sealing_keys (
    key_id text primary key,
    -- Order of the keys: the greatest is the newest. Changed under the table's lock only.
    number bigint not null,
    -- Opens with the right key alone.
    check_value bytea not null,
    -- Last sign of life of a process that seals with it.
    seen_time timestamptz not null default now(),
    create_time timestamptz not null default now()
);

-- Keys that no living process seals with.
create view sealing_keys_idle as
    select key_id from sealing_keys where seen_time < now() - interval '60 seconds';

create table instances (
    uid uuid primary key,
    project text not null references projects,
    -- In the order of the bytes, whatever the collation of the database is.
    id text collate "C" not null,
    revision bigint not null default 1,
    display_name text not null,
    labels jsonb not null,
    annotations jsonb not null,
    create_time timestamptz not null default now(),
    update_time timestamptz not null default now(),
    delete_time timestamptz,
    purge_time timestamptz,
    -- Whether a user asked for the purge of the deleted instance: its data is deleted then,
    -- and does not go to the trash.
    purge_requested boolean not null default false,
    state text not null check (state in
        ('CREATING', 'READY', 'STOPPED', 'STARTING', 'STOPPING', 'DELETING', 'DELETED', 'FAILED')),
    wanted_version text not null,
    parameters jsonb not null,
    pending_restart text[] not null default '{}',
    ephemeral boolean not null,
    deletion_protection boolean not null,
    epoch bigint not null default 1,
    conditions jsonb not null default '[]',
    -- No less than the bytes of its message in the API: pages are cut by it. Read without
    -- the documents, which are large. What waits for a restart is among the parameters;
    -- a sixteenth is for the lengths in front of keys and values, and the first number for
    -- all short fields.
    message_bytes integer not null generated always as (2560
        + (octet_length(labels::text) + octet_length(annotations::text)
            + 2 * octet_length(parameters::text)) / 16 * 17
        + octet_length(conditions::text)) stored,
    unique (project, id),
    check ((delete_time is null) = (purge_time is null)),
    -- What the API can say (google.protobuf.Timestamp).
    check (greatest(create_time, update_time, delete_time, purge_time) < '10000-01-01 UTC' and least(create_time, update_time, delete_time, purge_time) >= '0001-01-01 UTC')
);
-- For the metrics, which count what there is in each state.
create index instances_state on instances (state);
create index instances_purge on instances (purge_time) where purge_time is not null;
-- One for each order of the list, with and without the deleted ones.
create index instances_created on instances (project, create_time, id);
create index instances_updated on instances (project, update_time, id);
create index instances_live on instances (project, id) where delete_time is null;
create index instances_live_created on instances (project, create_time, id)
    where delete_time is null;
create index instances_live_updated on instances (project, update_time, id)
    where delete_time is null;
-- Rows that this release may fail to parse. The condition must equal `irregular` in
-- `src/store/listing.rs`, or the index is not used.
create index instances_irregular on instances (uid) where
    id !~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'
    or state <> all ('{CREATING,READY,STOPPED,STARTING,STOPPING,DELETING,DELETED,FAILED}')
    or wanted_version !~ '^([1-9][0-9]{1,3}(\.[0-9]{1,4})?)?$'
    or jsonb_typeof(labels) <> 'object'
    or labels @? 'strict $.* ? (@.type() <> "string")'
    or jsonb_typeof(annotations) <> 'object'
    or annotations @? 'strict $.* ? (@.type() <> "string")'
    or jsonb_typeof(parameters) <> 'object'
    or parameters @? 'strict $.* ? (@.type() <> "string")'
    or jsonb_typeof(conditions) <> 'array';

create table servers (
    uid uuid primary key,
    instance_uid uuid not null references instances on delete cascade,
    number integer not null,
    -- What it is to its instance, whose clients reach the active one.
    role text not null check (role in ('ACTIVE', 'SUCCESSOR', 'RETIRED')),
    provider text not null,
    version text not null,
    -- Where it lives, for a provider whose servers live on hosts.
    host uuid references hosts,
    -- Reserved on its host as long as the row is there.
    port integer check (port between 1 and 65535),
    check ((host is null) = (port is null)),
    check (provider <> 'local' or host is not null),
    -- PostgreSQL's, as decimal text: it does not fit a bigint.
    system_identifier text,
    started boolean not null default false,
    -- What is to become of it: the supervisor starts a server that is to run and does not.
    wanted text not null default 'RUNNING' check (wanted in ('RUNNING', 'STOPPED', 'GONE')),
    -- Where clients connect, written before the server is started with it.
    address jsonb,
    -- Password of howdah_admin, sealed.
    admin_password bytea not null,
    -- Id of the key in the head of the sealed value. The reference is a fence: nothing is
    -- stored that is sealed with a forgotten key, and no key is forgotten that is needed.
    sealing_key text not null
        generated always as (encode(substr(admin_password, 3, get_byte(admin_password, 1)), 'escape')) stored
        references sealing_keys,
    unique (instance_uid, number),
    unique (host, port)
);
create unique index servers_one_active on servers (instance_uid) where role = 'ACTIVE';
-- For the metrics.
create index servers_counted on servers (role, wanted);
create index servers_sealing_key on servers (sealing_key);
create index servers_irregular on servers (instance_uid) where
    version !~ '^[1-9][0-9]{1,3}\.[0-9]{1,4}$'
    or role <> all ('{ACTIVE,SUCCESSOR,RETIRED}')
    or wanted <> all ('{RUNNING,STOPPED,GONE}')
    or system_identifier !~ '^[0-9]{1,19}$'
    or address is not null and (jsonb_typeof(address -> 'host') = 'string'
        and jsonb_typeof(address -> 'port') = 'number'
        and address ->> 'port' ~ '^([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3})$'
        and coalesce(jsonb_typeof(address -> 'socket_directory'), 'null') in ('string', 'null')
        and coalesce(jsonb_typeof(address -> 'tls'), 'boolean') = 'boolean'
    ) is not true;

create table databases (
    uid uuid primary key,
    instance_uid uuid not null references instances on delete cascade,
    -- In the order of the bytes, whatever the collation of the database is.
    id text collate "C" not null,
    revision bigint not null default 1,
    display_name text not null,
    labels jsonb not null,
    annotations jsonb not null,
    create_time timestamptz not null default now(),
    update_time timestamptz not null default now(),
    state text not null check (state in ('CREATING', 'READY', 'DELETING', 'FAILED')),
    postgresql_name text not null,
    owner text not null,
    encoding text not null,
    locale_provider text not null,
    locale text not null,
    connection_limit integer not null,
    deletion_protection boolean not null,
    -- As in instances.
    message_bytes integer not null generated always as (2560 + octet_length(locale)
        + (octet_length(labels::text) + octet_length(annotations::text)) / 16 * 17) stored,
    unique (instance_uid, id),
    unique (instance_uid, postgresql_name),
    -- What the API can say (google.protobuf.Timestamp).
    check (greatest(create_time, update_time) < '10000-01-01 UTC' and least(create_time, update_time) >= '0001-01-01 UTC')
);
create index databases_created on databases (instance_uid, create_time, id);
create index databases_updated on databases (instance_uid, update_time, id);
create index databases_irregular on databases (uid) where
    id !~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'
    or state <> all ('{CREATING,READY,DELETING,FAILED}')
    or jsonb_typeof(labels) <> 'object'
    or labels @? 'strict $.* ? (@.type() <> "string")'
    or jsonb_typeof(annotations) <> 'object'
    or annotations @? 'strict $.* ? (@.type() <> "string")'
    or octet_length(postgresql_name) not between 1 and 63
    or octet_length(owner) not between 1 and 63;

-- Durable change streams. Each has a replication slot on a server, and publications in its
-- database: its own, or the one that its user has named.
create table change_streams (
    uid uuid primary key,
    instance_uid uuid not null references instances on delete cascade,
    -- In the order of the bytes, whatever the collation of the database is.
    id text collate "C" not null,
    revision bigint not null default 1,
    labels jsonb not null,
    create_time timestamptz not null default now(),
    update_time timestamptz not null default now(),
    state text not null check (state in ('CREATING', 'READY', 'DELETING', 'FAILED', 'LOST')),
    -- Name in PostgreSQL.
    database text not null,
    -- Either tables, or the name of a publication that exists.
    tables jsonb not null,
    publication text not null,
    -- Names of the publications that it is read through, once they are there.
    publications jsonb not null default '[]',
    publish text not null check (publish in ('ALL', 'INSERTS')),
    on_change text not null check (on_change in ('END', 'FOLLOW')),
    slot text not null,
    -- Whether the slot existed before: it is not dropped with the stream.
    slot_adopted boolean not null,
    max_retained_bytes bigint not null check (max_retained_bytes >= 0),
    drop_when_exceeded boolean not null,
    -- The server that the slot is on, recorded before it is made there.
    server_uid uuid references servers on delete set null,
    -- The epoch of the instance, PostgreSQL's system identifier as decimal text, and the timeline,
    -- when the slot was made.
    epoch bigint,
    system_identifier text,
    timeline bigint,
    -- What subscribers have stored: everything before this position of the log, and so many
    -- events of the transaction whose commit is there. It only rises.
    acknowledged_lsn bigint not null default 0 check (acknowledged_lsn >= 0),
    acknowledged_events bigint not null default 0 check (acknowledged_events >= 0),
    conditions jsonb not null default '[]',
    -- As in instances.
    message_bytes integer not null generated always as (2560
        + octet_length(labels::text) / 16 * 17 + octet_length(tables::text)
        + octet_length(conditions::text)) stored,
    unique (instance_uid, id),
    unique (instance_uid, slot),
    check (greatest(create_time, update_time) < '10000-01-01 UTC' and least(create_time, update_time) >= '0001-01-01 UTC')
);
create index change_streams_created on change_streams (instance_uid, create_time, id);
create index change_streams_updated on change_streams (instance_uid, update_time, id);
create index change_streams_server on change_streams (server_uid);
-- For the metrics.
create index change_streams_state on change_streams (state);
create index change_streams_irregular on change_streams (uid) where
    id !~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'
    or state <> all ('{CREATING,READY,DELETING,FAILED,LOST}')
    or publish <> all ('{ALL,INSERTS}')
    or on_change <> all ('{END,FOLLOW}')
    or jsonb_typeof(labels) <> 'object'
    or labels @? 'strict $.* ? (@.type() <> "string")'
    or jsonb_typeof(tables) <> 'array'
    or tables @? 'strict $[*] ? (@.type() <> "string")'
    or jsonb_typeof(publications) <> 'array'
    or publications @? 'strict $[*] ? (@.type() <> "string")'
    or jsonb_typeof(conditions) <> 'array'
    or octet_length(database) not between 1 and 63
    or octet_length(publication) > 63
    or system_identifier !~ '^[0-9]{1,19}$';

create table roles (
    uid uuid primary key,
    instance_uid uuid not null references instances on delete cascade,
    id text not null,
    postgresql_name text not null,
    -- The database that it was made for and goes with.
    database_uid uuid references databases on delete cascade,
    -- Its password, sealed.
    password bytea not null,
    -- As in servers.
    sealing_key text not null
        generated always as (encode(substr(password, 3, get_byte(password, 1)), 'escape')) stored
        references sealing_keys,
    create_time timestamptz not null default now(),
    unique (instance_uid, id),
    unique (instance_uid, postgresql_name)
);
create index roles_database on roles (database_uid);
create index roles_sealing_key on roles (sealing_key);

-- How long a step rests at which so many workers in a row have died: one that ends its
-- process must not keep the process from serving.
create function pause_after(deaths integer) returns interval immutable parallel safe
    language sql return make_interval(secs => case when deaths < 5 then 0
        else least(power(2, least(deaths, 20) - 4), 300) end);

create table operations (
    id uuid primary key,
    project text not null references projects,
    kind text not null,
    plan_version integer not null,
    verb text not null,
    target text not null,
    target_uid uuid not null,
    -- The instance of a database's operation.
    parent_uid uuid,
    principal text not null,
    parameters jsonb not null,
    state text not null check (state in
        ('PENDING', 'RUNNING', 'UNDOING', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    -- Step that is next (forward) or is being taken back (undoing).
    position integer not null default 0,
    -- Tries of this step that have failed; a worker that died is no failure of it.
    failures integer not null default 0,
    -- Grows with each claim; a commit with an old one is refused.
    token bigint not null default 0,
    worker uuid,
    lease_until timestamptz,
    -- Workers in a row that have died at this step, and when the last one was found dead.
    deaths integer not null default 0,
    death_time timestamptz,
    run_time timestamptz not null default now(),
    -- Since when its step waits for something outside, from look to look, and since when
    -- it has pursued its goal, which it does not while it waits for its turn on the server.
    waiting_since timestamptz,
    pursued_since timestamptz,
    required_host uuid references hosts,
    -- Where it is claimed: by that host, or by any, which the nil uuid is for.
    place uuid not null generated always as
        (coalesce(required_host, '00000000-0000-0000-0000-000000000000')) stored,
    -- Whether every step can be taken back.
    cancellable boolean not null,
    cancel_requested boolean not null default false,
    -- Not claimed while something works on the children of its target.
    after_children boolean not null default false,
    -- When another wish of a user for its target takes its place.
    gives_way text not null default 'NEVER' check (gives_way in ('NEVER', 'WAITING', 'ALWAYS')),
    last_error jsonb,
    failure jsonb,
    -- What it answered, as protobuf: the type URL and the bytes, with no secret in them.
    response_type text,
    response bytea,
    -- The span of the call that it comes from, by W3C Trace Context.
    traceparent text check (length(traceparent) <= 64),
    hidden boolean not null default false,
    create_time timestamptz not null default now(),
    end_time timestamptz,
    check ((end_time is null) = (state in ('PENDING', 'RUNNING', 'UNDOING'))),
    check ((response_type is null) = (response is null)),
    check (greatest(create_time, end_time) < '10000-01-01 UTC'
        and least(create_time, end_time) >= '0001-01-01 UTC')
);
create unique index operations_one_active on operations (target_uid) where end_time is null;
create index operations_active_parent on operations (parent_uid) where end_time is null;
create index operations_due on operations (place, run_time) where end_time is null;
create index operations_deadly on operations (place, kind, position)
    where end_time is null and deaths >= 5;
create index operations_worker on operations (worker) where worker is not null;
create index operations_listed on operations (project, create_time, id) where not hidden;
create index operations_listed_open on operations (project, create_time, id)
    where not hidden and end_time is null;
create index operations_listed_done on operations (project, create_time, id)
    where not hidden and end_time is not null;
create index operations_ended on operations (end_time) where end_time is not null;

-- Operations that a worker works on now, with the instance that they belong to.
create view operations_held as
    select id, worker, coalesce(parent_uid, target_uid) as instance_uid
    from operations where end_time is null and lease_until >= now();

-- Operations that were given up while a worker was at work on them: it may still act until
-- it has noticed, or its lease is over. Nothing else begins on that instance before.
create view operations_given_up as
    select id, coalesce(parent_uid, target_uid) as instance_uid, lease_until
    from operations where end_time is not null and lease_until >= now();
create index operations_given_up_instance on operations (coalesce(parent_uid, target_uid))
    where end_time is not null and lease_until is not null;

-- Open operations whose turn it is on their instance: nothing of the same family holds
-- them back. One with after_children waits only for children that are at work or have not
-- failed yet, and for a minute: on a server that is frozen their statements get no answer,
-- and one that is at work beside it fails with the server, as in a crash. A child that has
-- failed or is being taken back may need the server that such an operation starts again, so
-- it comes after it. With `offset 0` the family is looked up
-- by its index; without it, the planner may read all open operations at once instead.
--
-- A step at which five workers in a row have died is tried alone. Those of its place that
-- are at the same step wait while it is tried or due, so that they do not end with it, and
-- it waits for those that have begun. While it rests they go on, unless one of them has
-- seen a worker die too: the step may be at fault and not what it works on.
create view operations_in_turn as
    select o.id, o.kind, o.plan_version, o.state, o.worker, o.run_time, o.place,
        o.lease_until + pause_after(o.deaths + 1) as free_time,
        coalesce(o.parent_uid, o.target_uid) as instance_uid
    from operations o where o.end_time is null
    and not exists (select from operations_given_up g
        where g.instance_uid = coalesce(o.parent_uid, o.target_uid))
    and not exists (select from operations d
        where d.end_time is null and d.deaths >= 5 and d.place = o.place
        and d.kind = o.kind and d.position = o.position and d.id <> o.id
        and case when o.deaths >= 5 then d.lease_until >= now()
            when d.lease_until >= now() then true
            when greatest(d.run_time, d.lease_until + pause_after(d.deaths + 1)) > now()
                then o.deaths > 0
            -- One that nobody claims is not waited for any longer.
            else greatest(d.run_time, d.lease_until + pause_after(d.deaths + 1))
                > now() - interval '60 seconds' end)
    and not (o.deaths >= 5 and exists (select from operations d
        where d.worker is not null and d.end_time is null and d.lease_until >= now()
        and d.place = o.place
        and d.kind = o.kind and d.position = o.position and d.id <> o.id offset 0))
    and not (o.after_children and o.create_time > now() - interval '60 seconds'
        and exists (select from operations c
        where c.parent_uid = o.target_uid and c.end_time is null
        and (c.lease_until >= now() or (c.failures = 0 and c.state <> 'UNDOING')) offset 0))
    and not ((o.failures > 0 or o.state = 'UNDOING') and exists (select from operations p
        where p.target_uid = o.parent_uid and p.end_time is null and p.after_children offset 0));

create table operation_stages (
    operation_id uuid not null references operations on delete cascade,
    position integer not null,
    name text not null,
    title text not null,
    state text not null default 'PENDING' check (state in
        ('PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'UNDONE')),
    start_time timestamptz,
    end_time timestamptz,
    progress_percent integer not null default 0 check (progress_percent between 0 and 100),
    -- What it waits for, for people.
    waits_for text not null default '',
    primary key (operation_id, position)
);

-- Requests that were accepted, so that a replay finds its first operation.
create table requests (
    principal text not null,
    method text not null,
    request_id uuid not null,
    fingerprint bytea not null,
    operation_id uuid not null,
    create_time timestamptz not null default now(),
    primary key (principal, method, request_id)
);
create index requests_age on requests (create_time);
create index requests_operation on requests (operation_id);

-- Temporary subscriptions: what they made on a server, recorded before it is made. Each has
-- a lease.
create table subscriptions (
    uid uuid primary key,
    -- The server that it has made them on, which may not be the active one any more.
    server_uid uuid not null references servers on delete cascade,
    database text not null,
    slot text not null,
    create_time timestamptz not null default now()
);
create index subscriptions_server on subscriptions (server_uid);

-- What was done, written in the transaction that does it, or before a secret is handed out.
create table audit_records (
    uid uuid primary key,
    -- By which lists go on within one time.
    id text collate "C" not null generated always as (uid::text) stored,
    -- The record stays when the resource is gone.
    project text not null,
    create_time timestamptz not null default now(),
    -- Of reads of one secret by one caller, which have one record in an hour.
    count bigint not null default 1,
    last_time timestamptz not null default now(),
    effect text not null,
    principal text not null,
    peer text not null,
    method text not null,
    resource text not null,
    -- Empty without one, like the operation, by name.
    request_id text not null,
    operation text not null,
    trace_id text not null,
    -- In JSON and without secrets; cut where it is long.
    request text not null,
    result text not null,
    -- No less than the bytes of its message in the API: pages are cut by it.
    message_bytes integer not null generated always as (512 + octet_length(principal)
        + octet_length(peer) + octet_length(method) + octet_length(resource)
        + octet_length(request)) stored,
    check (create_time >= '0001-01-01 UTC' and create_time < '10000-01-01 UTC'
        and last_time >= create_time and last_time < '10000-01-01 UTC')
);
create index audit_records_listed on audit_records (project, create_time, id);
create index audit_records_age on audit_records (create_time);
