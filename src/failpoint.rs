//! Named points at which a test can kill the process, as a crash would.
//!
//! Compiled to nothing without the feature `failpoints`. A test sets
//! `FAILPOINTS="name=return"` in the environment of the process, or `name=panic` for a
//! panic. A pause between two looks can be shortened, so that a test need not wait for it.

use std::time::Duration;

/// Keeps the points armed that `FAILPOINTS` names.
#[cfg(feature = "failpoints")]
#[derive(Debug)]
pub struct Armed(#[expect(dead_code, reason = "held")] fail::FailScenario<'static>);

/// Keeps nothing: failpoints are compiled out.
#[cfg(not(feature = "failpoints"))]
#[derive(Debug)]
pub struct Armed;

/// Arms the points that `FAILPOINTS` names, for as long as the answer is held.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn arm() -> Armed {
    Armed(fail::FailScenario::setup())
}

/// Does nothing: failpoints are compiled out.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn arm() -> Armed {
    Armed
}

/// Kills the process at once, as SIGKILL does, when the point `name` is armed with `return`;
/// panics when it is armed with `panic`.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    fail::eval(name, |_| {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
}

/// Does nothing: failpoints are compiled out.
#[cfg(not(feature = "failpoints"))]
pub const fn hit(_name: &str) {}

/// Whether an answer that has arrived is to be taken for lost, as `name=1*return` says of the
/// first one.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn loses(name: &str) -> bool {
    fail::eval(name, |_| ()).is_some()
}

/// False: failpoints are compiled out.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn loses(_name: &str) -> bool {
    false
}

/// The pause `usual`, or as many milliseconds as `name=return(500)` says.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn pause(name: &str, usual: Duration) -> Duration {
    let armed = fail::eval(name, |value| value.and_then(|text| text.parse().ok()));
    armed.flatten().map_or(usual, Duration::from_millis)
}

/// The pause `usual`: failpoints are compiled out.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn pause(_name: &str, usual: Duration) -> Duration {
    usual
}
