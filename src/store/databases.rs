//! Databases of instances.

use std::{collections::BTreeMap, mem::take};

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    Store, Tx,
    fault::{Measured, broken_constraint, classify},
    listing::{DATABASES, Parent, Part, Slice, find},
    unreadable::{Readable, found_unreadable, json},
};
use crate::domain::{
    Error, Reason, Result,
    database::{Database, State},
    name::{DatabaseName, Id, InstanceName},
    postgres::PostgresName,
    recorded::{Recorded, Unreadable},
};

/// A row of `databases` with the name of its instance.
struct Record {
    uid: Uuid,
    instance_uid: Uuid,
    project: String,
    instance: String,
    id: String,
    revision: i64,
    display_name: String,
    labels: String,
    annotations: String,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
    state: String,
    postgresql_name: String,
    owner: String,
    encoding: String,
    locale_provider: String,
    locale: String,
    connection_limit: i32,
    deletion_protection: bool,
    reconciling: bool,
}

/// The columns, shared by all queries below.
macro_rules! select_databases {
    ($($tail:literal)* $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Record,
            r#"select d.uid, d.instance_uid, i.project, i.id as instance, d.id, d.revision,
                d.display_name, d.labels::text as "labels!", d.annotations::text as "annotations!",
                d.create_time, d.update_time, d.state, d.postgresql_name, d.owner, d.encoding,
                d.locale_provider, d.locale, d.connection_limit, d.deletion_protection,
                exists (select from operations o where o.target_uid = d.uid
                    and o.end_time is null) as "reconciling!"
            from databases d join instances i on i.uid = d.instance_uid "# $(+ $tail)*
            $(, $argument)*
        )
    };
}

/// The record of a new database.
#[derive(Clone, Debug)]
pub struct NewDatabase {
    /// Unique id, never reused.
    pub uid: Uuid,
    /// Unique id of the instance.
    pub instance_uid: Uuid,
    /// Resource name.
    pub name: DatabaseName,
    /// Name for people.
    pub display_name: String,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the user's tools.
    pub annotations: BTreeMap<String, String>,
    /// Name in PostgreSQL.
    pub postgresql_name: PostgresName,
    /// Role that owns it.
    pub owner: PostgresName,
    /// Character set encoding.
    pub encoding: String,
    /// Locale provider; empty for that of the instance.
    pub locale_provider: String,
    /// Locale; empty for that of the instance.
    pub locale: String,
    /// Most connections at once; 0 for no limit.
    pub connection_limit: i32,
    /// Whether deletion without `force` is refused.
    pub deletion_protection: bool,
}

impl Store {
    /// Reads a database by its name.
    ///
    /// # Errors
    /// DATABASE_NOT_FOUND; METADATA_UNAVAILABLE.
    pub async fn database(&self, name: &DatabaseName) -> Result<Recorded<Database>> {
        let record = select_databases!(
            "where i.project = $1 and i.id = $2 and d.id = $3",
            name.instance.project.as_str(),
            name.instance.instance.as_str(),
            name.database.as_str(),
        )
        .fetch_optional(&self.pool)
        .named("databases.database")
        .await?;
        record.map(Record::read).ok_or_else(|| not_found(name))
    }

    /// Reads a database by its unique id; none if there is no such database.
    ///
    /// # Errors
    /// RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn database_by_uid(&self, uid: Uuid) -> Result<Option<Database>> {
        let record = select_databases!("where d.uid = $1", uid)
            .fetch_optional(&self.pool)
            .named("databases.database_by_uid")
            .await?;
        record.map(|record| record.read().whole()).transpose()
    }

    /// Reads a part of an instance's databases, in order.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn databases(
        &self,
        instance: Uuid,
        slice: Slice<'_>,
    ) -> Result<Part<Recorded<Database>>> {
        let parent = Parent::Instance(instance);
        let found = find(&self.pool, "databases.find", &DATABASES, parent, slice).await?;
        let records = select_databases!("where d.uid = any($1)", &found.records)
            .fetch_all(&self.pool)
            .named("databases.list")
            .await?;
        let records = records.into_iter().map(Record::read).collect();
        Ok(found.of(records, |database| match database {
            Recorded::Whole(database) => database.uid,
            Recorded::Unreadable(unreadable) => unreadable.uid,
        }))
    }
}

