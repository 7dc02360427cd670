//! Finds objects on servers that Howdah has created and no record knows: roles, databases,
//! publications and slots that were created after the backup of metadata that was restored.

mod drop;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use uuid::Uuid;

use super::super::{
    admin::{Servers, Session, rows},
    conditions::Conditions,
    supervision::Supervisor,
    tasks::{Tasks, warn},
};
use crate::{
    domain::{
        Error, Reason, Result,
        clock::Clock,
        instance::{Condition, Instance, Status},
    },
    store::{Store, servers::OnRecord},
    telemetry::orphans::record,
};

/// Pause between two searches, which need a connection to each database.
const INTERVAL: Duration = Duration::from_secs(300);

/// Longest search of one server.
const LIMIT: Duration = Duration::from_secs(60);

/// Type of the condition that names what was found.
const CONDITION: &str = "UnknownObjects";

/// Most objects that the condition names.
const NAMED: usize = 10;

/// The kinds of objects, as the metric names them.
const KINDS: [&str; 4] = ["role", "database", "publication", "slot"];

/// Objects that all databases of a server share. A database is Howdah's if its owner has a mark.
const SHARED: &str = "with ours as (select oid, rolname::text as name,
        substring(shobj_description(oid, 'pg_authid') from '^howdah role ([0-9a-f-]{36})$') as mark
        from pg_roles)
    select 'role' as kind, name, mark from ours where mark is not null
    union all select 'database', datname::text, mark from pg_database join ours on ours.oid = datdba
        where mark is not null
    union all select 'slot', slot_name::text,
        substring(slot_name::text from '^howdah_(?:tmp_)?([0-9a-f]{32})$')
        from pg_replication_slots where slot_name ~ '^howdah_(tmp_)?[0-9a-f]{32}$'";

/// Objects of a single database.
const OWN: &str = "select 'publication', pubname::text || ' in ' || current_database(),
        substring(pubname::text from '^howdah_(?:tmp_)?([0-9a-f]{32})')
    from pg_publication where pubname ~ '^howdah_(tmp_)?[0-9a-f]{32}(_[0-9]{1,4}(_inserts)?)?$'";

const DATABASES: &str = "select datname::text from pg_database where datallowconn
    and not datistemplate and datname <> 'postgres'";

/// An object on a server with a mark of Howdah.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Marked {
    kind: String,
    name: String,
    mark: Uuid,
}

/// Objects without a record, by the instance's unique id.
type Found = BTreeMap<Uuid, BTreeSet<Marked>>;

impl Marked {
    fn is_known(&self, known: &OnRecord) -> bool {
        match self.kind.as_str() {
            "role" => known.roles.contains(&self.mark),
            "database" => known.roles.contains(&self.mark) || known.databases.contains(&self.name),
            _ => {
                known.subscriptions.contains(&self.mark)
                    || known.change_streams.contains(&self.mark)
                    || self.kind == "slot" && known.slots.contains(&self.name)
            }
        }
    }
}

/// Searches servers for objects without a record. Cheap to clone.
#[derive(Clone)]
pub(in crate::app) struct Objects {
    pub(in crate::app) store: Store,
    pub(in crate::app) clock: Arc<dyn Clock>,
    pub(in crate::app) host: Uuid,
    pub(in crate::app) servers: Servers,
    pub(in crate::app) supervisor: Supervisor,
    pub(in crate::app) conditions: Conditions,
    pub(in crate::app) tasks: Tasks,
}

impl Objects {
    /// Searches the servers of this host until the process stops.
    pub(in crate::app) async fn run(self) {
        let mut found = Found::new();
        loop {
            let searched = self.search_servers(&mut found).await;
            warn("objects without a record", searched);
            if self.tasks.stops_within(INTERVAL).await {
                return;
            }
        }
    }

