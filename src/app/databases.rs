//! Databases and how to connect to them.

use std::{collections::BTreeMap, slice, sync::Arc};

use serde_json::json;
use uuid::Uuid;

use super::{
    Mutation, Origin,
    admin::role_password_label,
    audit::repeated_uid,
    hosts::Hosts,
    mutation::{Accepting, Mutations, ResourceRef},
    operations::{self, DeleteDatabaseParameters},
    pages::{List, Listed, Page, Query},
};
use crate::{
    domain::{
        Error, Reason, Result,
        audit::Outcome,
        clock::Clock,
        database::{Connection, Database, State, default_owner},
        filter::{Fields, Filter, Type, Value as Field},
        instance::{Instance, check_etag},
        list::Order,
        name::{DatabaseName, Id, InstanceName},
        operation::Operation,
        postgres::PostgresName,
        random::Random,
        recorded::Recorded,
        version::Version,
    },
    store::{Store, databases::NewDatabase, roles::NewRole, sealing::Keyring},
};

pub(super) const FIELDS: Fields = &[
    ("database_id", Type::Text),
    (
        "state",
        Type::Word(&["CREATING", "READY", "DELETING", "FAILED"]),
    ),
    ("postgresql_name", Type::Text),
    ("owner", Type::Text),
    ("display_name", Type::Text),
    ("create_time", Type::Time),
];

/// Arguments of CreateDatabase.
#[derive(Clone, Debug)]
pub struct CreateDatabase {
    /// Resource name.
    pub name: DatabaseName,
    /// Name for people.
    pub display_name: String,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the user's tools.
    pub annotations: BTreeMap<String, String>,
    /// Name in PostgreSQL; empty for the id.
    pub postgresql_name: String,
    /// Owner role; empty for `{postgresql_name}_user`.
    pub owner: String,
    /// Encoding; empty for `UTF8`.
    pub encoding: String,
    /// Locale provider: empty, `libc`, `icu` or `builtin`.
    pub locale_provider: String,
    /// Locale; empty for that of the instance.
    pub locale: String,
    /// Most connections at once; 0 for no limit.
    pub connection_limit: i32,
    /// Whether deletion without `force` is refused.
    pub deletion_protection: bool,
}

/// Arguments of DeleteDatabase.
#[derive(Clone, Debug)]
pub struct DeleteDatabase {
    /// Resource name.
    pub name: DatabaseName,
    /// Etag that the database must have; empty for any.
    pub etag: String,
    /// Whether to drop it although it is in use or protected.
    pub force: bool,
}

/// Use cases of databases. Cheap to clone.
#[derive(Clone)]
pub struct Databases {
    pub(super) store: Store,
    pub(super) keyring: Keyring,
    pub(super) random: Arc<dyn Random>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hosts: Hosts,
    pub(super) mutations: Mutations,
}

impl Databases {
    /// Gets a database.
    ///
    /// # Errors
    /// DATABASE_NOT_FOUND.
    pub async fn get(&self, name: &DatabaseName) -> Result<Recorded<Database>> {
        self.store.database(name).await
    }

    /// Lists the databases of an instance.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND; as [`Instances::list`](super::Instances::list).
    pub async fn list(
        &self,
        instance: &InstanceName,
        list: List,
    ) -> Result<Page<Recorded<Database>>> {
        let order = Order::parse(&list.order_by, "database_id")?;
        let filter = Filter::parse(&list.filter, FIELDS)?;
        let query = Query::new(&instance.to_string(), list, order, filter)?;
        let instance = match self.store.instance(instance).await? {
            Recorded::Whole(instance) => instance.uid,
            Recorded::Unreadable(unreadable) => unreadable.uid,
        };
        let part = self.store.databases(instance, query.slice()).await?;
        query.page(part)
    }

    /// Creates a database with its owner role and password.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, INSTANCE_NOT_READY, DATABASE_EXISTS, ROLE_EXISTS,
    /// NAME_TOO_LONG, FIELD_INVALID, RESOURCE_BUSY, HOST_UNAVAILABLE.
    pub async fn create(&self, mutation: Mutation, new: CreateDatabase) -> Result<Operation> {
        let databases = self.clone();
        let accept = move |accepting| databases.accept_create(accepting, new);
        self.mutations.accept(mutation, accept).await
    }

