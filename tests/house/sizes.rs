//! Files that one can read: 600 lines are the end.

use super::{files, root, text};

const MOST_LINES: usize = 600;

#[test]
fn no_file_is_longer_than_one_can_read() {
    let directories = ["src", "tests", "benches", "fuzz/fuzz_targets"];
    let rust = directories
        .iter()
        .flat_map(|directory| files(directory, "rs"));
    let scripts = ["tools", "tests/python", "tests/drivers"]
        .iter()
        .flat_map(|directory| [files(directory, "sh"), files(directory, "py")].concat());
    let long: Vec<String> = rust
        .chain(scripts)
        .chain([root().join("build.rs")])
        .map(|path| (text(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > MOST_LINES)
        .map(|(lines, path)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(
        long.is_empty(),
        "over {MOST_LINES} lines:\n{}",
        long.join("\n")
    );
}
