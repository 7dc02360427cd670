//! Temporary subscriptions: what they create on servers, so that it can be removed after a
//! crash.

use uuid::Uuid;

use super::{Store, fault::Measured, leases::Held};
use crate::domain::Result;

/// What a subscription creates on a server. It is recorded before it is created.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Unique id; part of the names of the objects.
    pub uid: Uuid,
    /// Server that it reads from and creates the objects on.
    pub server_uid: Uuid,
    /// Name of the database in PostgreSQL.
    pub database: String,
    /// Names of the publications that it creates.
    pub publications: Vec<String>,
    /// Name of its temporary slot.
    pub slot: String,
}

impl Store {
    /// Records a subscription before it creates anything, with a lease for `seconds`.
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

    /// Takes over the subscriptions of processes that are gone, with a lease for `seconds`, to
    /// remove their objects. Only those on servers of `host` that shall run; for an active
    /// server only if it runs.
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

    /// Deletes the record of a subscription and its lease, when nothing of it is left on the
    /// server.
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

    /// Deletes leases that ended `seconds` ago and whose subscription was deleted together with
    /// its server. Returns their number.
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
