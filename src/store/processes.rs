//! The processes of Howdah, and when each was last seen.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Store, fault::Measured};
use crate::domain::{Result, host::Host};

/// A process of Howdah.
#[derive(Clone, Debug)]
pub struct Process {
    /// Unique id of its workers. It stays the same after a restart in the same data directory.
    pub worker: Uuid,
    /// Host of the process.
    pub host: Host,
    /// Endpoint that it listens on.
    pub endpoint: String,
    /// Version of Howdah.
    pub version: String,
    /// When it was started.
    pub start_time: DateTime<Utc>,
}

impl Store {
    /// Records that a process serves for its host now, and the range of ports for the host's
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

    /// Deletes the records of processes that were not seen for `seconds`, and returns their
    /// number. The last record of each host stays, because it says since when the host is
    /// silent.
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
