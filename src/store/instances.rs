//! Instances.

use std::{collections::BTreeMap, mem::take};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    Store, Tx,
    batch::Found,
    fault::{Measured, broken_constraint, classify},
    listing::{INSTANCES, PAGE_BYTES, Parent, Part, Slice, find, fitting},
    pool::Pool,
    unreadable::{Readable, found_unreadable, json},
};
use crate::domain::{
    Error, Reason, Result,
    instance::{Condition, Instance, Server, ServerGoal, ServerRole, State},
    list::{Position, SortBy},
    name::{Id, InstanceName, ProjectName},
    provider::Placement,
    recorded::{Recorded, Unreadable},
};

/// A row of `instances` joined with one of its servers. An instance has one record per server.
struct Record {
    uid: Uuid,
    project: String,
    id: String,
    revision: i64,
    display_name: String,
    labels: String,
    annotations: String,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
    delete_time: Option<DateTime<Utc>>,
    purge_time: Option<DateTime<Utc>>,
    state: String,
    wanted_version: String,
    parameters: String,
    pending_restart: Vec<String>,
    ephemeral: bool,
    deletion_protection: bool,
    epoch: i64,
    conditions: String,
    message_bytes: i32,
    reconciling: bool,
    server_uid: Option<Uuid>,
    number: Option<i32>,
    role: Option<String>,
    provider: Option<String>,
    version: Option<String>,
    host: Option<Uuid>,
    port: Option<i32>,
    system_identifier: Option<String>,
    started: Option<bool>,
    wanted: Option<String>,
    address: Option<String>,
    host_gone_time: Option<DateTime<Utc>>,
}

/// The columns, shared by all queries below. A join is faster than an aggregate, because most
/// instances have one server, and reading an instance is the most frequent call. Documents are
/// read as text, so one that this release cannot parse affects only its own instance.
macro_rules! select_instances {
    ($($tail:literal)* $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Record,
            r#"select i.uid, i.project, i.id, i.revision, i.display_name,
                i.labels::text as "labels!", i.annotations::text as "annotations!",
                i.create_time, i.update_time, i.delete_time, i.purge_time, i.state,
                i.wanted_version, i.parameters::text as "parameters!",
                i.pending_restart, i.ephemeral, i.deletion_protection, i.epoch,
                i.conditions::text as "conditions!",
                i.message_bytes as "message_bytes!",
                exists (select from operations o where o.target_uid = i.uid
                    and o.end_time is null) as "reconciling!",
                s.uid as "server_uid?", s.number as "number?", s.role as "role?", s.provider as "provider?",
                s.version as "version?", s.host as "host?", s.port as "port?",
                s.system_identifier as "system_identifier?", s.started as "started?",
                s.wanted as "wanted?",
                s.address::text as "address?",
                g.since as "host_gone_time?"
            from instances i left join servers s on s.instance_uid = i.uid
                left join hosts_gone g on g.id = s.host "# $(+ $tail)*
            $(, $argument)*
        )
    };
}

/// The record of a new instance.
#[derive(Clone, Debug)]
pub struct NewInstance {
    /// Unique id, never reused.
    pub uid: Uuid,
    /// Resource name.
    pub name: InstanceName,
    /// Name for people.
    pub display_name: String,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the user's tools.
    pub annotations: BTreeMap<String, String>,
    /// Requested version, as text.
    pub wanted_version: String,
    /// PostgreSQL parameters that the user has set.
    pub parameters: BTreeMap<String, String>,
    /// Whether a crash may lose its data.
    pub ephemeral: bool,
    /// Whether deletion without `force` is refused.
    pub deletion_protection: bool,
}

impl Store {
    /// Reads an instance by its name, together with concurrent reads of others.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND; METADATA_UNAVAILABLE.
    pub async fn instance(&self, name: &InstanceName) -> Result<Recorded<Instance>> {
        let pool = self.pool.clone();
        let query = move |names| by_name(pool.clone(), names);
        let limit = self.pool.longest_call();
        let (tasks, reads) = (self.pool.tasks(), &self.instance_reads);
        let read = reads.read(tasks, name.clone(), limit, query).await?;
        read.ok_or_else(|| not_found(name))
    }

