//! Looking again and again: `--watch` and `wait`.

use std::{
    collections::HashMap,
    future::Future,
    io::{self, Write},
    time::Duration,
};

use prost::Message;

use super::{
    arguments::Output,
    exit::{Exit, Failure},
    output::Sheet,
    session::Session,
};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Time that one look has, however short the wait.
const SHORTEST: Duration = Duration::from_secs(2);

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

    /// Whether it is in that state, and is what the state promises.
    fn is(&self, wanted: &str) -> bool {
        self.state_name() == wanted && !self.reconciling() && self.trouble().is_empty()
    }

    /// Whether only somebody's call brings it into that state.
    fn is_stuck(&self, wanted: &str) -> bool {
        !self.reconciling() && self.state_name() != wanted
    }
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
    let mut is_away = false;
    loop {
        let Some(found) = patiently(session, look().await, &mut is_away)? else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
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
            if session.output == Output::Yaml {
                writeln!(io::stdout(), "---")?;
            }
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

/// The answer of a look; none while the server is away, which is said once.
pub(super) fn patiently<T>(
    session: &Session,
    looked: Result<T, Failure>,
    is_away: &mut bool,
) -> Result<Option<T>, Failure> {
    match looked {
        Err(failure) if failure.is_unavailable() => {
            if !*is_away {
                session.hint("the server is away; it is asked again");
            }
            *is_away = true;
            Ok(None)
        }
        looked => {
            *is_away = false;
            looked.map(Some)
        }
    }
}

/// Waits until a resource is in that state; `None` is what a look finds when it is gone.
pub(super) async fn until<M: Named, F>(
    session: &Session,
    wanted: &str,
    timeout: Option<Duration>,
    look: impl Fn() -> F,
) -> Result<Option<M>, Failure>
where
    F: Future<Output = Result<Option<M>, Failure>>,
{
    let mut last = None;
    let waiting = reached(session, wanted, look, &mut last);
    let Some(timeout) = timeout else {
        return waiting.await;
    };
    match tokio::time::timeout(timeout.max(SHORTEST), waiting).await {
        Ok(found) => found,
        // Also when the server does not answer.
        Err(_) => Err(too_late(last.as_ref(), wanted)),
    }
}

async fn reached<M: Named, F>(
    session: &Session,
    wanted: &str,
    look: impl Fn() -> F,
    last: &mut Option<M>,
) -> Result<Option<M>, Failure>
where
    F: Future<Output = Result<Option<M>, Failure>>,
{
    let mut is_away = false;
    loop {
        if let Some(found) = patiently(session, look().await, &mut is_away)? {
            match &found {
                Some(resource) if resource.is_stuck(wanted) => return Err(stuck(resource, wanted)),
                Some(resource) if !resource.is(wanted) => *last = found,
                _ => return Ok(found),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn stuck(resource: &impl Named, wanted: &str) -> Failure {
    let (name, state) = (resource.name(), resource.state_name());
    let message = format!("{name} is {state} and nothing is under way that would make it {wanted}");
    noted(Failure::new(Exit::Precondition, message), resource)
}

fn too_late(resource: Option<&impl Named>, wanted: &str) -> Failure {
    let Some(resource) = resource else {
        let message = "the time is over, and the server has not answered";
        return Failure::new(Exit::TimeOver, message);
    };
    let (name, state) = (resource.name(), resource.state_name());
    let message = match state == wanted {
        true => format!("the time is over: {name} is {state}, but cannot be used yet"),
        false => format!("the time is over: {name} is {state}, not {wanted}"),
    };
    noted(Failure::new(Exit::TimeOver, message), resource)
}

fn noted(failure: Failure, resource: &impl Named) -> Failure {
    match resource.trouble() {
        trouble if trouble.is_empty() => failure,
        trouble => failure.note(trouble),
    }
}
