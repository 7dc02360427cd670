//! Leases: which process has something to itself, until when, by the database's clock.
//!
//! Each taking of a lease gets a token that no other one has had. A process that was frozen
//! for longer than its lease finds at its next write that its token is not the present one.

use uuid::Uuid;

use super::{Store, Tx, fault::Measured};
use crate::domain::Result;

/// A lease that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// What it is on.
    pub resource: Uuid,
    /// Fencing token: no other taking has had it.
    pub token: i64,
}

impl Store {
    /// Takes a lease for `seconds`, unless another process holds it. What this one has taken
    /// by a statement whose answer was lost is taken again.
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

    /// Has leases end in `seconds` from now, and answers those among them that are still
    /// held: no process has taken them since. With 0 they are free at once.
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

    /// Ends the leases of a process that has died.
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
    /// Whether a lease is still held. It is not taken by another process before the
    /// transaction ends.
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