    /// Drops a database and its owner role.
    ///
    /// # Errors
    /// DATABASE_NOT_FOUND, ETAG_MISMATCH, DELETION_PROTECTED, INSTANCE_NOT_READY,
    /// RESOURCE_BUSY, HOST_UNAVAILABLE.
    pub async fn delete(&self, mutation: Mutation, delete: DeleteDatabase) -> Result<Operation> {
        let databases = self.clone();
        let accept = move |accepting| databases.accept_delete(accepting, delete);
        self.mutations.accept(mutation, accept).await
    }

    /// Returns how to connect to a database, with the password. An audit record is written
    /// before.
    ///
    /// # Errors
    /// DATABASE_NOT_FOUND, DATABASE_NOT_READY, INSTANCE_NOT_READY.
    pub async fn connection(&self, origin: Origin, name: &DatabaseName) -> Result<Connection> {
        let database = self.store.database(name).await?.whole()?;
        if database.state != State::Ready {
            let message = format!("the database is {}, not READY", database.state.as_str());
            return Err(
                Error::new(Reason::DatabaseNotReady, message).with_resource(name.to_string())
            );
        }
        let instance = self.store.instance(&name.instance).await?.whole()?;
        let instance = self.hosts.located(instance);
        if instance.delete_time.is_some() {
            return Err(instance.not_ready());
        }
        let role = self.store.owner_role(database.uid).await?;
        let endpoint = instance.endpoint.clone();
        let endpoint = endpoint.ok_or_else(|| instance.not_ready())?;
        let connection = Connection {
            host: endpoint.host,
            port: endpoint.port,
            user: PostgresName::parse(&role.postgresql_name, "owner")?,
            password: self
                .keyring
                .open(&role.password, &role_password_label(role.uid))?,
            // Exactly what the server offers, because drivers treat `prefer` without TLS
            // differently.
            sslmode: if endpoint.tls { "require" } else { "disable" },
            database: database.postgresql_name,
        };
        let (project, resource) = (&name.instance.project, name.to_string());
        let record = origin.record(project, &resource, Outcome::HandedOut);
        let store = &self.store;
        store
            .count_audit_record(repeated_uid(&record, self.clock.now()), &record)
            .await?;
        Ok(connection)
    }

    async fn accept_create(
        self,
        mut accepting: Accepting,
        new: CreateDatabase,
    ) -> Result<Operation> {
        let instance = accepting.tx.hold_instance(&new.name.instance).await?;
        let active = slice::from_ref(instance.active()?);
        accepting = self.hosts.refuse_gone(accepting, &instance, active).await?;
        instance.require_ready()?;
        let tx = &mut accepting.tx;
        tx.refuse_busy(instance.uid).await?;
        let (uid, role) = (self.random.uuid()?, self.random.uuid()?);
        let name = new.name.clone();
        let database = record(new, uid, instance.uid)?;
        refuse_reserved(&database)?;
        refuse_provider(&database.locale_provider, instance.active()?.version)?;
        let password = self.random.password()?;
        tx.insert_database(&database).await?;
        tx.insert_role(&NewRole {
            uid: role,
            instance_uid: instance.uid,
            id: role_id(&name.database)?,
            postgresql_name: database.owner.to_string(),
            database_uid: uid,
            password: self.keyring.seal(&password, &role_password_label(role))?,
        })
        .await?;
        let target = target_of(&name, uid, &instance)?;
        accepting
            .enqueue(&operations::CREATE_DATABASE, target, json!({}))
            .await
    }

    async fn accept_delete(
        self,
        mut accepting: Accepting,
        delete: DeleteDatabase,
    ) -> Result<Operation> {
        let instance = accepting.tx.hold_instance(&delete.name.instance).await?;
        let database = accepting.tx.lock_database(&delete.name).await?;
        check_etag(&delete.etag, &database.etag())?;
        let active = slice::from_ref(instance.active()?);
        accepting = self.hosts.refuse_gone(accepting, &instance, active).await?;
        instance.require_ready()?;
        let tx = &mut accepting.tx;
        tx.refuse_busy(instance.uid).await?;
        tx.refuse_busy(database.uid).await?;
        if database.deletion_protection && !delete.force {
            let message = "deletion protection is on; `force` deletes all the same";
            return Err(Error::new(Reason::DeletionProtected, message)
                .with_resource(delete.name.to_string()));
        }
        tx.set_database_state(database.uid, State::Deleting).await?;
        let target = target_of(&delete.name, database.uid, &instance)?;
        let parameters = serde_json::to_value(DeleteDatabaseParameters {
            force: delete.force,
        })
        .map_err(|error| Error::internal("parameters").with_source(error))?;
        accepting
            .enqueue(&operations::DELETE_DATABASE, target, parameters)
            .await
    }
}

