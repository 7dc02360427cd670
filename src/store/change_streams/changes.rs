//! What becomes of a change stream.

use sqlx::types::Json;
use uuid::Uuid;

use super::{
    super::{Store, Tx, fault::Measured},
    record::position,
};
use crate::domain::{
    Error, Result,
    change_stream::{LOST, Log, Position, State},
    instance::{Condition, Status},
};

/// What is known of a change stream when its slot is there.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// The log that its positions are in.
    pub log: Log,
    /// Where it begins.
    pub position: Position,
}

impl Tx {
    /// Sets where a change stream stands.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn set_change_stream_state(&mut self, uid: Uuid, state: State) -> Result<()> {
        sqlx::query!(
            "update change_streams set state = $2, revision = revision + 1, update_time = now()
             where uid = $1",
            uid,
            state.as_str(),
        )
        .execute(self.connection())
        .named("change_streams.set_state")
        .await?;
        Ok(())
    }

    /// Records the publications that a change stream is read through.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn set_publications(&mut self, uid: Uuid, names: &[String]) -> Result<()> {
        sqlx::query!(
            "update change_streams set publications = $2, revision = revision + 1,
                update_time = now() where uid = $1",
            uid,
            Json(names) as _,
        )
        .execute(self.connection())
        .named("change_streams.set_publications")
        .await?;
        Ok(())
    }

    /// Records that the slot is there: the change stream is READY.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn mark_change_stream_ready(&mut self, uid: Uuid, made: Made) -> Result<()> {
        let (lsn, events) = stored(made.position)?;
        sqlx::query!(
            "update change_streams set state = 'READY', system_identifier = $2, timeline = $3,
                epoch = $6,
                acknowledged_lsn = greatest(acknowledged_lsn, $4),
                acknowledged_events = case when acknowledged_lsn < $4 then $5
                    else acknowledged_events end,
                revision = revision + 1, update_time = now() where uid = $1",
            uid,
            made.log.system_identifier.to_string(),
            i64::from(made.log.timeline),
            lsn,
            events,
            made.log.epoch,
        )
        .execute(self.connection())
        .named("change_streams.mark_ready")
        .await?;
        Ok(())
    }

    /// Puts a condition in the place of the former one of its type, at the database's time.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn set_change_stream_condition(
        &mut self,
        uid: Uuid,
        condition: &Condition,
    ) -> Result<()> {
        sqlx::query!(
            "update change_streams set revision = revision + 1, update_time = now(), conditions =
                (select coalesce(jsonb_agg(c), '[]') from jsonb_array_elements(conditions) c
                    where c ->> 'type' <> $2)
                || jsonb_build_array($3::jsonb || jsonb_build_object('time', now()))
             where uid = $1",
            uid,
            condition.kind,
            Json(condition) as _,
        )
        .execute(self.connection())
        .named("change_streams.set_condition")
        .await?;
        Ok(())
    }

    /// Records that the slot of a change stream is gone for ever, with the reason.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn lose_change_stream(
        &mut self,
        uid: Uuid,
        reason: &str,
        message: &str,
    ) -> Result<()> {
        let condition = Condition {
            kind: LOST.to_owned(),
            status: Status::True,
            reason: reason.to_owned(),
            message: message.to_owned(),
            // Replaced by the database's.
            time: chrono::DateTime::UNIX_EPOCH,
        };
        self.set_change_stream_condition(uid, &condition).await?;
        self.set_change_stream_state(uid, State::Lost).await
    }

    /// The same of all READY streams of a database that was dropped.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn lose_change_streams_of(
        &mut self,
        instance: Uuid,
        database: &str,
        reason: &str,
        message: &str,
    ) -> Result<()> {
        let lost = sqlx::query_scalar!(
            "select uid from change_streams
             where instance_uid = $1 and database = $2 and state = 'READY'
             order by uid for update",
            instance,
            database,
        )
        .fetch_all(self.connection())
        .named("change_streams.of_database")
        .await?;
        for uid in lost {
            self.lose_change_stream(uid, reason, message).await?;
        }
        Ok(())
    }

    /// Forgets a change stream.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn remove_change_stream(&mut self, uid: Uuid) -> Result<()> {
        sqlx::query!(
            "with lease as (delete from leases where resource = $1)
             delete from change_streams where uid = $1",
            uid
        )
        .execute(self.connection())
        .named("change_streams.remove_change_stream")
        .await?;
        Ok(())
    }
}

impl Store {
    /// Takes the lease of a change stream from whoever has it: its subscriber ends when it
    /// looks at it next.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn end_lease(&self, resource: Uuid) -> Result<()> {
        sqlx::query!("delete from leases where resource = $1", resource)
            .execute(&self.pool)
            .named("leases.end_lease")
            .await?;
        Ok(())
    }

    /// Records what subscribers have stored, upwards only, and answers what is on record then.
    /// Streams that are gone or have no slot any more are left out.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn acknowledge(&self, stored: &[(Uuid, Position)]) -> Result<Vec<(Uuid, Position)>> {
        let mut columns = (Vec::new(), Vec::new(), Vec::new());
        for (uid, position) in stored {
            let (lsn, events) = self::stored(*position)?;
            columns.0.push(*uid);
            columns.1.push(lsn);
            columns.2.push(events);
        }
        // In the order of the unique ids, so that two processes do not wait for each other.
        let rows = sqlx::query!(
            r#"with given as (select c.uid, g.lsn, g.events, c.acknowledged_lsn as former_lsn,
                    c.acknowledged_events as former_events
                from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as g (uid, lsn, events)
                join change_streams c on c.uid = g.uid where c.state = 'READY'
                order by c.uid for no key update of c),
             raised as (update change_streams c
                set acknowledged_lsn = g.lsn, acknowledged_events = g.events
                from given g where c.uid = g.uid
                and (g.former_lsn, g.former_events) < (g.lsn, g.events))
             select uid,
                case when (former_lsn, former_events) < (lsn, events)
                    then lsn else former_lsn end as "lsn!",
                case when (former_lsn, former_events) < (lsn, events)
                    then events else former_events end as "events!" from given"#,
            &columns.0,
            &columns.1,
            &columns.2,
        )
        .fetch_all(&self.pool)
        .named("change_streams.acknowledge")
        .await?;
        let rows = rows.into_iter();
        Ok(rows
            .map(|row| (row.uid, position(row.lsn, row.events)))
            .collect())
    }
}

/// A position as it is stored.
fn stored(position: Position) -> Result<(i64, i64)> {
    let fits = |number: u64| {
        i64::try_from(number).map_err(|_| Error::internal("a position is out of range"))
    };
    Ok((fits(position.lsn)?, fits(position.events)?))
}
