//! What the README says to type is there to be typed.

use std::process::Command;

use howdah::pb::DESCRIPTORS;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde_json::Deserializer;

use super::{root, text};

#[test]
fn its_calls_are_requests_of_methods_that_are_served() {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let readme = text(&root().join("README.md"));
    let calls: Vec<&str> = readme
        .lines()
        .filter(|line| line.starts_with("grpcurl "))
        .collect();
    let requests: Vec<&str> = calls
        .iter()
        .copied()
        .filter(|line| line.contains(" -d "))
        .collect();
    assert!(
        calls.iter().any(|line| line.ends_with(" list")),
        "it begins with the list"
    );
    assert!(
        requests.len() >= 7,
        "the tour has lost a step: {requests:#?}"
    );
    for call in requests {
        let (_, rest) = call.split_once(" -d '").unwrap();
        let (json, rest) = rest.split_once("' ").unwrap();
        let method = method(&pool, rest.split(' ').next_back().unwrap());
        let mut json = Deserializer::from_str(json);
        DynamicMessage::deserialize(method.input(), &mut json)
            .unwrap_or_else(|error| panic!("{call}: {error}"));
    }
}

#[test]
fn its_commands_can_be_typed() {
    let readme = text(&root().join("README.md"));
    let mut seen = 0;
    for line in readme.lines() {
        // As a line, or inside one: "$(howdah ...)".
        let inner = line
            .split_once("$(howdah ")
            .and_then(|(_, rest)| rest.split_once(')'));
        let Some(words) = line
            .strip_prefix("howdah ")
            .or(inner.map(|(words, _)| words))
        else {
            continue;
        };
        let run = Command::new(env!("CARGO_BIN_EXE_howdah"))
            .args(words.split(' '))
            .args(["--endpoint", "unix:/nowhere"])
            .output()
            .unwrap();
        // Understood, and nobody there.
        assert_eq!(run.status.code(), Some(6), "{line}: {run:?}");
        seen += 1;
    }
    assert!(seen >= 5, "the README has lost its commands");
    assert!(readme.contains("\nexport PATH=\"$PWD/target/quick:$PATH\"\n"));
}

#[test]
fn its_targets_are_in_the_makefile() {
    let makefile = text(&root().join("Makefile"));
    let readme = text(&root().join("README.md"));
    let mut seen = 0;
    for line in readme.lines().filter_map(|line| line.strip_prefix("make ")) {
        let target = line.split(' ').next().unwrap();
        let rule = format!("\n{target}:");
        assert!(makefile.contains(&rule), "there is no `make {target}`");
        seen += 1;
    }
    assert!(seen >= 5, "the README has lost its targets");
}

fn method(pool: &DescriptorPool, name: &str) -> MethodDescriptor {
    let (service, method) = name.split_once('/').unwrap();
    let service = pool.get_service_by_name(service);
    let service = service.unwrap_or_else(|| panic!("{name}: no such service"));
    let mut methods = service.methods();
    methods
        .find(|found| found.name() == method)
        .unwrap_or_else(|| panic!("{name}: no such method"))
}
