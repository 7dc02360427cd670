//! Text that others wrote, for lines that people read: whatever a caller has put into a
//! name, an event stays one line, and nothing in it steers the terminal.

use tracing_subscriber::{
    field::MakeExt as _,
    fmt::{FormatFields, format},
};

/// Writes fields with what cannot be seen escaped.
pub(super) fn escaped() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    let fields = format::debug_fn(|writer, field, value| {
        let text = harmless(format!("{value:?}"));
        match field.name() {
            "message" => writer.write_str(&text),
            name => write!(writer, "{}={text}", name.trim_start_matches("r#")),
        }
    });
    fields.delimited(" ")
}

/// The text with everything escaped that ends a line, steers a terminal, or changes the
/// order in which the rest is shown.
#[must_use]
pub fn harmless(text: String) -> String {
    if !text.contains(is_harmful) {
        return text;
    }
    let mut written = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match is_harmful(char) {
            true => written.extend(char.escape_default()),
            false => written.push(char),
        }
    }
    written
}

fn is_harmful(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
