//! Stages of operations: the progress that clients see.

use uuid::Uuid;

use super::{Tx, fault::Measured};
use crate::domain::{Result, operation::StageState, provider::Wait};

impl Tx {
    /// Records one stage for each step of an operation's plan.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub(super) async fn insert_stages(
        &mut self,
        operation: Uuid,
        stages: &[(&'static str, &'static str)],
    ) -> Result<()> {
        let names: Vec<String> = stages.iter().map(|(name, _)| (*name).to_owned()).collect();
        let titles: Vec<String> = stages
            .iter()
            .map(|(_, title)| (*title).to_owned())
            .collect();
        sqlx::query!(
            "insert into operation_stages (operation_id, position, name, title)
             select $1, (u.position - 1)::integer, u.name, u.title
             from unnest($2::text[], $3::text[]) with ordinality as u (name, title, position)",
            operation,
            &names,
            &titles,
        )
        .execute(self.connection())
        .named("stages.insert_stages")
        .await?;
        Ok(())
    }

    /// Sets the state of a stage, with the matching times and percentage.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn set_stage(
        &mut self,
        operation: Uuid,
        position: i32,
        state: StageState,
    ) -> Result<()> {
        sqlx::query!(
            "update operation_stages set state = $3,
                start_time = coalesce(start_time, clock_timestamp()),
                end_time = case when $3 = 'RUNNING' then null else clock_timestamp() end,
                progress_percent = case $3 when 'SUCCEEDED' then 100
                    when 'RUNNING' then progress_percent else 0 end,
                waits_for = ''
             where operation_id = $1 and position = $2",
            operation,
            position,
            state.as_str(),
        )
        .execute(self.connection())
        .named("stages.set_stage")
        .await?;
        Ok(())
    }

    /// Records what a stage waits for, and its percentage. Sends no notification, because
    /// callers that wait for the operation have nothing to learn.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub(crate) async fn show_wait(
        &mut self,
        operation: Uuid,
        position: i32,
        wait: &Wait,
    ) -> Result<()> {
        sqlx::query!(
            "update operation_stages set progress_percent = $3, waits_for = $4
             where operation_id = $1 and position = $2",
            operation,
            position,
            wait.percent.clamp(0, 99),
            &wait.waits_for,
        )
        .execute(self.connection())
        .named("stages.show_wait")
        .await?;
        Ok(())
    }
}
