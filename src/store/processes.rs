//! Processes of Howdah, by their signs of life.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Store, fault::Measured};
use crate::domain::{Result, host::Host};

/// A process of Howdah.
#[derive(Clone, Debug)]
pub struct Process {
    /// Unique id of its workers: the same after a restart in the same data directory.
    pub worker: Uuid,
    /// Its host.
    pub host: Host,
    /// Where it listens.
    pub endpoint: String,
    /// Its version.
    pub version: String,
    /// When it was started.
    pub start_time: DateTime<Utc>,
}

impl Store {
    /// Records that a process serves for its host now, and which ports the host gives to
    /// servers.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn see_process(&self, process: &Process) -> Result<()> {
        let host = &process.host;
        sqlx::query!(
            "with host as (
                insert into hosts (id, name, first_port, last_port) values ($1, $2, $3, $4)
                on conflict (id) do update set name = excluded.name,
                    first_port = excluded.first_port, last_port = excluded.last_port)
             insert into processes (worker, host, endpoint, version, start_time)
             values ($5, $1, $6, $7, $8)
             on conflict (worker, host) do update set
                endpoint = excluded.endpoint, version = excluded.version,
                start_time = excluded.start_time, seen_time = now()",
            host.id,
            host.name,
            i32::from(*host.ports.start()),
            i32::from(*host.ports.end()),
            process.worker,
            process.endpoint,
            process.version,
            process.start_time,
        )
        .execute(&self.pool)
        .named("processes.see_process")
        .await?;
        Ok(())
    }

    /// Forgets processes that have been silent for `seconds`, and answers how many. The last
    /// one of each host stays: it says since when the host is silent.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn forget_processes(&self, seconds: f64) -> Result<u64> {
        let forgotten = sqlx::query!(
            "delete from processes p where p.seen_time < now() - make_interval(secs => $1)
                and exists (select from processes q where q.host = p.host
                    and (q.seen_time, q.worker) > (p.seen_time, p.worker))",
            seconds,
        )
        .execute(&self.pool)
        .named("processes.forget_processes")
        .await?;
        Ok(forgotten.rows_affected())
    }
}
