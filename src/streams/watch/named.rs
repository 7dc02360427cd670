//! A publication of somebody else.

use super::{Log, fault};
use crate::{
    domain::{Result, postgres::PostgresName},
    pb::v1::marker::Kind,
    pg::Lsn,
    streams::{
        OnChange,
        note::{End, Note, Seen},
        preflight::get,
    },
};

/// All that decides on what a publication publishes: its operations and options, its tables and
/// schemas, row filters and column lists.
const DEFINITION: &str = "
    select md5(to_jsonb(p)::text
        || coalesce((select string_agg(format('%s %s %s', r.prrelid, r.prattrs, r.prqual), ';'
                order by r.prrelid) from pg_publication_rel r where r.prpubid = p.oid), '')
        || coalesce((select string_agg(s.pnnspid::text, ';' order by s.pnnspid)
                from pg_publication_namespace s where s.pnpubid = p.oid), ''))
    from pg_publication p where p.pubname = $1";

/// The watch over a publication that the request names.
#[derive(Debug)]
pub(super) struct Named {
    name: PostgresName,
    on_change: OnChange,
    /// Its definition at the last look, and where the log ended then.
    last: Option<(String, Lsn)>,
}

impl Named {
    pub(super) fn new(name: &PostgresName, on_change: OnChange) -> Self {
        Self {
            name: name.clone(),
            on_change,
            last: None,
        }
    }

    pub(super) async fn look(&mut self, log: &mut Log<'_>) -> Result<()> {
        let rows = log.session.query(DEFINITION, &[&self.name.as_str()]).await;
        let rows = rows.map_err(fault::of_setup)?;
        // When it is gone, the server ends the stream, or says so.
        let Some(now) = rows.first().map(|row| get::<String>(row, 0)).transpose()? else {
            return Ok(());
        };
        log.now = log.position().await?;
        if let Some((before, after)) = &self.last
            && *before != now
            && log.shared.state.lock().await.end.is_none()
        {
            log.write(&[], &self.changed(*after, log.now)).await?;
        }
        self.last = Some((now, log.begun));
        Ok(())
    }

    fn changed(&self, after: Lsn, before: Lsn) -> Note {
        let message = format!(
            "the publication `{}` was changed between {after} and {before}",
            self.name
        );
        match self.on_change {
            OnChange::End => Note {
                end: Some(End {
                    publication: true,
                    name: self.name.to_string(),
                    message,
                }),
                ..Note::default()
            },
            OnChange::Follow => Note {
                markers: vec![Seen {
                    after: after.get(),
                    before: before.get(),
                    ..Seen::new(Kind::PublicationChanged, &message)
                }],
                ..Note::default()
            },
        }
    }
}
