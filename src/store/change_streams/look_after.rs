//! Which change streams a process looks after.

use uuid::Uuid;

use super::{
    super::{Store, fault::Measured},
    record::Record,
    select_change_streams,
};
use crate::domain::{Result, change_stream::ChangeStream, recorded::Recorded};

impl Store {
    /// The READY streams on servers of this host, or of none, that are to run. One that this
    /// release cannot read is left out.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn change_streams_to_look_after(&self, host: Uuid) -> Result<Vec<ChangeStream>> {
        let records = select_change_streams!(
            "join servers s on s.uid = c.server_uid
             where c.state = 'READY' and s.wanted = 'RUNNING' and i.delete_time is null
                and (s.host = $1 or s.host is null) order by c.uid",
            host,
        )
        .fetch_all(&self.pool)
        .named("change_streams.to_look_after")
        .await?;
        Ok(whole(records))
    }

    /// The streams of a database of an instance, in any state.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn change_streams_of(
        &self,
        instance: Uuid,
        database: &str,
    ) -> Result<Vec<ChangeStream>> {
        let records = select_change_streams!(
            "where c.instance_uid = $1 and c.database = $2 order by c.id",
            instance,
            database,
        )
        .fetch_all(&self.pool)
        .named("change_streams.change_streams_of")
        .await?;
        Ok(whole(records))
    }
}

fn whole(records: Vec<Record>) -> Vec<ChangeStream> {
    let read = records.into_iter().map(Record::read);
    read.filter_map(|stream| match stream {
        Recorded::Whole(stream) => Some(stream),
        Recorded::Unreadable(_) => None,
    })
    .collect()
}
