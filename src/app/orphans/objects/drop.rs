//! Removes, on request, what Howdah has made on a server and no record knows any more.

use std::collections::BTreeSet;

use super::{LIMIT, Marked, Objects, unanswered};
use crate::{
    app::admin::execute,
    domain::{Error, Reason, Result, instance::Instance, name::InstanceName},
    pg::sql::{quote_identifier, quote_literal},
};

/// In which order objects are dropped: a database goes before the role that owns it.
const ORDER: [&str; 4] = ["slot", "publication", "database", "role"];

impl Objects {
    /// What no record knows on the active server of an instance, each as `kind/name`.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, HOST_ELSEWHERE, HOST_UNAVAILABLE, SERVER_UNAVAILABLE.
    pub(in crate::app) async fn list_unknown(&self, name: &InstanceName) -> Result<Vec<String>> {
        let instance = self.store.instance(name).await?.whole()?;
        let unknown = self.search(&instance).await?;
        Ok(unknown.iter().map(Marked::id).collect())
    }

    /// Drops these of what no record knows, or all, and answers what was dropped. What cannot
    /// be dropped ends it; what was dropped before stays so.
    ///
    /// # Errors
    /// ORPHAN_NOT_FOUND, before anything is dropped; those of [`Objects::list_unknown`];
    /// DATABASE_IN_USE, ROLE_IN_USE and the like, as PostgreSQL refuses.
    pub(in crate::app) async fn drop_unknown(
        &self,
        name: &InstanceName,
        only: Option<&BTreeSet<String>>,
    ) -> Result<Vec<String>> {
        let instance = self.store.instance(name).await?.whole()?;
        let mut unknown = self.search(&instance).await?;
        if let Some(only) = only {
            let found: BTreeSet<String> = unknown.iter().map(Marked::id).collect();
            if let Some(missing) = only.difference(&found).next() {
                return Err(not_unknown(missing, name));
            }
            unknown.retain(|object| only.contains(&object.id()));
        }
        let mut dropped = Vec::new();
        for kind in ORDER {
            for object in unknown.iter().filter(|object| object.kind == kind) {
                self.drop_one(&instance, object).await?;
                dropped.push(object.id());
            }
        }
        Ok(dropped)
    }

    /// Drops one object that is still unknown while nothing is accepted on the instance.
    async fn drop_one(&self, instance: &Instance, object: &Marked) -> Result<()> {
        let mut tx = self.store.begin().await?;
        tx.lock_instance_by_uid(instance.uid).await?;
        if !self.search(instance).await?.contains(object) {
            return Ok(());
        }
        let (database, sql) = object.drop_statement();
        let client = self.servers.impatient_connection(instance, database);
        execute(&client.await?, &sql).await.map_err(|error| {
            let message = format!("{} was not dropped: {}", object.id(), error.message());
            Error::new(error.reason(), message).with_source(error)
        })
    }

    async fn search(&self, instance: &Instance) -> Result<BTreeSet<Marked>> {
        let search = Box::pin(self.unknown_objects(instance));
        let searched = tokio::time::timeout(LIMIT, search).await;
        searched.unwrap_or_else(|_| Err(unanswered()))
    }
}

impl Marked {
    /// What it is called on the command line.
    fn id(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }

    /// The database to connect to, and what drops it there.
    fn drop_statement(&self) -> (&str, String) {
        let name = quote_identifier(&self.name);
        match self.kind.as_str() {
            "database" => ("postgres", format!("drop database {name}")),
            "role" => ("postgres", format!("drop role {name}")),
            "slot" => {
                let name = quote_literal(&self.name);
                (
                    "postgres",
                    format!("select pg_drop_replication_slot({name})"),
                )
            }
            // The search has put the database behind the name, which has no blanks.
            _ => {
                let (name, database) = self.name.split_once(" in ").unwrap_or((&self.name, ""));
                (
                    database,
                    format!("drop publication {}", quote_identifier(name)),
                )
            }
        }
    }
}

fn not_unknown(object: &str, instance: &InstanceName) -> Error {
    let message = format!(
        "{object:?} is not among what Howdah has made on the server of {instance} and no record \
         knows: `howdah orphans list` shows that"
    );
    Error::new(Reason::OrphanNotFound, message)
}