/// Refuses names that PostgreSQL or Howdah uses itself.
fn refuse_reserved(database: &NewDatabase) -> Result<()> {
    let name = database.postgresql_name.as_str();
    if matches!(name, "postgres" | "template0" | "template1") {
        let message = format!("the database `{name}` exists on every server");
        return Err(
            Error::new(Reason::DatabaseExists, message).with_resource(database.name.to_string())
        );
    }
    let owner = database.owner.as_str();
    if owner.starts_with("pg_") || matches!(owner, "public" | "none" | super::admin::ADMIN) {
        let message = format!("the role name `{owner}` is reserved");
        return Err(Error::new(Reason::FieldInvalid, message).with_field("database.owner"));
    }
    Ok(())
}

/// The id of a database's owner role: `{database}-user`.
fn role_id(database: &Id) -> Result<String> {
    let id = Id::parse(&format!("{database}-user"), "database_id");
    id.map(|id| id.to_string()).map_err(|_| {
        let message = "the id of the owner role, the database's with `-user`, is too long";
        Error::new(Reason::NameTooLong, message).with_field("database_id")
    })
}

/// PostgreSQL's own locale provider. Its locales do not depend on libraries of the machine.
const BUILTIN: &str = "builtin";

/// Refuses a locale provider that this version of PostgreSQL does not have.
fn refuse_provider(provider: &str, version: Version) -> Result<()> {
    const SINCE: u16 = 17;
    if provider != BUILTIN || version.major >= SINCE {
        return Ok(());
    }
    let message = format!(
        "the locale provider `builtin` is there from PostgreSQL {SINCE} on; the instance's \
         server is {version}"
    );
    Err(Error::new(Reason::FieldInvalid, message).with_field("database.locale_provider"))
}

fn target_of(name: &DatabaseName, uid: Uuid, instance: &Instance) -> Result<ResourceRef> {
    Ok(ResourceRef {
        project: name.instance.project.clone(),
        name: name.to_string(),
        uid,
        parent: Some(instance.uid),
        host: instance.active()?.host(),
    })
}

fn record(new: CreateDatabase, uid: Uuid, instance_uid: Uuid) -> Result<NewDatabase> {
    let postgresql_name = match new.postgresql_name.as_str() {
        "" => PostgresName::parse(new.name.database.as_str(), "database_id")?,
        name => PostgresName::parse(name, "database.postgresql_name")?,
    };
    let owner = match new.owner.as_str() {
        "" => default_owner(&postgresql_name)?,
        name => PostgresName::parse(name, "database.owner")?,
    };
    if !matches!(new.locale_provider.as_str(), "" | "libc" | "icu" | BUILTIN) {
        let message = "`locale_provider` is `libc`, `icu` or `builtin`";
        return Err(
            Error::new(Reason::FieldInvalid, message).with_field("database.locale_provider")
        );
    }
    Ok(NewDatabase {
        uid,
        instance_uid,
        name: new.name,
        display_name: new.display_name,
        labels: new.labels,
        annotations: new.annotations,
        postgresql_name,
        owner,
        encoding: if new.encoding.is_empty() {
            "UTF8".to_owned()
        } else {
            new.encoding
        },
        locale_provider: new.locale_provider,
        locale: new.locale,
        connection_limit: new.connection_limit,
        deletion_protection: new.deletion_protection,
    })
}

impl Listed for Database {
    fn labels(&self) -> Option<&BTreeMap<String, String>> {
        Some(&self.labels)
    }

    fn field(&self, name: &str) -> Option<Field> {
        Some(match name {
            "database_id" => Field::Text(self.name.database.to_string()),
            "state" => Field::Text(self.state.as_str().to_owned()),
            "postgresql_name" => Field::Text(self.postgresql_name.to_string()),
            "owner" => Field::Text(self.owner.to_string()),
            "display_name" => Field::Text(self.display_name.clone()),
            "create_time" => Field::Time(self.create_time),
            _ => return None,
        })
    }
}