    /// Searches each server. If a search fails, the last result for that server is kept.
    async fn search_servers(&self, found: &mut Found) -> Result<()> {
        let mut instances = self.store.instances_to_watch(self.host).await?;
        // Roles and databases are recorded for the active server only.
        instances.retain(|instance| {
            let active = instance.active();
            active.is_ok_and(|active| {
                self.supervisor.watches(instance, active) && instance.is_to_run(active)
            })
        });
        let there: BTreeSet<Uuid> = instances.iter().map(|instance| instance.uid).collect();
        found.retain(|instance, _| there.contains(instance));
        for instance in instances {
            let search = Box::pin(self.unknown_objects(&instance));
            let searched = tokio::time::timeout(LIMIT, search).await;
            // The supervisor reports a server that is down or does not answer.
            match searched.unwrap_or_else(|_| Err(unanswered())) {
                Ok(unknown) => {
                    self.record_unknown(&instance, &unknown).await?;
                    found.insert(instance.uid, unknown);
                }
                Err(error) => {
                    let detail = error.internal_detail();
                    tracing::debug!(instance = %instance.name, %error, detail, "a server is not searched");
                }
            }
        }
        for kind in KINDS {
            let all = found.values().flatten();
            record(kind, all.filter(|object| object.kind == kind).count());
        }
        Ok(())
    }

    /// The marked objects on an instance's server that have no record. An object is recorded
    /// before it is created and until it is dropped. So an object that exists both before and
    /// after the records were read, and is not among them, has none.
    async fn unknown_objects(&self, instance: &Instance) -> Result<BTreeSet<Marked>> {
        let mut unknown = self.marked_objects(instance).await?;
        let server = instance.active()?.uid;
        let known = self.store.on_record(server).await?;
        unknown.retain(|object| !object.is_known(&known));
        if !unknown.is_empty() {
            let still = self.marked_objects(instance).await?;
            unknown.retain(|object| still.contains(object));
        }
        Ok(unknown)
    }

    async fn marked_objects(&self, instance: &Instance) -> Result<BTreeSet<Marked>> {
        let client = self.servers.short_connection(instance, "postgres").await?;
        let mut found = read(&client, SHARED).await?;
        for row in rows(&client, DATABASES).await? {
            let name: String = row.get(0);
            // The database may have been dropped in the meantime.
            match self.servers.short_connection(instance, &name).await {
                Ok(client) => found.extend(read(&client, OWN).await?),
                Err(error) if error.reason() == Reason::PostgresqlRefused => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Records the condition if there are such objects, or if an older condition must be
    /// cleared.
    async fn record_unknown(&self, instance: &Instance, unknown: &BTreeSet<Marked>) -> Result<()> {
        let known = instance.conditions.iter().any(|it| it.kind == CONDITION);
        if unknown.is_empty() && !known {
            return Ok(());
        }
        let (status, reason) = match unknown.is_empty() {
            true => (Status::False, "ALL_ON_RECORD"),
            false => (Status::True, "NO_RECORD"),
        };
        let condition = Condition {
            kind: CONDITION.into(),
            status,
            reason: reason.into(),
            message: describe(unknown),
            time: self.clock.now(),
        };
        self.conditions
            .record_condition(instance.uid, &condition)
            .await
    }
}

async fn read(client: &Session, sql: &str) -> Result<BTreeSet<Marked>> {
    let rows = rows(client, sql).await?;
    let marked = rows.iter().filter_map(|row| {
        let mark: String = row.get(2);
        Some(Marked {
            kind: row.get(0),
            name: row.get(1),
            mark: Uuid::try_parse(&mark).ok()?,
        })
    });
    Ok(marked.collect())
}

fn describe(unknown: &BTreeSet<Marked>) -> String {
    if unknown.is_empty() {
        return "everything of Howdah's on the server is on record".to_owned();
    }
    let names: Vec<String> = unknown.iter().take(NAMED).map(quoted).collect();
    let more = match unknown.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names = names.join(", ");
    format!("no record knows what Howdah has made on the server: {names}{more}")
}

fn quoted(object: &Marked) -> String {
    let shown: String = object.name.escape_debug().collect();
    format!("{} `{shown}`", object.kind)
}

fn unanswered() -> Error {
    let message = "the instance's server does not answer";
    Error::new(Reason::ServerUnavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_stays_short() {
        let all = |count: u128| -> BTreeSet<Marked> {
            let marked = (0..count).map(|number| Marked {
                kind: "role".into(),
                name: format!("r{number:02}\n"),
                mark: Uuid::from_u128(number),
            });
            marked.collect()
        };
        let message = describe(&all(12));
        assert!(message.contains(r#"role `r00\n`, role"#), "{message}");
        assert!(message.ends_with("and 2 more"), "{message}");
        assert!(describe(&all(0)).contains("on record"));
    }
}
