//! Polling for `--watch` and `wait`.

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

/// Pause between two polls.
const PAUSE: Duration = Duration::from_secs(1);

/// Least time for one poll, even if the wait is shorter.
const SHORTEST: Duration = Duration::from_secs(2);

/// A message with a resource name.
pub(super) trait Named: Message + Clone + PartialEq {
    /// Full name of the message's type.
    const TYPE: &'static str;

    /// Resource name.
    fn name(&self) -> &str;

    /// State, as named by the API.
    fn state_name(&self) -> &'static str;

    /// Whether it is being created, changed or deleted.
    fn reconciling(&self) -> bool;

    /// What is wrong with it, for people; empty if nothing is.
    fn trouble(&self) -> String;

    /// Whether it is in that state without any trouble.
    fn is(&self, wanted: &str) -> bool {
        self.state_name() == wanted && !self.reconciling() && self.trouble().is_empty()
    }

    /// Whether it will not reach that state without another call.
    fn is_stuck(&self, wanted: &str) -> bool {
        !self.reconciling() && self.state_name() != wanted
    }
}

/// Prints what `look` finds, and prints each resource again when it has changed, until Ctrl-C.
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

/// The result of a poll; none while the server is unavailable, which is reported once.
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

/// Waits until a resource is in that state. `None` means that a poll has not found it.
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
        // Needed when the server does not answer.
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
