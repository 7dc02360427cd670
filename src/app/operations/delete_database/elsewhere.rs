//! Finds and drops what a database's owner role owns outside of the database.

use super::super::{
    super::admin::{Session, execute, fetch},
    context::Context,
};
use crate::{
    domain::{Error, Reason, Result, database::Database},
    pg::sql::quote_identifier,
};

/// Objects that depend on the role `$1`, without the database `$2` and its contents. Objects
/// that belong to the whole server, not to a database, have no row in `pg_database`.
const DEPENDENCIES: &str = "
    from pg_shdepend s left join pg_database d on d.oid = s.dbid
    where s.refclassid = 'pg_authid'::regclass
    and s.refobjid = (select oid from pg_roles where rolname = $1)
    and s.dbid is distinct from (select oid from pg_database where datname = $2)
    and not (s.classid = 'pg_database'::regclass
        and s.objid is not distinct from (select oid from pg_database where datname = $2))";

/// What a role owns, or has been granted, in other databases.
pub(super) struct Elsewhere {
    role: String,
    database: String,
    /// Databases and numbers of objects, such as `billing (3 objects)`; none if there are no
    /// objects.
    listed: Option<String>,
    /// Objects of the whole server that the role owns, such as another database or a tablespace.
    shared: Option<String>,
    /// Databases in which DROP OWNED has something to drop.
    places: Vec<String>,
}

impl Elsewhere {
    pub(super) async fn of(client: &Session, role: &str, database: &str) -> Result<Self> {
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&role, &database];
        let listed = format!(
            "select string_agg(format('%s (%s objects)', place, number), ', ' order by place)
             from (select coalesce(d.datname, 'the server itself') as place, count(*) as number
                {DEPENDENCIES} group by 1) of_one"
        );
        let shared = format!(
            "select string_agg(pg_describe_object(s.classid, s.objid, 0), ', ')
             {DEPENDENCIES} and s.deptype = 'o' and s.dbid = 0"
        );
        // DROP OWNED removes grants on objects of the whole server from within any database.
        let places = format!(
            "select coalesce(array_agg(distinct coalesce(d.datname, 'postgres')::text),
                array[]::text[]) {DEPENDENCIES}"
        );
        Ok(Self {
            role: role.to_owned(),
            database: database.to_owned(),
            listed: fetch(client, &listed, &parameters).await?.flatten(),
            shared: fetch(client, &shared, &parameters).await?.flatten(),
            places: fetch(client, &places, &parameters)
                .await?
                .unwrap_or_default(),
        })
    }

    /// Refuses what cannot be dropped at all, and without `force` what needs it.
    pub(super) fn refuse(&self, database: &Database, force: bool) -> Result<()> {
        let role = &self.role;
        let message = match (&self.listed, &self.shared) {
            (_, Some(shared)) => format!("the role `{role}` also owns: {shared}"),
            (Some(listed), _) if !force => {
                format!("the role `{role}` owns or was granted something in: {listed}")
            }
            _ => return Ok(()),
        };
        Err(Error::new(Reason::RoleInUse, message).with_resource(database.name.to_string()))
    }

    /// Drops the role's objects in other databases and revokes its grants there. A trial run
    /// with ROLLBACK comes first: if one database refuses, no database is changed.
    pub(super) async fn drop_owned(&self, context: &Context) -> Result<()> {
        let instance = context.instance().await?;
        let drop = format!("drop owned by {}", quote_identifier(&self.role));
        for place in &self.places {
            let client = context
                .engine
                .servers
                .impatient_connection(&instance, place)
                .await?;
            execute(&client, &format!("begin; {drop}; rollback")).await?;
        }
        for place in &self.places {
            let client = context
                .engine
                .servers
                .impatient_connection(&instance, place)
                .await?;
            execute(&client, &drop).await?;
        }
        self.keep_rights(context).await
    }

    /// Grants the role its privileges on its own database again, because DROP OWNED has revoked
    /// them. The database may survive if a later statement fails.
    async fn keep_rights(&self, context: &Context) -> Result<()> {
        let instance = context.instance().await?;
        let client = context
            .engine
            .servers
            .impatient_connection(&instance, "postgres")
            .await?;
        let there = "select datname::text from pg_database where datname = $1";
        let there: Option<String> = fetch(&client, there, &[&self.database]).await?;
        let Some(database) = there else {
            return Ok(());
        };
        let (database, role) = (quote_identifier(&database), quote_identifier(&self.role));
        let rights = format!("grant connect, create, temporary on database {database} to {role}");
        execute(&client, &rights).await
    }
}
