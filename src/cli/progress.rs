//! A progress bar for the stages of an operation, on standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::clean;
use crate::pb::v1::{OperationMetadata, operation_metadata::stage::State};

/// Units of the bar per stage.
const STAGE: u64 = 100;

/// Format of the bar's line. Text that does not fit is cut off.
const TEMPLATE: &str = "{spinner} [{bar:12}] {elapsed} {wide_msg}";

pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A progress bar; a hidden one if nobody watches.
    pub(super) fn new(watched: bool) -> Self {
        if !watched {
            return Self {
                bar: ProgressBar::hidden(),
            };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar }
    }

    /// Shows the progress of the operation.
    pub(super) fn show(&self, metadata: &OperationMetadata) {
        let (done, all) = figures(metadata);
        self.bar.set_length(all);
        self.bar.set_position(done);
        self.bar.set_message(line(metadata));
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Percent done of all stages together, and the percent of all of them.
fn figures(metadata: &OperationMetadata) -> (u64, u64) {
    let done = metadata.stages.iter().map(|stage| match stage.state() {
        State::Succeeded => STAGE,
        State::Running => u64::try_from(stage.progress_percent)
            .unwrap_or(0)
            .min(STAGE),
        State::Unspecified | State::Pending | State::Failed | State::Undone => 0,
    });
    (done.sum(), STAGE * metadata.stages.len() as u64)
}

/// The present stage, and how often it has failed.
pub(super) fn line(metadata: &OperationMetadata) -> String {
    let stages = &metadata.stages;
    let current = stages.iter().find(|stage| stage.state() == State::Running);
    let current = current.or_else(|| stages.iter().find(|s| s.state() == State::Pending));
    let title = current.map_or(metadata.verb.as_str(), |stage| {
        if stage.title.is_empty() {
            &stage.name
        } else {
            &stage.title
        }
    });
    let waits_for = current.map_or("", |stage| stage.waits_for.as_str());
    let title = match waits_for {
        "" => title.to_owned(),
        what => format!("{title}, waits for {what}"),
    };
    let again = match (metadata.attempt, metadata.last_error.as_str()) {
        (2.., error) if !error.is_empty() => format!(" (try {}: {error})", metadata.attempt),
        _ => String::new(),
    };
    clean(&format!("{title}{again}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::v1::operation_metadata::Stage;

    #[test]
    fn stages_become_figures_and_a_line() {
        let stage = |name: &str, state: State, percent| Stage {
            name: name.into(),
            state: state.into(),
            progress_percent: percent,
            ..Stage::default()
        };
        let metadata = OperationMetadata {
            stages: vec![
                stage("initialise", State::Succeeded, 100),
                stage("start", State::Running, 40),
                stage("publish", State::Pending, 0),
            ],
            attempt: 2,
            last_error: "port\ntaken".into(),
            ..OperationMetadata::default()
        };
        assert_eq!(figures(&metadata), (140, 300));
        assert_eq!(line(&metadata), "start (try 2: port\\ntaken)");
    }
}
