//! What the help, the descriptions of the API and the documents say alike.

use super::program::run;

/// A text without its line breaks and the marks of comments.
fn flowing(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| *word != "//");
    words.collect::<Vec<_>>().join(" ")
}

/// The comment above a line of a proto.
fn comment_of(proto: &str, line: &str) -> String {
    let (before, _) = proto.split_once(line).unwrap();
    let comment = before
        .lines()
        .rev()
        .skip_while(|line| line.trim().is_empty());
    let mut comment: Vec<&str> = comment
        .take_while(|line| line.trim().starts_with("//"))
        .collect();
    comment.reverse();
    flowing(&comment.join("\n"))
}

#[test]
fn what_a_forced_deletion_of_a_database_takes_is_said_everywhere() {
    let help = flowing(&run(&["databases", "delete", "--help"]).stdout);
    let proto = include_str!("../../proto/howdah/v1/database_service.proto");
    let (_, request) = proto.split_once("message DeleteDatabaseRequest").unwrap();
    let field = comment_of(request, "  bool force = 3");
    let page = flowing(include_str!("../../docs/servers.md"));
    for told in [&help, &field, &page] {
        for part in [
            "other databases",
            "DROP OWNED",
            "sessions",
            "prepared transactions",
        ] {
            assert!(told.contains(part), "{part} is not in: {told}");
        }
        assert!(told.contains("replication slots"), "{told}");
    }
    let method = comment_of(proto, "  rpc DeleteDatabase(");
    for told in [&help, &method, &page] {
        for reason in ["ROLE_IN_USE", "DATABASE_IN_USE"] {
            assert!(told.contains(reason), "{reason} is not in: {told}");
        }
    }
    assert!(
        method.contains("other databases is dropped too"),
        "{method}"
    );
}
