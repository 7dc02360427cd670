//! Counts instances, servers and operations.

use super::{Store, fault::Measured};
use crate::{
    domain::Result,
    telemetry::census::{Census, ChangeStreams, Instances, Operations, Servers},
};

impl Store {
    /// Counts instances and change streams by state, servers by role and goal, and open operations by kind and
    /// state. A count of 10 000 means "that or more": counting stops there, so no table is read
    /// completely.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn census(&self) -> Result<Census> {
        let instances = sqlx::query!(
            r#"select state as "state!", (select count(*) from (
                    select from instances i where i.state = known.state limit 10000) as i) as "count!"
                from unnest('{CREATING,READY,STOPPED,STARTING,STOPPING,DELETING,DELETED,FAILED}'::text[])
                    as known (state)"#
        )
        .fetch_all(&self.pool)
        .named("census.instances")
        .await?;
        let change_streams = sqlx::query!(
            r#"select state as "state!", (select count(*) from (
                    select from change_streams c where c.state = known.state limit 10000) as c)
                    as "count!"
                from unnest('{CREATING,READY,DELETING,FAILED,LOST}'::text[]) as known (state)"#
        )
        .fetch_all(&self.pool)
        .named("census.change_streams")
        .await?;
        let servers = sqlx::query!(
            r#"select role as "role!", goal as "goal!", (select count(*) from (
                    select from servers s where s.role = r.role and s.wanted = g.goal
                    limit 10000) as s) as "count!"
                from unnest('{ACTIVE,SUCCESSOR,RETIRED}'::text[]) as r (role),
                    unnest('{RUNNING,STOPPED,GONE}'::text[]) as g (goal)"#
        )
        .fetch_all(&self.pool)
        .named("census.servers")
        .await?;
        let operations = sqlx::query!(
            r#"select kind, state, count(*) as "count!",
                    extract(epoch from now() - min(create_time))::float8 as "oldest!"
                from (select kind, state, create_time from operations
                    where end_time is null limit 10000) as open
                group by kind, state order by kind, state limit 1000"#
        )
        .fetch_all(&self.pool)
        .named("census.operations")
        .await?;
        let count = |count: i64| u64::try_from(count).unwrap_or_default();
        Ok(Census {
            instances: instances
                .into_iter()
                .map(|row| Instances {
                    state: row.state,
                    count: count(row.count),
                })
                .collect(),
            change_streams: change_streams
                .into_iter()
                .map(|row| ChangeStreams {
                    state: row.state,
                    count: count(row.count),
                })
                .collect(),
            servers: servers
                .into_iter()
                .map(|row| Servers {
                    role: row.role,
                    goal: row.goal,
                    count: count(row.count),
                })
                .collect(),
            operations: operations
                .into_iter()
                .map(|row| Operations {
                    kind: row.kind,
                    state: row.state,
                    count: count(row.count),
                    oldest: row.oldest.max(0.0),
                })
                .collect(),
        })
    }
}