    /// Reads an instance by its unique id; none if there is no such instance.
    ///
    /// # Errors
    /// RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn instance_by_uid(&self, uid: Uuid) -> Result<Option<Instance>> {
        let records = select_instances!("where i.uid = $1 order by s.number", uid)
            .fetch_all(&self.pool)
            .named("instances.instance_by_uid")
            .await?;
        single(records)
    }

    /// Reads the instance that a server belongs to; none if there is no such server.
    ///
    /// # Errors
    /// RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn instance_of_server(&self, server: Uuid) -> Result<Option<Instance>> {
        let records = select_instances!(
            "where i.uid = (select o.instance_uid from servers o where o.uid = $1)
             order by s.number",
            server
        )
        .fetch_all(&self.pool)
        .named("instances.instance_of_server")
        .await?;
        single(records)
    }

    /// Reads a part of a project's instances, in order.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn instances(
        &self,
        project: &ProjectName,
        slice: Slice<'_>,
    ) -> Result<Part<Recorded<Instance>>> {
        if slice.is_plain_beginning() {
            return self.first_instances(project, slice).await;
        }
        let parent = Parent::Project(project.project.as_str());
        let found = find(&self.pool, "instances.find", &INSTANCES, parent, slice).await?;
        let records = select_instances!(
            "where i.uid = any($1) and ($2 or i.delete_time is null) order by i.uid, s.number",
            &found.records,
            slice.show_deleted
        )
        .fetch_all(&self.pool)
        .named("instances.list")
        .await?;
        Ok(found.of(grouped(records), |instance| match instance {
            Recorded::Whole(instance) => instance.uid,
            Recorded::Unreadable(unreadable) => unreadable.uid,
        }))
    }

    /// Reads the beginning of a list without a filter, the most frequent kind of list. One
    /// statement takes half the time of two. It returns one record more than fits into the page.
    async fn first_instances(
        &self,
        project: &ProjectName,
        slice: Slice<'_>,
    ) -> Result<Part<Recorded<Instance>>> {
        let (project, more) = (project.project.as_str(), slice.one_more()?);
        macro_rules! first {
            ($inner:literal, $outer:literal) => {
                select_instances!(
                    "where i.uid in (select q.uid from (select p.uid,
                            sum(least(p.message_bytes, $3::bigint))
                                over (order by " $inner " rows unbounded preceding)
                            - least(p.message_bytes, $3::bigint) as before
                        from instances p
                        where p.project = $1 and p.delete_time is null order by "
                    $inner " limit $2) q where q.before <= $3) order by " $outer ", s.number",
                    project,
                    more,
                    PAGE_BYTES,
                )
                .fetch_all(&self.pool)
                .named("instances.list")
                .await?
            };
        }
        let records = match (slice.order.by, slice.order.descending) {
            (SortBy::Id, false) => first!("p.id", "i.id"),
            (SortBy::Id, true) => first!("p.id desc", "i.id desc"),
            (SortBy::CreateTime, false) => first!("p.create_time, p.id", "i.create_time, i.id"),
            (SortBy::CreateTime, true) => first!(
                "p.create_time desc, p.id desc",
                "i.create_time desc, i.id desc"
            ),
            (SortBy::UpdateTime, false) => first!("p.update_time, p.id", "i.update_time, i.id"),
            (SortBy::UpdateTime, true) => first!(
                "p.update_time desc, p.id desc",
                "i.update_time desc, i.id desc"
            ),
        };
        let bytes = records.chunk_by(|one, next| one.uid == next.uid);
        let bytes = bytes.filter_map(|servers| servers.first());
        let length = fitting(slice.limit, bytes.map(|record| record.message_bytes.into()));
        let mut records = grouped(records);
        let goes_on = records.len() > length;
        records.truncate(length);
        let last = records.last().filter(|_| goes_on);
        Ok(Part {
            next: last.map(|last| position(last, slice.order.by)),
            records,
        })
    }

    /// The instances with a server that shall run, or whose stop has failed, on this host or on
    /// none. Instances that this release cannot read are left out.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn instances_to_watch(&self, host: Uuid) -> Result<Vec<Instance>> {
        let records = select_instances!(
            "where i.delete_time is null and exists (select from servers a
                where a.instance_uid = i.uid
                and (a.wanted = 'RUNNING' or a.wanted = 'STOPPED' and i.state = 'FAILED'
                    and a.role = 'ACTIVE'
                    and not i.conditions @> '[{\"type\": \"Available\", \"status\": \"FALSE\"}]')
                and (a.host = $1 or a.host is null) and a.started) order by i.uid, s.number",
            host
        )
        .fetch_all(&self.pool)
        .named("instances.instances_to_watch")
        .await?;
        Ok(readable(records))
    }

    /// Deleted instances whose purge is due and that no operation works on. The order is random,
    /// so that instances whose purge fails do not block the others. Unreadable ones are left
    /// out.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn instances_to_purge(&self) -> Result<Vec<Instance>> {
        let records = select_instances!(
            "where i.uid in (select p.uid from instances p
                where p.purge_time <= now() and not exists (select from operations o
                    where o.target_uid = p.uid and o.end_time is null)
                order by random() limit 100)
             order by i.uid, s.number"
        )
        .fetch_all(&self.pool)
        .named("instances.instances_to_purge")
        .await?;
        Ok(readable(records))
    }
}

