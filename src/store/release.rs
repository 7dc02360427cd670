//! Ends claims on operations before their leases expire.

use sqlx::types::Json;
use uuid::Uuid;

use super::{Store, changes::CHANNEL, fault::Measured};
use crate::domain::{Result, operation::Failure};

impl Store {
    /// Gives a claim back. The operation is due again after `seconds`, or at once if it shall be
    /// cancelled. With an error the attempt counts as failed. If the claim was lost or its
    /// operation was ended, calls [`Store::let_go`].
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn release_operation(
        &self,
        id: Uuid,
        token: i64,
        seconds: f64,
        error: Option<&Failure>,
    ) -> Result<()> {
        let released = sqlx::query!(
            "update operations set lease_until = null, worker = null, deaths = 0,
                run_time = case when cancel_requested and cancellable and state <> 'UNDOING'
                    then now() else now() + make_interval(secs => $3) end,
                failures = failures + case when $4::jsonb is null then 0 else 1 end,
                last_error = coalesce($4, last_error)
             where id = $1 and token = $2 and end_time is null",
            id,
            token,
            seconds,
            error.map(Json) as _,
        )
        .execute(&self.pool)
        .named("release.release_operation")
        .await?;
        match released.rows_affected() {
            0 => self.let_go(id, token).await,
            _ => Ok(()),
        }
    }

    /// Records that a worker has stopped executing an operation that was given up, so that
    /// operations that wait for this can begin. Changes nothing if another worker has the
    /// operation.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn let_go(&self, id: Uuid, token: i64) -> Result<()> {
        // Giving an operation up raises its token by one: see `give_up_family`.
        sqlx::query!(
            "with left_alone as (
                update operations set lease_until = null, worker = null
                where id = $1 and token - 1 = $2 and end_time is not null returning id)
             select pg_notify($3, id::text) from left_alone",
            id,
            token,
            CHANNEL,
        )
        .fetch_all(&self.pool)
        .named("release.let_go")
        .await?;
        Ok(())
    }

    /// Gives back all claims of a worker that has died. An operation at which several workers
    /// have died is due only after a pause.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn release_worker(&self, worker: Uuid) -> Result<u64> {
        let released = sqlx::query!(
            "update operations set lease_until = null, worker = null, deaths = deaths + 1,
                death_time = now(),
                run_time = greatest(run_time, now() + pause_after(deaths + 1))
             where id = any(array(select id from operations where worker = $1
                order by id for no key update))",
            worker,
        )
        .execute(&self.pool)
        .named("release.release_worker")
        .await?;
        Ok(released.rows_affected())
    }

    /// Gives back the claims on record for a worker, except those in `known` (operation and
    /// token). Their operations are due at once; those that have ended need no worker any more.
    /// Returns the number of claims.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn release_unknown(&self, worker: Uuid, known: &[(Uuid, i64)]) -> Result<u64> {
        let (ids, tokens): (Vec<Uuid>, Vec<i64>) = known.iter().copied().unzip();
        // Giving an operation up raises its token by one: see `give_up_family`.
        let released = sqlx::query!(
            "with unknown as (select id from operations o where worker = $1
                and not exists (select from unnest($2::uuid[], $3::bigint[]) as k (id, token)
                    where k.id = o.id and (k.token = o.token
                        or k.token = o.token - 1 and o.end_time is not null))
                order by id for no key update),
             released as (update operations o set lease_until = null, worker = null
                from unknown u where o.id = u.id returning o.id)
             select pg_notify($4, id::text) from released",
            worker,
            &ids,
            &tokens,
            CHANNEL,
        )
        .fetch_all(&self.pool)
        .named("release.release_unknown")
        .await?;
        Ok(released.len() as u64)
    }

    /// Repairs times after the database's clock was set back. Operations that are due later than
    /// the longest pause become due now, and leases longer than an hour end, which is longer
    /// than any.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn mend_times_ahead(&self) -> Result<()> {
        let mended = sqlx::query!(
            "update operations set run_time = least(run_time, now()),
                lease_until = least(lease_until, now()),
                death_time = least(death_time, now()),
                waiting_since = least(waiting_since, now()),
                pursued_since = least(pursued_since, now()),
                create_time = least(create_time, now())
             where id = any(array(select id from operations where id in (
                    select id from operations where end_time is null
                    and (greatest(run_time, create_time) > now() + interval '15 minutes'
                        or lease_until > now() + interval '75 minutes')
                    union all select id from operations where end_time is not null
                    and lease_until > now() + interval '75 minutes')
                order by id for no key update))",
        )
        .execute(&self.pool)
        .named("release.mend_times_ahead")
        .await?;
        let ended = sqlx::query!(
            "update leases set until = now() where until > now() + interval '75 minutes'"
        )
        .execute(&self.pool)
        .named("release.end_leases_ahead")
        .await?;
        let (operations, leases) = (mended.rows_affected(), ended.rows_affected());
        if operations + leases > 0 {
            tracing::warn!(
                operations,
                leases,
                "the metadata database's clock was set back"
            );
        }
        Ok(())
    }
}
