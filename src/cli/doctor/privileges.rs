//! Checks the user of Howdah, and the user that its servers shall run as.

use std::{fs, process::Command};

use super::places;
use crate::config::{Config, Finding, Surroundings};

pub(super) fn check(config: &Config, surroundings: &Surroundings) -> Vec<Finding> {
    if !surroundings.root {
        let message = format!("user {}; servers run as the same", surroundings.user);
        return vec![Finding::ok("user", message)];
    }
    vec![open_as_root(config), run_as(config), passable(config)]
}

fn open_as_root(config: &Config) -> Finding {
    let check = "authentication";
    if !config.lets_anybody_in() {
        return Finding::ok(check, "callers are known");
    }
    Finding::warn(
        check,
        "root serves without authentication: every user of this machine may do what \
         Howdah may",
        "run it as another user, set --listen unix:PATH, or set \
         tls.client_certificates = \"required\"",
    )
}

fn run_as(config: &Config) -> Finding {
    let (check, user) = ("run-as user", config.local.run_as.as_str());
    if exists(user) {
        return Finding::ok(check, format!("{user} exists"));
    }
    Finding::fail(
        check,
        format!("there is no user {user}, and PostgreSQL refuses to run as root"),
        format!("sudo useradd --system {user}, or set --local-run-as"),
    )
}

/// Whether a user exists, in `/etc/passwd` or in a directory service.
fn exists(user: &str) -> bool {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let local = passwd
        .lines()
        .any(|line| line.split(':').next() == Some(user));
    local
        || Command::new("getent")
            .args(["passwd", "--", user])
            .output()
            .is_ok_and(|output| output.status.success())
}

fn passable(config: &Config) -> Finding {
    let check = "way to the data";
    let mut closed = places::closed(&config.local.root);
    closed.extend(places::closed(&config.local.run_directory));
    closed.dedup();
    if closed.is_empty() {
        return Finding::ok(check, "servers can pass it");
    }
    let list: Vec<String> = closed
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let list = list.join(" ");
    Finding::warn(
        check,
        format!("{} may not be passable for {}", list, config.local.run_as),
        format!("sudo chmod o+x {list}, or set --data-dir"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found() {
        assert!(exists("root"));
        assert!(!exists("no-such-user-here"));
    }
}
