//! Watches that published tables keep their replica identity.

use std::{convert::Infallible, time::Duration};

use super::{
    Source,
    catalog::Catalog,
    fault,
    preflight::{IDENTIFIED, get},
    publication::downgrade,
};
use crate::{domain::Result, pg::sql::quote_identifier};

/// How often. A table whose key was dropped fails its UPDATEs for as long.
const INTERVAL: Duration = Duration::from_millis(500);

/// Watches as long as the stream lives, also while its subscriber stalls.
pub(super) async fn watch(mut catalog: Catalog, source: &Source) -> Infallible {
    let mut failing = false;
    loop {
        tokio::time::sleep(INTERVAL).await;
        match check(&mut catalog, source).await {
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

async fn check(catalog: &mut Catalog, source: &Source) -> Result<()> {
    let query = format!(
        "select n.nspname::text, c.relname::text from pg_publication p
         join pg_publication_rel r on r.prpubid = p.oid
         join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
         where p.pubname = $1 and not ({IDENTIFIED})"
    );
    let rows = catalog.query(&query, &[&source.publication]).await;
    for row in rows.map_err(fault::of_setup)? {
        let (schema, table): (String, String) = (get(&row, 0)?, get(&row, 1)?);
        let name = format!("{}.{}", quote_identifier(&schema), quote_identifier(&table));
        downgrade(catalog, source, &name).await?;
        tracing::warn!(table = name, "a followed table lost its replica identity");
    }
    Ok(())
}