impl Store {
    /// Returns an error if the project does not exist.
    ///
    /// # Errors
    /// PROJECT_NOT_FOUND; METADATA_UNAVAILABLE.
    pub async fn require_project(&self, project: &Id) -> Result<()> {
        let found = sqlx::query!("select id from projects where id = $1", project.as_str())
            .fetch_optional(&self.pool)
            .named("instances.require_project")
            .await?;
        found.map(|_| ()).ok_or_else(|| no_project(project))
    }
}

impl Tx {
    /// Checks that the project exists. It cannot be deleted before the transaction ends.
    ///
    /// # Errors
    /// PROJECT_NOT_FOUND; METADATA_UNAVAILABLE.
    pub async fn hold_project(&mut self, project: &Id) -> Result<()> {
        let found = sqlx::query!(
            "select id from projects where id = $1 for key share",
            project.as_str()
        )
        .fetch_optional(self.connection())
        .named("instances.hold_project")
        .await?;
        found.map(|_| ()).ok_or_else(|| no_project(project))
    }

    /// Reads an instance by its name, and locks it against any other change.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn lock_instance(&mut self, name: &InstanceName) -> Result<Instance> {
        self.queue_for_instance(name, true).await?;
        let records = select_instances!(
            "where i.project = $1 and i.id = $2 order by s.number for update of i",
            name.project.as_str(),
            name.instance.as_str(),
        )
        .fetch_all(self.connection())
        .named("instances.lock_instance")
        .await?;
        single(records)?.ok_or_else(|| not_found(name))
    }

    /// Reads an instance by its name, and holds it unchanged while work on a child runs.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn hold_instance(&mut self, name: &InstanceName) -> Result<Instance> {
        self.queue_for_instance(name, false).await?;
        let records = select_instances!(
            "where i.project = $1 and i.id = $2 order by s.number for share of i",
            name.project.as_str(),
            name.instance.as_str(),
        )
        .fetch_all(self.connection())
        .named("instances.hold_instance")
        .await?;
        single(records)?.ok_or_else(|| not_found(name))
    }

    /// Reads an instance by its unique id, and locks it against any other change.
    ///
    /// # Errors
    /// RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn lock_instance_by_uid(&mut self, uid: Uuid) -> Result<Option<Instance>> {
        self.queue_for_instance_by_uid(uid).await?;
        let records = select_instances!("where i.uid = $1 order by s.number for update of i", uid)
            .fetch_all(self.connection())
            .named("instances.lock_instance_by_uid")
            .await?;
        single(records)
    }

    /// Reads an instance by its unique id, as this transaction sees it.
    ///
    /// # Errors
    /// RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn instance_by_uid(&mut self, uid: Uuid) -> Result<Option<Instance>> {
        let records = select_instances!("where i.uid = $1 order by s.number", uid)
            .fetch_all(self.connection())
            .named("instances.instance_by_uid")
            .await?;
        single(records)
    }

    /// Unique id of the instance that a server belongs to; none if there is no such server.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn owner_of_server(&mut self, server: Uuid) -> Result<Option<Uuid>> {
        sqlx::query_scalar!("select instance_uid from servers where uid = $1", server)
            .fetch_optional(self.connection())
            .named("instances.owner_of_server")
            .await
    }

    /// Records a new instance, in state CREATING.
    ///
    /// # Errors
    /// INSTANCE_EXISTS; METADATA_UNAVAILABLE.
    pub async fn insert_instance(&mut self, new: &NewInstance) -> Result<()> {
        let inserted = sqlx::query!(
            "insert into instances (uid, project, id, display_name, labels, annotations, state,
                wanted_version, parameters, ephemeral, deletion_protection)
             values ($1, $2, $3, $4, $5, $6, 'CREATING', $7, $8, $9, $10)",
            new.uid,
            new.name.project.as_str(),
            new.name.instance.as_str(),
            new.display_name,
            Json(&new.labels) as _,
            Json(&new.annotations) as _,
            new.wanted_version,
            Json(&new.parameters) as _,
            new.ephemeral,
            new.deletion_protection,
        )
        .execute(self.connection())
        .raw("instances.insert_instance")
        .await;
        match inserted {
            Ok(_) => Ok(()),
            Err(error) if broken_constraint(&error) == Some("instances_project_id_key") => {
                let message = "an instance of that id exists, or was deleted and is not purged yet";
                Err(Error::new(Reason::InstanceExists, message).with_resource(new.name.to_string()))
            }
            Err(error) => Err(classify(error)),
        }
    }
}

