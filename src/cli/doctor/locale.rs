//! Checks the locale of the environment, which a new server takes over.

use std::process::Command;

use crate::config::{Finding, Surroundings};

/// Checks that the environment's locale is installed, because `initdb` fails otherwise. None if
/// the machine cannot list its locales.
pub(super) fn check(surroundings: &Surroundings) -> Option<Finding> {
    let wanted = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| surroundings.variables.get(*name))
        .find(|value| !value.is_empty());
    let Some(wanted) = wanted else {
        return Some(Finding::ok("locale", "none is set: C"));
    };
    let output = Command::new("locale").arg("-a").output().ok()?;
    let installed = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(judge(wanted, &installed))
}

fn judge(wanted: &str, installed: &str) -> Finding {
    let known = installed.lines().any(|line| same(line) == same(wanted));
    if known || wanted == "C" || wanted == "POSIX" {
        return Finding::ok("locale", format!("{wanted} is installed"));
    }
    Finding::warn(
        "locale",
        format!("{wanted} is set in the environment but not installed"),
        format!(
            "sudo localedef -i {} -f UTF-8 {wanted}, or LC_ALL=C.UTF-8",
            language(wanted)
        ),
    )
}

/// The language of a locale: `de_DE` for `de_DE.UTF-8`.
fn language(locale: &str) -> &str {
    locale.split(['.', '@']).next().unwrap_or(locale)
}

/// Normalises a locale: systems list `de_DE.utf8` and users set `de_DE.UTF-8`.
fn same(locale: &str) -> String {
    locale.to_lowercase().replace('-', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::finding::Status;

    #[test]
    fn spelling_does_not_matter() {
        let installed = "C\nC.utf8\nPOSIX\nde_DE.utf8\n";
        assert_eq!(judge("de_DE.UTF-8", installed).status, Status::Ok);
        assert_eq!(judge("C", "").status, Status::Ok);
        let lacking = judge("fr_FR.UTF-8", installed);
        assert_eq!(lacking.status, Status::Warn);
        assert!(lacking.remedy.contains("-i fr_FR "));
    }
}
