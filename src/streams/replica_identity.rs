//! Watches for published tables that lose their replica identity.

use std::{convert::Infallible, time::Duration};

use super::{
    Source, fault,
    preflight::{IDENTIFIED, get},
    publication::downgrade,
    session::Session,
};
use crate::{domain::Result, pg::sql::quote_identifier};

/// Time between two checks. While a table without replica identity is published with its
/// updates, the application's UPDATEs of it fail.
const INTERVAL: Duration = Duration::from_millis(500);

/// Runs as long as the stream, also while the subscriber does not read.
pub(super) async fn watch(mut session: Session, source: &Source) -> Infallible {
    let mut failing = false;
    loop {
        tokio::time::sleep(INTERVAL).await;
        match check(&mut session, source).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                let detail = error.internal_detail();
                tracing::warn!(%error, detail, "cannot check replica identities");
            }
            Err(_) => {}
        }
    }
}

async fn check(session: &mut Session, source: &Source) -> Result<()> {
    let query = format!(
        "select n.nspname::text, c.relname::text from pg_publication p
         join pg_publication_rel r on r.prpubid = p.oid
         join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
         where p.pubname = $1 and not ({IDENTIFIED})"
    );
    let rows = session.query(&query, &[&source.publication]).await;
    for row in rows.map_err(fault::of_setup)? {
        let (schema, table): (String, String) = (get(&row, 0)?, get(&row, 1)?);
        let name = format!("{}.{}", quote_identifier(&schema), quote_identifier(&table));
        downgrade(session, source, &name).await?;
        tracing::warn!(table = name, "a followed table lost its replica identity");
    }
    Ok(())
}