/// Reads the instances of those names.
async fn by_name(
    pool: Pool,
    names: Vec<InstanceName>,
) -> Result<Found<InstanceName, Recorded<Instance>>> {
    let text = |id: fn(&InstanceName) -> &Id| -> Vec<String> {
        names.iter().map(|name| id(name).to_string()).collect()
    };
    let projects = text(|name| &name.project);
    let ids = text(|name| &name.instance);
    let records = select_instances!(
        "where (i.project, i.id) in (select * from unnest($1::text[], $2::text[]))
         order by i.uid, s.number",
        &projects,
        &ids,
    )
    .fetch_all(&pool)
    .named("instances.by_name")
    .await?;
    let named = |instance: Recorded<Instance>| {
        let name = match &instance {
            Recorded::Whole(instance) => instance.name.clone(),
            Recorded::Unreadable(unreadable) => unreadable.name.parse()?,
        };
        Ok((name, Ok(instance)))
    };
    grouped(records).into_iter().map(named).collect()
}

fn not_found(name: &InstanceName) -> Error {
    Error::new(Reason::InstanceNotFound, "the instance does not exist")
        .with_resource(name.to_string())
}

/// Position of an instance in a list of that order.
fn position(instance: &Recorded<Instance>, by: SortBy) -> Position {
    let (id, created, updated) = match instance {
        Recorded::Whole(whole) => (
            whole.name.instance.to_string(),
            whole.create_time,
            whole.update_time,
        ),
        Recorded::Unreadable(it) => (it.id.clone(), it.create_time, it.update_time),
    };
    let time = match by {
        SortBy::Id => DateTime::UNIX_EPOCH,
        SortBy::CreateTime => created,
        SortBy::UpdateTime => updated,
    };
    Position { time, id }
}

/// The instance of these records; none if there are no records.
fn single(records: Vec<Record>) -> Result<Option<Instance>> {
    grouped(records).pop().map(Recorded::whole).transpose()
}

/// The instances of these records, without those that cannot be read.
fn readable(records: Vec<Record>) -> Vec<Instance> {
    let instances = grouped(records).into_iter();
    instances.filter_map(|found| found.whole().ok()).collect()
}

