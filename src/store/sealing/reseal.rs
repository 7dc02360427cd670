//! Seals values again with the newest key, after a rotation.

use uuid::Uuid;

use super::{Keyring, registry::refused};
use crate::{
    domain::{Error, Result},
    failpoint,
    store::{Store, Tx, fault::Measured},
};

/// Most rows in one transaction, because others wait for the locked rows.
const BATCH: usize = 100;

/// Kinds of sealed values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sealed {
    /// Passwords of `howdah_admin`, one per server.
    AdminPasswords,
    /// Passwords of database roles.
    RolePasswords,
}

/// Makes the label that the value of a row is bound to.
pub type Label = fn(Uuid) -> String;

/// Result of one batch.
#[derive(Debug, Default)]
pub struct Batch {
    /// Number of values that are now sealed with the newest key.
    pub resealed: usize,
    /// Rows whose values do not open, with the error. They are not changed.
    pub unopened: Vec<(Uuid, Error)>,
    /// Row after which the next batch begins; none after the last batch.
    pub next: Option<Uuid>,
}

/// A stored value.
struct Row {
    uid: Uuid,
    value: Vec<u8>,
}

impl Store {
    /// Seals a batch of values again that an older key has sealed, in rows after `after`. Does
    /// nothing if the sealing key of `keys` is not the newest. Skips locked rows until the next
    /// time.
    ///
    /// # Errors
    /// LOCK_TIMEOUT; METADATA_UNAVAILABLE.
    pub async fn reseal(
        &self,
        what: Sealed,
        keys: &Keyring,
        label: Label,
        after: Uuid,
    ) -> Result<Batch> {
        let mut tx = self.begin().await?;
        if !tx.hold_newest_key(keys.id()).await? {
            return Ok(Batch::default());
        }
        let rows = tx.lock_former(what, keys.id(), after).await?;
        let mut batch = Batch {
            next: rows
                .last()
                .map(|row| row.uid)
                .filter(|_| rows.len() == BATCH),
            ..Batch::default()
        };
        let (mut uids, mut values) = (Vec::new(), Vec::new());
        for row in rows {
            let label = label(row.uid);
            match keys.open(&row.value, &label) {
                Ok(secret) => {
                    uids.push(row.uid);
                    values.push(keys.seal(&secret, &label)?);
                }
                Err(error) => batch.unopened.push((row.uid, error)),
            }
        }
        tx.replace(what, &uids, &values).await?;
        failpoint::hit("keys.reseal.before_commit");
        tx.commit().await?;
        failpoint::hit("keys.reseal.after_commit");
        batch.resealed = uids.len();
        Ok(batch)
    }
}

impl Tx {
    /// Whether this key is the newest. Its record cannot be deleted until the transaction ends.
    async fn hold_newest_key(&mut self, id: &str) -> Result<bool> {
        let newest = sqlx::query_scalar!(
            "select key_id from sealing_keys order by number desc limit 1 for key share"
        )
        .fetch_optional(self.connection())
        .named("sealing.hold_newest_key")
        .await?;
        Ok(newest.as_deref() == Some(id))
    }

    async fn lock_former(&mut self, what: Sealed, newest: &str, after: Uuid) -> Result<Vec<Row>> {
        let most = i64::try_from(BATCH).unwrap_or(i64::MAX);
        match what {
            Sealed::AdminPasswords => {
                sqlx::query_as!(
                    Row,
                    "select uid, admin_password as value from servers
                     where sealing_key in (select key_id from sealing_keys where key_id <> $1)
                        and uid > $2
                     order by uid limit $3 for no key update of servers skip locked",
                    newest,
                    after,
                    most,
                )
                .fetch_all(self.connection())
                .named("sealing.lock_servers")
                .await
            }
            Sealed::RolePasswords => {
                sqlx::query_as!(
                    Row,
                    "select uid, password as value from roles
                     where sealing_key in (select key_id from sealing_keys where key_id <> $1)
                        and uid > $2
                     order by uid limit $3 for no key update of roles skip locked",
                    newest,
                    after,
                    most,
                )
                .fetch_all(self.connection())
                .named("sealing.lock_roles")
                .await
            }
        }
    }

    async fn replace(&mut self, what: Sealed, uids: &[Uuid], values: &[Vec<u8>]) -> Result<()> {
        let replaced = match what {
            Sealed::AdminPasswords => {
                sqlx::query!(
                    "update servers set admin_password = new.value
                     from unnest($1::uuid[], $2::bytea[]) new (uid, value)
                     where servers.uid = new.uid",
                    uids,
                    values,
                )
                .execute(self.connection())
                .raw("sealing.reseal_servers")
                .await
            }
            Sealed::RolePasswords => {
                sqlx::query!(
                    "update roles set password = new.value
                     from unnest($1::uuid[], $2::bytea[]) new (uid, value)
                     where roles.uid = new.uid",
                    uids,
                    values,
                )
                .execute(self.connection())
                .raw("sealing.reseal_roles")
                .await
            }
        };
        replaced.map(|_| ()).map_err(refused)
    }
}
