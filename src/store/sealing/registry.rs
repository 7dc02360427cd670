//! The record of secret keys: which ones are needed, and which one is the newest.

use secrecy::SecretString;
use sqlx::PgConnection;

use super::Keyring;
use crate::{
    domain::{Error, Reason, Result},
    failpoint,
    store::{
        Store, Tx,
        fault::{Measured, broken_constraint, classify},
    },
};

/// Text that is sealed with each key on record, to detect a wrong key at start.
const CHECK: &str = "howdah";

/// A key on record.
#[derive(Clone, Debug)]
pub struct RegisteredKey {
    /// Id of the key: a part of its hash.
    pub id: String,
    /// Whether no living process seals with it.
    pub idle: bool,
}

/// A key on record, with the number of values that are sealed with it.
#[derive(Clone, Debug)]
pub struct KeyUse {
    /// Id of the key: a part of its hash.
    pub id: String,
    /// Number of values that need the key.
    pub values: i64,
    /// Whether no living process seals with it.
    pub idle: bool,
}

impl Store {
    /// Checks that every key on record is in the ring, and records the key that the ring seals
    /// with. Processes that check at the same time wait for each other.
    ///
    /// # Errors
    /// SECRET_KEY_INVALID when a key is missing or wrong; LOCK_TIMEOUT;
    /// METADATA_UNAVAILABLE.
    pub async fn check_keys(&self, keys: &Keyring) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.lock_keys().await?;
        tx.forget_idle_keys(&keys.ids()).await?;
        tx.check_registered_keys(keys).await?;
        failpoint::hit("keys.check.before_register");
        tx.register_key(keys).await?;
        tx.commit().await
    }

    /// Checks the keys again after an outage of the metadata, and records that the ring's
    /// sealing key is in use. If that key is not on record it is added only if no key is: a key
    /// that was rotated out meanwhile must not become the newest again.
    ///
    /// # Errors
    /// As [`Store::check_keys`].
    pub async fn check_keys_again(&self, keys: &Keyring) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.lock_keys().await?;
        let known = tx.check_registered_keys(keys).await?;
        if known.is_empty() || known.iter().any(|id| id == keys.id()) {
            tx.register_key(keys).await?;
        }
        tx.commit().await
    }

    /// Records that a living process seals with this key. Returns `false` if the key is not on
    /// record any more.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn see_key(&self, id: &str) -> Result<bool> {
        let seen = sqlx::query!(
            "update sealing_keys set seen_time = now() where key_id = $1",
            id
        )
        .execute(&self.pool)
        .named("sealing.see_key")
        .await?;
        Ok(seen.rows_affected() == 1)
    }

    /// All keys on record, the newest first.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn registered_keys(&self) -> Result<Vec<RegisteredKey>> {
        sqlx::query_as!(
            RegisteredKey,
            r#"select key_id as id, key_id in (select key_id from sealing_keys_idle) as "idle!"
               from sealing_keys order by number desc"#,
        )
        .fetch_all(&self.pool)
        .named("sealing.registered_keys")
        .await
    }

    /// Makes a key the newest again, because the rotation to `former` was reverted. Only if
    /// `former` is still the newest and is idle. Returns whether that was done.
    ///
    /// # Errors
    /// LOCK_TIMEOUT; METADATA_UNAVAILABLE.
    pub async fn promote_key(&self, id: &str, former: &str) -> Result<bool> {
        let mut tx = self.begin().await?;
        tx.lock_keys().await?;
        let promoted = sqlx::query!(
            "update sealing_keys set number = newest.number + 1
             from (select key_id, number from sealing_keys order by number desc limit 1) newest
             where sealing_keys.key_id = $1 and newest.key_id = $2
                and newest.key_id in (select key_id from sealing_keys_idle)",
            id,
            former,
        )
        .execute(tx.connection())
        .named("sealing.promote_key")
        .await?;
        tx.commit().await?;
        Ok(promoted.rows_affected() == 1)
    }

    /// Deletes the records of idle keys that no value is sealed with, except the newest. Returns
    /// their ids.
    ///
    /// # Errors
    /// LOCK_TIMEOUT; METADATA_UNAVAILABLE.
    pub async fn forget_keys(&self) -> Result<Vec<String>> {
        let mut tx = self.begin().await?;
        tx.lock_keys().await?;
        let forgotten = tx.forget_idle_keys(&[]).await?;
        tx.commit().await?;
        Ok(forgotten)
    }
}

