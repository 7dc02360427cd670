//! Failpoints: named points in the code where a test can kill the process, like a crash.
//!
//! Without the feature `failpoints` they compile to nothing. A test sets
//! `FAILPOINTS="name=return"` in the environment of the process, or `name=panic` for a panic.
//! Some pauses can be shortened in the same way.

use std::time::Duration;

/// Keeps the failpoints of `FAILPOINTS` active until it is dropped.
#[cfg(feature = "failpoints")]
#[derive(Debug)]
pub struct Armed(#[expect(dead_code, reason = "held")] fail::FailScenario<'static>);

/// Does nothing: failpoints are compiled out.
#[cfg(not(feature = "failpoints"))]
#[derive(Debug)]
pub struct Armed;

/// Activates the failpoints that `FAILPOINTS` names, until the returned value is dropped.
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

/// Kills the process at once, like SIGKILL, if the failpoint `name` is set to `return`. Panics
/// if it is set to `panic`.
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

/// Whether to treat an answer as lost although it has arrived. `name=1*return` does that once.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn loses(name: &str) -> bool {
    fail::eval(name, |_| ()).is_some()
}

/// Always false: failpoints are compiled out.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn loses(_name: &str) -> bool {
    false
}

/// The pause `usual`, or the milliseconds that `name=return(500)` sets.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn pause(name: &str, usual: Duration) -> Duration {
    let armed = fail::eval(name, |value| value.and_then(|text| text.parse().ok()));
    armed.flatten().map_or(usual, Duration::from_millis)
}

/// Always `usual`: failpoints are compiled out.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn pause(_name: &str, usual: Duration) -> Duration {
    usual
}
