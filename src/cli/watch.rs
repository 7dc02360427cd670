//! Looking again and again: `--watch` and `wait`.

use std::{
    collections::HashMap,
    future::Future,
    io::{self, Write},
    time::{Duration, Instant},
};

use prost::Message;

use super::{
    exit::{Exit, Failure},
    output::Sheet,
    session::Session,
};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Something with a resource name.
pub(super) trait Named: Message + Clone + PartialEq {
    /// Full name of its type.
    const TYPE: &'static str;

    /// Its resource name.
    fn name(&self) -> &str;

    /// Its state, as in the API.
    fn state_name(&self) -> &'static str;

    /// Whether it is being made, changed or deleted.
    fn reconciling(&self) -> bool;

    /// What is wrong with it, for people; empty for nothing.
    fn trouble(&self) -> String;
}

/// Prints what `look` finds, and again each resource that has changed, until Ctrl-C.
pub(super) async fn watch<M: Named, F>(
    session: &Session,
    look: impl Fn() -> F,
    rows: impl Fn(&[M]) -> Sheet,
) -> Result<(), Failure>
where
    F: Future<Output = Result<Vec<M>, Failure>>,
{
    let mut seen: HashMap<String, M> = HashMap::new();
    let mut headed = false;
    loop {
        let found = look().await?;
        let changed: Vec<M> = found
            .iter()
            .filter(|resource| seen.get(resource.name()) != Some(resource))
            .cloned()
            .collect();
        let gone = seen
            .keys()
            .filter(|name| !found.iter().any(|it| it.name() == name.as_str()));
        for name in gone {
            session.hint(&format!("{} is gone", session.names.short(name)));
        }
        show(session, &changed, &rows, &mut headed)?;
        seen = found
            .into_iter()
            .map(|it| (it.name().to_owned(), it))
            .collect();
        tokio::time::sleep(PAUSE).await;
    }
}

fn show<M: Named>(
    session: &Session,
    changed: &[M],
    rows: impl Fn(&[M]) -> Sheet,
    headed: &mut bool,
) -> Result<(), Failure> {
    if changed.is_empty() {
        return Ok(());
    }
    if session.output.is_data() {
        for resource in changed {
            session.print(M::TYPE, resource, |_, _| Sheet::fields([]))?;
        }
        return Ok(());
    }
    let text = session.listed(changed, rows);
    let lines = text
        .lines()
        .skip(usize::from(*headed && !session.prints_names()));
    let text: Vec<&str> = lines.collect();
    *headed = true;
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", text.join("\n"))?;
    Ok(stdout.flush()?)
}

/// Waits until a resource is in that state; `None` is what a look finds when it is gone.
pub(super) async fn until<M: Named, F>(
    wanted: &str,
    timeout: Option<Duration>,
    look: impl Fn() -> F,
) -> Result<Option<M>, Failure>
where
    F: Future<Output = Result<Option<M>, Failure>>,
{
    let end = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let found = look().await?;
        match &found {
            None => return Ok(found),
            Some(resource) if resource.state_name() == wanted && !resource.reconciling() => {
                return Ok(found);
            }
            Some(resource) if is_stuck(resource, wanted) => return Err(stuck(resource, wanted)),
            Some(resource) if end.is_some_and(|end| Instant::now() >= end) => {
                return Err(too_late(resource, wanted));
            }
            Some(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Whether only somebody's call brings it on.
fn is_stuck(resource: &impl Named, wanted: &str) -> bool {
    let state = resource.state_name();
    !resource.reconciling() && state != wanted && matches!(state, "FAILED" | "STOPPED" | "DELETED")
}

fn stuck(resource: &impl Named, wanted: &str) -> Failure {
    let (name, state) = (resource.name(), resource.state_name());
    let message = format!("{name} is {state} and nothing is under way that would make it {wanted}");
    noted(Failure::new(Exit::Precondition, message), resource)
}

fn too_late(resource: &impl Named, wanted: &str) -> Failure {
    let (name, state) = (resource.name(), resource.state_name());
    let message = format!("the time is over: {name} is {state}, not {wanted}");
    noted(Failure::new(Exit::TimeOver, message), resource)
}

fn noted(failure: Failure, resource: &impl Named) -> Failure {
    match resource.trouble() {
        trouble if trouble.is_empty() => failure,
        trouble => failure.note(trouble),
    }
}
