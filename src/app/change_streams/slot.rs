//! Replication slots as a server shows them.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::super::admin::{Session, classify, execute, fetch};
use crate::{
    domain::{
        Error, Reason, Result,
        change_stream::{ChangeStream, Log},
    },
    pg::{Lsn, sql::quote_literal},
};

/// A row of `pg_replication_slots`, of any version: a column that a version does not have is
/// empty.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::app) struct Slot {
    plugin: Option<String>,
    slot_type: String,
    database: Option<String>,
    temporary: bool,
    #[serde(default)]
    two_phase: bool,
    active_pid: Option<i32>,
    restart_lsn: Option<String>,
    confirmed_flush_lsn: Option<String>,
    pub(super) wal_status: Option<String>,
    pub(super) safe_wal_size: Option<i64>,
    /// From 16 on.
    #[serde(default)]
    conflicting: Option<bool>,
    /// From 17 on.
    #[serde(default)]
    invalidation_reason: Option<String>,
    /// From 17 on.
    #[serde(default)]
    inactive_since: Option<String>,
}

impl Slot {
    /// What the server knows to be stored.
    pub(in crate::app) fn confirmed(&self) -> Option<Lsn> {
        self.confirmed_flush_lsn.as_deref()?.parse().ok()
    }

    /// The oldest log that it retains.
    pub(in crate::app) fn restart(&self) -> Option<Lsn> {
        self.restart_lsn.as_deref()?.parse().ok()
    }

    /// When its last reader left, if this version of PostgreSQL says it.
    pub(in crate::app) fn inactive_since(&self) -> Option<DateTime<Utc>> {
        let time = DateTime::parse_from_rfc3339(self.inactive_since.as_deref()?);
        time.ok().map(|time| time.to_utc())
    }

    /// The backend that reads from it, or makes it.
    pub(in crate::app) fn active_pid(&self) -> Option<i32> {
        self.active_pid
    }

    /// Why the server has given it up, if it has.
    pub(in crate::app) fn lost(&self) -> Option<String> {
        if let Some(reason) = &self.invalidation_reason {
            return Some(format!("the server has invalidated the slot: {reason}"));
        }
        if self.wal_status.as_deref() == Some("lost") {
            let why = "the server has removed log that the slot needs (max_slot_wal_keep_size)";
            return Some(why.to_owned());
        }
        let conflicting = self.conflicting == Some(true);
        conflicting.then(|| "the server has invalidated the slot: it conflicts".to_owned())
    }

    /// Refuses one that cannot be adopted for a stream.
    ///
    /// # Errors
    /// SLOT_UNSUITABLE, SLOT_LOST, SLOT_IN_USE.
    pub(in crate::app) fn require_adoptable(&self, stream: &ChangeStream) -> Result<()> {
        let refuse = |reason, why: String| {
            let message = format!("the replication slot `{}` {why}", stream.slot);
            Err(Error::new(reason, message).with_field("change_stream.slot"))
        };
        let unsuitable = if self.slot_type != "logical" {
            "is not logical".to_owned()
        } else if self.plugin.as_deref() != Some("pgoutput") {
            let plugin = self.plugin.as_deref().unwrap_or_default();
            format!("has the plugin `{plugin}`, not `pgoutput`")
        } else if self.database.as_deref() != Some(stream.database.as_str()) {
            let database = self.database.as_deref().unwrap_or_default();
            format!("is of the database `{database}`")
        } else if self.temporary {
            "is temporary".to_owned()
        } else if self.two_phase {
            "decodes prepared transactions (two_phase)".to_owned()
        } else {
            String::new()
        };
        if !unsuitable.is_empty() {
            return refuse(Reason::SlotUnsuitable, unsuitable);
        }
        if let Some(why) = self.lost() {
            return refuse(Reason::SlotLost, format!("is lost: {why}"));
        }
        if let Some(pid) = self.active_pid {
            let why = format!("is in use by the server's process {pid}");
            return refuse(Reason::SlotInUse, why);
        }
        Ok(())
    }
}

/// The slot of that name, if it is there.
pub(in crate::app) async fn find(client: &Session, name: &str) -> Result<Option<Slot>> {
    let row = "select row_to_json(s)::text from pg_replication_slots s where s.slot_name = $1";
    let row: Option<String> = fetch(client, row, &[&name]).await?;
    row.map(|row| read(&row)).transpose()
}

