//! What is printed on stdout: tables for people, JSON for scripts.

pub(super) mod json;
mod sheet;

pub(super) use self::sheet::{Sheet, time, yes};

/// Text for a terminal: control characters, which could move the cursor or start an
/// escape sequence, are written as escapes.
pub(super) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            cleaned.extend(character.escape_default());
        } else {
            cleaned.push(character);
        }
    }
    cleaned
}
