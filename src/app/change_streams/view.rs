//! What a server shows of the slots of its change streams, read by one query.

use super::{
    super::admin::{Session, read_rows},
    slot::{self, Slot},
};
use crate::{
    domain::{
        Error, Result,
        change_stream::{ChangeStream, Progress},
    },
    pg::Lsn,
};

/// One row for each name, with a slot or without one, and the end of the log.
const VIEW: &str = "select n.name, row_to_json(s)::text, r.sent_lsn::text, r.write_lsn::text,
        pg_current_wal_flush_lsn()::text, (select system_identifier::text from pg_control_system())
    from unnest($1::text[]) as n (name)
    left join pg_replication_slots s on s.slot_name = n.name
    left join pg_stat_replication r on r.pid = s.active_pid";

/// What a server shows of one slot.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Its name.
    pub(super) name: String,
    /// The slot; none if there is none of that name.
    pub(super) slot: Option<Slot>,
    sent: Option<Lsn>,
    received: Option<Lsn>,
    wal_end: Lsn,
    /// The cluster that it is on.
    pub(super) system_identifier: String,
}

/// What a server shows of these slots.
pub(super) async fn read(client: &Session, names: &[&str]) -> Result<Vec<View>> {
    let rows = read_rows(client, VIEW, &[&names]).await?;
    let unreadable = || Error::internal("a row of pg_replication_slots");
    rows.iter()
        .map(|row| {
            let lsn = |at: usize| -> Option<Lsn> {
                let text: Option<String> = row.try_get(at).ok().flatten();
                text?.parse().ok()
            };
            let slot: Option<String> = row.try_get(1).map_err(|_| unreadable())?;
            Ok(View {
                name: row.try_get(0).map_err(|_| unreadable())?,
                slot: slot.map(|row| slot::read(&row)).transpose()?,
                sent: lsn(2),
                received: lsn(3),
                wal_end: lsn(4).ok_or_else(unreadable)?,
                system_identifier: row.try_get(5).map_err(|_| unreadable())?,
            })
        })
        .collect()
}

impl View {
    /// Bytes of log that the slot retains.
    pub(super) fn retained(&self) -> i64 {
        let restart = self.slot.as_ref().and_then(Slot::restart);
        restart.map_or(0, |restart| self.behind(restart))
    }

    /// Bytes from a position to the end of the log.
    fn behind(&self, position: Lsn) -> i64 {
        let bytes = self.wal_end.checked_distance(position).unwrap_or_default();
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }

    /// How far the stream with this slot is.
    pub(super) fn progress(&self, stream: &ChangeStream) -> Progress {
        let number = |lsn: Option<Lsn>| lsn.map_or(0, Lsn::get);
        let slot = self.slot.clone().unwrap_or_default();
        Progress {
            wal_end: self.wal_end.get(),
            sent: number(self.sent),
            received: number(self.received),
            delivered: 0,
            acknowledged: stream.acknowledged.lsn,
            confirmed: number(slot.confirmed()),
            restart: number(slot.restart()),
            retained_bytes: self.retained(),
            safe_bytes: slot.safe_wal_size.unwrap_or(-1),
            lag_bytes: self.behind(Lsn::new(stream.acknowledged.lsn)),
            active: slot.active_pid().is_some(),
            inactive_since: slot.inactive_since(),
            wal_status: slot.wal_status.unwrap_or_default(),
        }
    }
}