/// Reads a row in JSON.
pub(super) fn read(row: &str) -> Result<Slot> {
    serde_json::from_str(row)
        .map_err(|error| Error::internal("a row of pg_replication_slots").with_source(error))
}

/// Drops a slot, if it is there. The session of Howdah that reads from it is ended; somebody
/// else's too with `anybody`.
///
/// # Errors
/// LOCK_TIMEOUT while it is in use.
pub(in crate::app) async fn drop(client: &Session, name: &str, anybody: bool) -> Result<()> {
    end_reader(client, name, anybody).await?;
    let drop = format!(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots
            where slot_name = {}",
        quote_literal(name)
    );
    execute(client, &drop).await
}

/// Ends the session that reads from a slot, and waits for its end for up to 5 s.
pub(in crate::app) async fn end_reader(client: &Session, name: &str, anybody: bool) -> Result<()> {
    let end = "select coalesce(bool_and(pg_terminate_backend(a.pid, 5000)), true)
        from pg_replication_slots s join pg_stat_activity a on a.pid = s.active_pid
        where s.slot_name = $1 and ($2 or a.usename = current_user)";
    match fetch::<bool>(client, end, &[&name, &anybody]).await? {
        Some(false) => {
            let message = format!("the session that reads from the slot `{name}` does not end");
            Err(Error::new(Reason::LockTimeout, message))
        }
        _ => Ok(()),
    }
}

/// The log of the server that a session is on, in that epoch of its instance.
pub(in crate::app) async fn log(client: &Session, epoch: i64) -> Result<Log> {
    let row = "select json_build_array(system_identifier::text,
            ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint)::text
        from pg_control_system()";
    let row: Option<String> = fetch(client, row, &[]).await?;
    let read = |row: &str| serde_json::from_str::<(String, u32)>(row).ok();
    let unreadable = || Error::internal("the identity of a server's log");
    let (identifier, timeline) = row.as_deref().and_then(read).ok_or_else(unreadable)?;
    Ok(Log {
        epoch,
        system_identifier: identifier.parse().map_err(|_| unreadable())?,
        timeline,
    })
}

/// What an error of making a slot means.
pub(in crate::app) fn classify_making(error: crate::pg::Error) -> Error {
    let server = error
        .server()
        .map(|server| (server.code.as_str(), server.message.as_str()));
    let (reason, message) = match server {
        Some(("53400", _)) => (
            Reason::SlotsExhausted,
            "the server has no replication slot left (max_replication_slots)",
        ),
        Some(("55000", text)) if text.contains("wal_level") => (
            Reason::LogicalDecodingOff,
            "the server's wal_level is not logical",
        ),
        _ => return classify(error),
    };
    Error::new(reason, message).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_all_versions_are_read() {
        let old = r#"{"slot_name":"a","plugin":"pgoutput","slot_type":"logical","datoid":5,
            "database":"shop","temporary":false,"active":true,"active_pid":7,"xmin":null,
            "catalog_xmin":"734","restart_lsn":"0/1","confirmed_flush_lsn":"0/2",
            "wal_status":"reserved","safe_wal_size":null,"two_phase":false}"#;
        let slot = read(old).unwrap();
        assert_eq!(slot.confirmed(), Some(Lsn::new(2)));
        assert_eq!((slot.active_pid(), slot.lost()), (Some(7), None));
        let new = r#"{"slot_type":"logical","plugin":"pgoutput","database":"shop",
            "temporary":false,"active_pid":null,"restart_lsn":null,"confirmed_flush_lsn":"0/2",
            "wal_status":"lost","safe_wal_size":null,"two_phase":false,"inactive_since":null,
            "conflicting":false,"invalidation_reason":"wal_removed","failover":false}"#;
        assert!(read(new).unwrap().lost().unwrap().contains("wal_removed"));
        let physical = r#"{"slot_type":"physical","plugin":null,"database":null,
            "temporary":false,"active_pid":null,"restart_lsn":null,"confirmed_flush_lsn":null,
            "wal_status":null,"safe_wal_size":null,"two_phase":false}"#;
        assert!(read(physical).unwrap().confirmed().is_none());
    }
}