/// The keys on record with the number of values that each opens, the newest first. Empty if the
/// database was not migrated yet.
///
/// # Errors
/// METADATA_UNAVAILABLE.
pub async fn key_uses(connection: &mut PgConnection) -> Result<Vec<KeyUse>> {
    const UNDEFINED_TABLE: &str = "42P01";
    let uses = sqlx::query_as!(
        KeyUse,
        r#"select k.key_id as id,
            (select count(*) from servers s where s.sealing_key = k.key_id)
            + (select count(*) from roles r where r.sealing_key = k.key_id) as "values!",
            k.key_id in (select key_id from sealing_keys_idle) as "idle!"
           from sealing_keys k order by k.number desc"#,
    )
    .fetch_all(connection)
    .raw("sealing.key_uses")
    .await;
    match uses {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNDEFINED_TABLE) => {
            Ok(Vec::new())
        }
        uses => uses.map_err(classify),
    }
}

impl Tx {
    /// Prevents other processes from checking, recording and deleting keys until the transaction
    /// ends. Sealed values can still be stored.
    async fn lock_keys(&mut self) -> Result<()> {
        sqlx::query!("lock table sealing_keys in share row exclusive mode")
            .execute(self.connection())
            .named("sealing.lock_keys")
            .await?;
        Ok(())
    }

    /// Deletes the records of keys that are not needed, except those in `kept`. A transaction
    /// that seals with a key locks its record; such a key is left for the next time.
    async fn forget_idle_keys(&mut self, kept: &[String]) -> Result<Vec<String>> {
        let forgotten = sqlx::query_scalar!(
            "delete from sealing_keys where key_id in (
                select k.key_id from sealing_keys k
                where k.number < (select max(number) from sealing_keys)
                    and k.key_id in (select key_id from sealing_keys_idle)
                    and k.key_id <> all($1)
                    and not exists (select from servers s where s.sealing_key = k.key_id)
                    and not exists (select from roles r where r.sealing_key = k.key_id)
                for update skip locked)
             returning key_id",
            kept,
        )
        .fetch_all(self.connection())
        .raw("sealing.forget_keys")
        .await;
        forgotten.map_err(|error| match broken_constraint(&error) {
            // A value was sealed with the key between the query and the deletion.
            Some(_) => Error::new(Reason::LockTimeout, "a key to forget is in use again")
                .with_source(error),
            None => classify(error),
        })
    }

    /// Checks that the ring has every key on record. Returns their ids, the newest first.
    async fn check_registered_keys(&mut self, keys: &Keyring) -> Result<Vec<String>> {
        let known =
            sqlx::query!("select key_id, check_value from sealing_keys order by number desc")
                .fetch_all(self.connection())
                .named("sealing.check_keys")
                .await?;
        let lacking: Vec<&str> = known
            .iter()
            .map(|key| key.key_id.as_str())
            .filter(|id| !keys.holds(id))
            .collect();
        if !lacking.is_empty() {
            return Err(missing(&lacking, keys));
        }
        for key in &known {
            keys.open(&key.check_value, &key.key_id)?;
        }
        Ok(known.into_iter().map(|key| key.key_id).collect())
    }

    async fn register_key(&mut self, keys: &Keyring) -> Result<()> {
        let check = keys.seal(&SecretString::from(CHECK), keys.id())?;
        sqlx::query!(
            "insert into sealing_keys (key_id, number, check_value)
             values ($1, (select coalesce(max(number), 0) + 1 from sealing_keys), $2)
             on conflict (key_id) do update set seen_time = now()",
            keys.id(),
            check,
        )
        .execute(self.connection())
        .named("sealing.register_key")
        .await?;
        Ok(())
    }
}

fn missing(lacking: &[&str], keys: &Keyring) -> Error {
    let message = format!(
        "stored secrets are sealed with a key that is not given: missing {}, given {}; set \
         HOWDAH_SECRET_KEY to the missing key, or give it in HOWDAH_SECRET_KEY_PREVIOUS if \
         the key is being rotated",
        lacking.join(", "),
        keys.ids().join(", "),
    );
    Error::new(Reason::SecretKeyInvalid, message)
}

/// The error for a sealed value that the database has refused.
pub(in crate::store) fn refused(error: sqlx::Error) -> Error {
    match broken_constraint(&error) {
        Some("servers_sealing_key_fkey" | "roles_sealing_key_fkey") => Error::new(
            Reason::SecretKeyInvalid,
            "the key that this process seals with was rotated out and is not in use any more: \
             restart the process with the present key",
        )
        .with_source(error),
        _ => classify(error),
    }
}
