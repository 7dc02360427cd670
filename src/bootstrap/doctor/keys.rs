//! Checks the keys that secrets are sealed with, and whether a rotation is complete.

use sqlx::PgConnection;

use crate::{
    bootstrap::keys,
    config::{Config, Finding},
    store::sealing::{KeyUse, Keyring, key_uses},
};

pub(super) const CHECK: &str = "secret keys";

/// Compares the keys that the metadata needs with the configured keys.
pub(super) async fn check(config: &Config, metadata: &mut PgConnection) -> Finding {
    let compared = match keys::present(config) {
        Ok(given) => key_uses(metadata).await.map(|uses| compare(&uses, &given)),
        Err(error) => Err(error),
    };
    compared.unwrap_or_else(|error| {
        Finding::warn(CHECK, error.message(), "look at the metadata database")
    })
}

fn compare(uses: &[KeyUse], given: &Keyring) -> Finding {
    let Some((newest, former)) = uses.split_first() else {
        return Finding::ok(CHECK, "no process has served with this metadata database");
    };
    // The next start, or a process that serves, deletes the records of the others.
    let needed: Vec<&KeyUse> = former
        .iter()
        .filter(|key| key.values > 0 || !key.idle)
        .collect();
    let all = std::iter::once(newest).chain(needed.iter().copied());
    let lacking: Vec<&str> = all
        .map(|key| key.id.as_str())
        .filter(|id| !given.holds(id))
        .collect();
    if !lacking.is_empty() {
        return Finding::fail(
            CHECK,
            format!("not given, but needed: {}", lacking.join(", ")),
            "give them in HOWDAH_SECRET_KEY or HOWDAH_SECRET_KEY_PREVIOUS",
        );
    }
    let KeyUse { id, values, .. } = newest;
    if needed.is_empty() {
        let message = format!("{values} secrets are sealed with {id}, none with another key");
        return Finding::ok(CHECK, message);
    }
    let needed: Vec<String> = needed.into_iter().map(describe).collect();
    Finding::warn(
        CHECK,
        format!(
            "{values} secrets are sealed with {id}; still needed: {}",
            needed.join(", ")
        ),
        "keep HOWDAH_SECRET_KEY_PREVIOUS until no other key is needed; processes whose \
         first key is the newest re-seal",
    )
}

fn describe(key: &KeyUse) -> String {
    let KeyUse { id, values, idle } = key;
    let used = if *idle { "" } else { ", in use by a process" };
    format!("{id} ({values} secrets{used})")
}

#[cfg(test)]
mod tests {
    use secrecy::SecretSlice;

    use super::*;
    use crate::config::finding::Status;

    fn given() -> Keyring {
        let keys = [1, 2].map(|byte: u8| SecretSlice::from(vec![byte; 32]));
        Keyring::new(&keys).unwrap()
    }

    fn used(id: &str, values: i64, idle: bool) -> KeyUse {
        let id = id.to_owned();
        KeyUse { id, values, idle }
    }

    #[test]
    fn a_rotation_is_finished_when_no_other_key_is_needed() {
        let given = given();
        let ids = given.ids();
        let status = |uses: &[KeyUse]| compare(uses, &given).status;
        let newest = used(&ids[0], 3, false);
        assert_eq!(status(&[]), Status::Ok);
        assert_eq!(status(std::slice::from_ref(&newest)), Status::Ok);
        for (former, expected) in [
            (used(&ids[1], 1, true), Status::Warn),
            (used(&ids[1], 0, false), Status::Warn),
            (used(&ids[1], 0, true), Status::Ok),
            (used("other", 1, true), Status::Fail),
            (used("other", 0, false), Status::Fail),
            (used("other", 0, true), Status::Ok),
        ] {
            assert_eq!(
                status(&[newest.clone(), former.clone()]),
                expected,
                "{former:?}"
            );
        }
        assert_eq!(status(&[used("other", 0, true)]), Status::Fail);
    }
}