impl Tx {
    /// Reads a database by its name, and locks it against any other change.
    ///
    /// # Errors
    /// DATABASE_NOT_FOUND, RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn lock_database(&mut self, name: &DatabaseName) -> Result<Database> {
        let record = select_databases!(
            "where i.project = $1 and i.id = $2 and d.id = $3 for update of d",
            name.instance.project.as_str(),
            name.instance.instance.as_str(),
            name.database.as_str(),
        )
        .fetch_optional(self.connection())
        .named("databases.lock_database")
        .await?;
        record.ok_or_else(|| not_found(name))?.read().whole()
    }

    /// Reads a database by its unique id, and locks it against any other change.
    ///
    /// # Errors
    /// RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn lock_database_by_uid(&mut self, uid: Uuid) -> Result<Option<Database>> {
        let record = select_databases!("where d.uid = $1 for update of d", uid)
            .fetch_optional(self.connection())
            .named("databases.lock_database_by_uid")
            .await?;
        record.map(|record| record.read().whole()).transpose()
    }

    /// Number of databases of an instance.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn count_databases(&mut self, instance: Uuid) -> Result<i64> {
        sqlx::query_scalar!(
            r#"select count(*) as "count!" from databases where instance_uid = $1"#,
            instance,
        )
        .fetch_one(self.connection())
        .named("databases.count_databases")
        .await
    }

    /// Records a new database, in state CREATING.
    ///
    /// # Errors
    /// DATABASE_EXISTS; METADATA_UNAVAILABLE.
    pub async fn insert_database(&mut self, new: &NewDatabase) -> Result<()> {
        let inserted = sqlx::query!(
            "insert into databases (uid, instance_uid, id, display_name, labels, annotations,
                state, postgresql_name, owner, encoding, locale_provider, locale,
                connection_limit, deletion_protection)
             values ($1, $2, $3, $4, $5, $6, 'CREATING', $7, $8, $9, $10, $11, $12, $13)",
            new.uid,
            new.instance_uid,
            new.name.database.as_str(),
            new.display_name,
            Json(&new.labels) as _,
            Json(&new.annotations) as _,
            new.postgresql_name.as_str(),
            new.owner.as_str(),
            new.encoding,
            new.locale_provider,
            new.locale,
            new.connection_limit,
            new.deletion_protection,
        )
        .execute(self.connection())
        .raw("databases.insert_database")
        .await;
        let Err(error) = inserted else { return Ok(()) };
        match broken_constraint(&error) {
            Some(
                "databases_instance_uid_id_key" | "databases_instance_uid_postgresql_name_key",
            ) => {
                let message = "a database of that id or PostgreSQL name exists";
                Err(Error::new(Reason::DatabaseExists, message).with_resource(new.name.to_string()))
            }
            _ => Err(classify(error)),
        }
    }

    /// Sets the state of a database.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn set_database_state(&mut self, uid: Uuid, state: State) -> Result<()> {
        sqlx::query!(
            "update databases set state = $2, revision = revision + 1, update_time = now()
             where uid = $1",
            uid,
            state.as_str(),
        )
        .execute(self.connection())
        .named("databases.set_database_state")
        .await?;
        Ok(())
    }

    /// Deletes the records of a database and of its owner role.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn remove_database(&mut self, uid: Uuid) -> Result<()> {
        sqlx::query!("delete from databases where uid = $1", uid)
            .execute(self.connection())
            .named("databases.remove_database")
            .await?;
        Ok(())
    }
}

fn not_found(name: &DatabaseName) -> Error {
    Error::new(Reason::DatabaseNotFound, "the database does not exist")
        .with_resource(name.to_string())
}

impl Record {
    fn read(mut self) -> Recorded<Database> {
        match self.database() {
            Ok(database) => Recorded::Whole(database),
            Err(column) => self.unreadable(column),
        }
    }

    /// Reads the row. The error is the column that cannot be read; [`Record::unreadable`] can
    /// still be called then.
    fn database(&mut self) -> Readable<Database> {
        let instance = InstanceName {
            project: Id::parse(&self.project, "project").map_err(|_| "project")?,
            instance: Id::parse(&self.instance, "instance").map_err(|_| "instance")?,
        };
        let postgres = |column: &'static str, text: &str| {
            PostgresName::parse(text, column).map_err(|_| column)
        };
        Ok(Database {
            name: DatabaseName {
                instance,
                database: Id::parse(&self.id, "database").map_err(|_| "id")?,
            },
            uid: self.uid,
            instance_uid: self.instance_uid,
            revision: self.revision,
            labels: json("labels", &self.labels)?,
            annotations: json("annotations", &self.annotations)?,
            display_name: take(&mut self.display_name),
            create_time: self.create_time,
            update_time: self.update_time,
            state: State::parse(&self.state).map_err(|_| "state")?,
            reconciling: self.reconciling,
            postgresql_name: postgres("postgresql_name", &self.postgresql_name)?,
            owner: postgres("owner", &self.owner)?,
            encoding: take(&mut self.encoding),
            locale_provider: take(&mut self.locale_provider),
            locale: take(&mut self.locale),
            connection_limit: self.connection_limit,
            deletion_protection: self.deletion_protection,
        })
    }

    fn unreadable(self, column: &'static str) -> Recorded<Database> {
        let (project, instance, id) = (self.project, self.instance, self.id);
        found_unreadable(Unreadable {
            name: format!("projects/{project}/instances/{instance}/databases/{id}"),
            id,
            uid: self.uid,
            create_time: self.create_time,
            update_time: self.update_time,
            delete_time: None,
            column,
        })
    }
}
