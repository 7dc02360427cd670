//! Temporary subscriptions: what they made on a server, so that it can be swept.

use uuid::Uuid;

use super::{Store, fault::Measured};
use crate::domain::Result;

/// What a subscription makes on a server, recorded before it is made.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Identity; part of the names of what it makes.
    pub uid: Uuid,
    /// Server that it reads from, and makes them on.
    pub server_uid: Uuid,
    /// Database in PostgreSQL.
    pub database: String,
    /// Publications that it makes.
    pub publications: Vec<String>,
    /// Its temporary slot.
    pub slot: String,
}

impl Store {
    /// Records a subscription before it makes anything, for `seconds`.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn insert_subscription(
        &self,
        new: &Subscription,
        worker: Uuid,
        seconds: f64,
    ) -> Result<()> {
        sqlx::query!(
            "insert into subscriptions (uid, server_uid, database, publications, slot, worker,
                lease_until)
             values ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))",
            new.uid,
            new.server_uid,
            new.database,
            &new.publications,
            new.slot,
            worker,
            seconds,
        )
        .execute(&self.pool)
        .named("subscriptions.insert_subscription")
        .await?;
        Ok(())
    }

    /// Keeps the subscriptions of a living process from being swept.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn renew_subscriptions(&self, uids: &[Uuid], seconds: f64) -> Result<()> {
        sqlx::query!(
            "update subscriptions set lease_until = now() + make_interval(secs => $2)
             where uid = any($1)",
            uids,
            seconds,
        )
        .execute(&self.pool)
        .named("subscriptions.renew_subscriptions")
        .await?;
        Ok(())
    }

    /// Lets the subscriptions of a process that has died be swept at once.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn expire_subscriptions(&self, worker: Uuid) -> Result<()> {
        sqlx::query!(
            "update subscriptions set lease_until = now() where worker = $1",
            worker
        )
        .execute(&self.pool)
        .named("subscriptions.expire_subscriptions")
        .await?;
        Ok(())
    }

    /// Takes over subscriptions whose process is gone, for `seconds`, to sweep them.
    /// Only those on servers of `host` that are to run; on an active one when it does.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn claim_stale_subscriptions(
        &self,
        host: Uuid,
        worker: Uuid,
        seconds: f64,
    ) -> Result<Vec<Subscription>> {
        sqlx::query_as!(
            Subscription,
            "update subscriptions set worker = $2, lease_until = now() + make_interval(secs => $3)
             where uid in (select u.uid from subscriptions u
                join servers s on s.uid = u.server_uid
                join instances i on i.uid = s.instance_uid
                where u.lease_until < now() and (s.host = $1 or s.host is null)
                and s.wanted = 'RUNNING' and (i.state = 'READY' or s.role <> 'ACTIVE')
                order by u.lease_until limit 20 for update of u skip locked)
             returning uid, server_uid, database, publications, slot",
            host,
            worker,
            seconds,
        )
        .fetch_all(&self.pool)
        .named("subscriptions.claim_stale_subscriptions")
        .await
    }

    /// Forgets a subscription: nothing of it is left on the server.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn remove_subscription(&self, uid: Uuid) -> Result<()> {
        sqlx::query!("delete from subscriptions where uid = $1", uid)
            .execute(&self.pool)
            .named("subscriptions.remove_subscription")
            .await?;
        Ok(())
    }
}