/// Groups records by instance; they must be ordered by instance. An instance with an unreadable
/// server counts as unreadable.
fn grouped(records: Vec<Record>) -> Vec<Recorded<Instance>> {
    let mut instances: Vec<Recorded<Instance>> = Vec::with_capacity(records.len());
    let mut records = records.into_iter().peekable();
    while let Some(mut first) = records.next() {
        let mut read = first.instance();
        while let Some(mut next) = records.next_if(|next| next.uid == first.uid) {
            read = read.and_then(|mut instance| {
                instance.servers.extend(next.server()?);
                Ok(instance)
            });
        }
        instances.push(read.map_or_else(|column| first.unreadable(column), Recorded::Whole));
    }
    instances
}

impl Record {
    /// Reads the row with its first server. The error is the column that cannot be read;
    /// [`Record::unreadable`] can still be called then.
    fn instance(&mut self) -> Readable<Instance> {
        Ok(Instance {
            servers: Vec::from_iter(self.server()?),
            name: InstanceName {
                project: Id::parse(&self.project, "project").map_err(|_| "project")?,
                instance: Id::parse(&self.id, "instance").map_err(|_| "id")?,
            },
            uid: self.uid,
            revision: self.revision,
            labels: json("labels", &self.labels)?,
            annotations: json("annotations", &self.annotations)?,
            display_name: take(&mut self.display_name),
            create_time: self.create_time,
            update_time: self.update_time,
            delete_time: self.delete_time,
            purge_time: self.purge_time,
            state: State::parse(&self.state).map_err(|_| "state")?,
            reconciling: self.reconciling,
            wanted: self.wanted_version.parse().map_err(|_| "wanted_version")?,
            parameters: json("parameters", &self.parameters)?,
            pending_restart: take(&mut self.pending_restart),
            ephemeral: self.ephemeral,
            deletion_protection: self.deletion_protection,
            epoch: self.epoch,
            endpoint: None,
            conditions: conditions(&self.conditions)?,
        })
    }

    fn unreadable(self, column: &'static str) -> Recorded<Instance> {
        found_unreadable(Unreadable {
            name: format!("projects/{}/instances/{}", self.project, self.id),
            id: self.id,
            uid: self.uid,
            create_time: self.create_time,
            update_time: self.update_time,
            delete_time: self.delete_time,
            column,
        })
    }

    fn placement(&self) -> Readable<Option<Placement>> {
        let (Some(host), Some(port)) = (self.host, self.port) else {
            return Ok(None);
        };
        let port = u16::try_from(port).map_err(|_| "port")?;
        Ok(Some(Placement { host, port }))
    }

    /// The server of this record; none if the instance has no server.
    fn server(&mut self) -> Readable<Option<Server>> {
        let (Some(uid), Some(number)) = (self.server_uid, self.number) else {
            return Ok(None);
        };
        let identifier = self.system_identifier.take().map(|text| text.parse());
        let version = self.version.take().unwrap_or_default();
        let wanted = self.wanted.take().unwrap_or_default();
        let role = self.role.take().unwrap_or_default();
        let address = self.address.take().map(|text| json("address", &text));
        Ok(Some(Server {
            uid,
            number,
            role: ServerRole::parse(&role).map_err(|_| "role")?,
            provider: self.provider.take().unwrap_or_default(),
            version: version.parse().map_err(|_| "version")?,
            placement: self.placement()?,
            system_identifier: identifier.transpose().map_err(|_| "system_identifier")?,
            started: self.started.unwrap_or_default(),
            wanted: ServerGoal::parse(&wanted).map_err(|_| "wanted")?,
            address: address.transpose()?,
            host_gone_time: self.host_gone_time,
        }))
    }
}

/// Parses conditions. One that cannot be parsed is left out here, and stays in the database.
fn conditions(text: &str) -> Readable<Vec<Condition>> {
    let all: Vec<Value> = json("conditions", text)?;
    let read = all.into_iter().map(serde_json::from_value);
    Ok(read.filter_map(Result::ok).collect())
}

fn no_project(project: &Id) -> Error {
    let message = format!("project `{project}` does not exist");
    Error::new(Reason::ProjectNotFound, message).with_resource(format!("projects/{project}"))
}
