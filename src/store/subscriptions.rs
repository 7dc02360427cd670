//! Temporary subscriptions: what they made on a server, so that it can be swept.

use uuid::Uuid;

use super::{Store, fault::Measured, leases::Held};
use crate::domain::Result;

/// What a subscription makes on a server, recorded before it is made.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Unique id; part of the names of what it makes.
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
    /// Records a subscription before it makes anything, with a lease for `seconds`.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn insert_subscription(
        &self,
        new: &Subscription,
        worker: Uuid,
        seconds: f64,
    ) -> Result<Held> {
        sqlx::query_as!(
            Held,
            "with subscription as (
                insert into subscriptions (uid, server_uid, database, publications, slot)
                values ($1, $2, $3, $4, $5))
             insert into leases (resource, worker, until)
             values ($1, $6, now() + make_interval(secs => $7))
             returning resource, token",
            new.uid,
            new.server_uid,
            new.database,
            &new.publications,
            new.slot,
            worker,
            seconds,
        )
        .fetch_one(&self.pool)
        .named("subscriptions.insert_subscription")
        .await
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
            "with stale as (select l.resource from leases l
                join subscriptions u on u.uid = l.resource
                join servers s on s.uid = u.server_uid
                join instances i on i.uid = s.instance_uid
                where l.until <= now() and (s.host = $1 or s.host is null)
                and s.wanted = 'RUNNING' and (i.state = 'READY' or s.role <> 'ACTIVE')
                order by l.until limit 20 for update of l skip locked),
             taken as (update leases l set worker = $2, token = nextval('lease_tokens'),
                until = now() + make_interval(secs => $3)
                from stale where l.resource = stale.resource returning l.resource)
             select uid, server_uid, database, publications, slot
             from taken join subscriptions on uid = resource",
            host,
            worker,
            seconds,
        )
        .fetch_all(&self.pool)
        .named("subscriptions.claim_stale_subscriptions")
        .await
    }

    /// Forgets a subscription and its lease: nothing of it is left on the server.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn remove_subscription(&self, uid: Uuid) -> Result<()> {
        sqlx::query!(
            "with lease as (delete from leases where resource = $1)
             delete from subscriptions where uid = $1",
            uid
        )
        .execute(&self.pool)
        .named("subscriptions.remove_subscription")
        .await?;
        Ok(())
    }

    /// Forgets leases that ended `seconds` ago and whose subscription is gone with its
    /// server, and answers how many.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn forget_leases(&self, seconds: f64) -> Result<u64> {
        let forgotten = sqlx::query!(
            "delete from leases where until < now() - make_interval(secs => $1)
                and not exists (select from subscriptions where uid = resource)",
            seconds,
        )
        .execute(&self.pool)
        .named("subscriptions.forget_leases")
        .await?;
        Ok(forgotten.rows_affected())
    }
}
