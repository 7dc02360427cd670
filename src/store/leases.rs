//! Leases: which process may use something alone, and until when, by the database's clock.
//!
//! Each time a lease is taken it gets a new token. A process that was frozen for longer than its
//! lease finds at its next write that its token is not the one in the row. Writes that need the
//! lease must check the token in their own transaction: see [`Tx::holds_lease`].

use uuid::Uuid;

use super::{Store, Tx, fault::Measured};
use crate::domain::Result;

/// A lease that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// The subscription or the scope of supervision that the lease is on.
    pub resource: Uuid,
    /// Fencing token. It is never used again.
    pub token: i64,
}

impl Store {
    /// Takes a lease for `seconds`, unless another process holds it. A process may take its own
    /// lease again, because the answer to its first attempt may have been lost. Returns none if
    /// another process holds the lease.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn take_lease(
        &self,
        resource: Uuid,
        worker: Uuid,
        seconds: f64,
    ) -> Result<Option<Held>> {
        let token = sqlx::query_scalar!(
            "insert into leases as l (resource, worker, until)
             values ($1, $2, now() + make_interval(secs => $3))
             on conflict (resource) do update set worker = excluded.worker,
                token = excluded.token, until = excluded.until
                where l.until <= now() or l.worker = excluded.worker
             returning token",
            resource,
            worker,
            seconds,
        )
        .fetch_optional(&self.pool)
        .named("leases.take_lease")
        .await?;
        Ok(token.map(|token| Held { resource, token }))
    }

    /// Takes a lease for `seconds`, whoever holds it: the holder finds at its next write that its
    /// token is not the one in the row.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn seize_lease(&self, resource: Uuid, worker: Uuid, seconds: f64) -> Result<Held> {
        let token = sqlx::query_scalar!(
            "insert into leases (resource, worker, until)
             values ($1, $2, now() + make_interval(secs => $3))
             on conflict (resource) do update set worker = excluded.worker,
                token = excluded.token, until = excluded.until
             returning token",
            resource,
            worker,
            seconds,
        )
        .fetch_one(&self.pool)
        .named("leases.seize_lease")
        .await?;
        Ok(Held { resource, token })
    }

    /// Makes leases end in `seconds` from now; with 0 they are free at once. Returns those that
    /// were still held with their token. The others were taken by another process.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn renew_leases(&self, held: &[Held], seconds: f64) -> Result<Vec<Held>> {
        let resources: Vec<Uuid> = held.iter().map(|held| held.resource).collect();
        let tokens: Vec<i64> = held.iter().map(|held| held.token).collect();
        sqlx::query_as!(
            Held,
            "update leases l set until = now() + make_interval(secs => $3)
             from unnest($1::uuid[], $2::bigint[]) as held (resource, token)
             where l.resource = held.resource and l.token = held.token
             returning l.resource, l.token",
            &resources,
            &tokens,
            seconds,
        )
        .fetch_all(&self.pool)
        .named("leases.renew_leases")
        .await
    }

    /// Ends all leases of a process that has died, so that others need not wait.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn expire_leases(&self, worker: Uuid) -> Result<()> {
        sqlx::query!(
            "update leases set until = now() where worker = $1 and until > now()",
            worker
        )
        .execute(&self.pool)
        .named("leases.expire_leases")
        .await?;
        Ok(())
    }
}

impl Tx {
    /// Whether a lease is still held with this token. The row is locked: no other process can
    /// take the lease before the transaction ends.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn holds_lease(&mut self, held: Held) -> Result<bool> {
        let found = sqlx::query_scalar!(
            "select token from leases where resource = $1 and token = $2 for share",
            held.resource,
            held.token,
        )
        .fetch_optional(self.connection())
        .named("leases.holds_lease")
        .await?;
        Ok(found.is_some())
    }
}
